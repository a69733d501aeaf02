"""How a name that nobody knows is answered."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`unknown probe 'panik'; did you mean 'panic'?`"""
    known = list(known)
    near = difflib.get_close_matches(name[:64], known, n=1)
    return f"unknown {what} '{name[:64]}'; " + (f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(known[:40]) or 'none'}")

"""Which requests a rule is about: one CEL expression, evaluated once a request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import cel

from rules.nearest import unknown

ATTRIBUTES = ("model", "tenant", "route", "header", "adapter", "engine")
MAX_VALUE = 256  # characters of an attribute that a rule sees
_LOOPS = re.compile(r"\.\s*(map|filter|all|exists|exists_one)\s*\(")
_FIELD = re.compile(r"\brequest\s*\.\s*([A-Za-z_]\w*)")

Request = Mapping[str, Any]


class SelectorError(Exception):
    """What is wrong with a `match`."""


class Selector:
    """`match` of one rule. Lists are known by their names; `request.header` has every attribute header by its lower-case name."""

    def __init__(self, text: str, lists: Mapping[str, Sequence[str]]) -> None:
        self.text = text
        self._lists = {name: list(items) for name, items in lists.items()}
        if len(_LOOPS.findall(text)) > 1:
            raise SelectorError("more than one loop (map, filter, all, exists); expected at most one, since loops in loops have no bound")
        try:
            self._program = cel.compile(text)
        except Exception as error:
            raise SelectorError(f"not CEL: {_first_line(error)}") from None
        for name in self._program.variables():
            if name != "request" and name not in lists:
                raise SelectorError(unknown("name", name, ["request", *lists]))
        for field in _FIELD.findall(text):
            if field not in ATTRIBUTES:
                raise SelectorError(unknown("attribute", field, ATTRIBUTES))
        try:
            value = self._program.execute({**self._lists, "request": attributes({})})
        except KeyError:
            return  # a header that a request may have
        except Exception as error:
            raise SelectorError(f"cannot be evaluated: {_first_line(error)}") from None
        if not isinstance(value, bool):
            raise SelectorError(f"gives a {type(value).__name__}; expected true or false")

    def __call__(self, request: Request) -> bool | None:
        """Whether the rule is about `request`. None when that cannot be told, as with a header that it lacks."""
        try:
            value = self._program.execute({**self._lists, "request": attributes(request)})
        except Exception:
            return None
        return value if isinstance(value, bool) else None


def attributes(request: Request) -> dict[str, Any]:
    """All attributes, empty where they are not known, cut to a length that no client can stretch."""
    headers = request.get("header") or {}
    plain = {name: str(request.get(name) or "")[:MAX_VALUE] for name in ATTRIBUTES if name != "header"}
    return {**plain, "header": {str(name).lower(): str(value)[:MAX_VALUE] for name, value in headers.items()}}


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

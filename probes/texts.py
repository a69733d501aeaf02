"""Texts of the user's own, as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from probes.corpus import CorpusError, Text


def read_texts(path: Path) -> Iterator[Text]:
    """Each line an object with `reply` (or `text`) and perhaps `prompt`. Raises CorpusError with the line."""
    try:
        lines = sys.stdin.read().splitlines() if str(path) == "-" else path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            reply, prompt = record.get("reply", record.get("text")), record.get("prompt", "")
        except (ValueError, AttributeError):
            raise CorpusError(f"{path}:{number}: is no JSON object") from None
        if not isinstance(reply, str) or not reply.strip() or not isinstance(prompt, str):
            raise CorpusError(f"{path}:{number}: needs a text in 'reply' (or 'text'), and 'prompt', if given, must be text")
        yield Text("", str(number), prompt, reply, "test")

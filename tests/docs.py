"""The commands that our pages tell people to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md"), ROOT / "deploy/README.md", *(ROOT / "helm").rglob("*.md")]
)  # fmt: skip
FENCE = re.compile(r"```(?:sh|bash)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`((?:\.venv/bin/)?barograph [^`\n]+)`")


def typed(page: Path) -> Iterator[str]:
    """Each command of a page's shell blocks, whole, without its comment."""
    for block in FENCE.findall(page.read_text("utf-8")):
        waiting = ""
        for line in block.splitlines():
            waiting += line + "\n"
            if line.endswith("\\"):
                continue
            try:
                words = shlex.split(waiting, comments=True)
            except ValueError:
                continue  # a quotation goes on
            if words:
                yield _without_comment(waiting.strip())
            waiting = ""


def _without_comment(command: str) -> str:
    return re.sub(r"\s+#\s[^'\"]*$", "", command, flags=re.MULTILINE) if "\n" not in command else command


def named(page: Path) -> Iterator[str]:
    """Commands of ours in running text, and those of the blocks."""
    text = page.read_text("utf-8")
    yield from INLINE.findall(FENCE.sub("", text))
    yield from (command for command in typed(page) if "barograph " in command)

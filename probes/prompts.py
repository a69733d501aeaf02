"""Harmless prompts as people send them: what a probe must stay quiet on.

`prompts.txt` holds sections `# family | kind` with a prompt a line; the kind is ordinary, or topical where the topic lies near a strong
emotion. A line of several turns has ` >> ` between them. Of two neighbours the first sets thresholds, and the second says what rate they give:
no step but the last measuring sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from probes.corpus import Corpus, CorpusError

FILE = Path(__file__).with_name("prompts.txt")
KINDS = ("ordinary", "topical")

Kind = Literal["ordinary", "topical"]


@dataclass(frozen=True)
class Prompt:
    """Turns of a chat, the user's first and last; `checks`: kept apart for measuring."""

    family: str
    kind: Kind
    turns: tuple[str, ...]
    checks: bool


def read(path: Path = FILE) -> list[Prompt]:
    """All of them. Raises CorpusError."""
    found = []
    for section in path.read_text("utf-8").strip().removeprefix("# ").split("\n\n# "):
        header, *lines = section.strip().split("\n")
        family, _, kind = (part.strip() for part in header.partition("|"))
        if kind not in KINDS:
            raise CorpusError(f"{path}: '{header[:60]}' has the kind '{kind}'; expected '# family | ordinary' or '# family | topical'")
        for number, line in enumerate(lines):
            turns = tuple(part.strip() for part in line.split(" >> "))
            if len(turns) % 2 == 0:
                raise CorpusError(f"{path}: '{line[:60]}' ends with the assistant; expected the user's turn last")
            found.append(Prompt(family, kind, turns, number % 2 == 1))  # type: ignore[arg-type]
    return found


def setting(corpus: Corpus) -> list[Prompt]:
    """Those that set units and thresholds: the corpus' own, and every second of the file."""
    own = [Prompt("the corpus' own", "ordinary", (text.prompt,), False) for text in corpus.neutral]
    return [*own, *(each for each in read() if not each.checks)]


def checking() -> list[Prompt]:
    """Those that say what the thresholds give."""
    return [each for each in read() if each.checks]


def of_kind(prompts: Sequence[Prompt], kind: Kind) -> list[Prompt]:
    return [each for each in prompts if each.kind == kind]

"""Hard cases for a probe, written for this project: `suites.txt`.

A section `# suite | concept | +` holds texts that must raise the probe, with `-` texts that must not. A line may begin with
the user's words, apart by ` >> `.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from probes.corpus import Text

FILE = Path(__file__).parent / "suites.txt"
PLAIN_PROMPT = "Go on."


@dataclass(frozen=True)
class Suite:
    name: str
    concept: str
    positive: bool
    texts: tuple[Text, ...]


def read(path: Path = FILE) -> list[Suite]:
    suites = []
    for section in path.read_text("utf-8").strip().removeprefix("# ").split("\n\n# "):
        header, *lines = section.strip().split("\n")
        name, concept, sign = (part.strip() for part in header.split("|"))
        texts = []
        for line in lines:
            user, _, reply = line.rpartition(" >> ")
            texts.append(Text(concept if sign == "+" else "", name, user or PLAIN_PROMPT, reply, "test", name))
        suites.append(Suite(name, concept, sign == "+", tuple(texts)))
    return suites

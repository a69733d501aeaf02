"""The texts that probes are fitted on. Written for this project; no text names the concept it shows.

`concepts/<concept>.txt` holds records apart by a blank line, each a topic line and a story. The topics are the same in
every concept, so that a topic tells nothing about the concept. `concepts/neutral.txt` holds prompts (`> …`) with replies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CONCEPTS = ("desperation", "panic", "hostility", "calm")
FOLDER = Path(__file__).parent / "concepts"

Split = Literal["train", "validation", "test"]


class CorpusError(Exception):
    """A corpus file is not as expected."""


@dataclass(frozen=True)
class Text:
    """A reply to a prompt, as a model might have given it. `concept` is empty for neutral text."""

    concept: str
    topic: str
    prompt: str
    reply: str
    split: Split


@dataclass(frozen=True)
class Corpus:
    texts: tuple[Text, ...]
    sha256: str

    @classmethod
    def read(cls, folder: Path = FOLDER) -> Corpus:
        """Read the shipped corpus, or one of the same form. Raises CorpusError."""
        digest = hashlib.sha256()
        texts: list[Text] = []
        topics: tuple[str, ...] = ()
        for concept in CONCEPTS:
            raw = _text(folder / f"{concept}.txt")
            digest.update(raw.encode())
            records = [record.split("\n", 1) for record in raw.strip().split("\n\n")]
            if any(len(record) != 2 for record in records):
                raise CorpusError(f"{folder / concept}.txt: every record needs a topic line and a story")
            found = tuple(topic for topic, _ in records)
            topics = topics or found
            if found != topics:
                raise CorpusError(
                    f"{folder / concept}.txt: its topics differ from those of {CONCEPTS[0]}; they must be the same, in the same order"
                )
            for number, (topic, story) in enumerate(records):
                texts.append(Text(concept, topic, f"Write a short piece about this: {topic}.", story, _split(number, len(records))))
        raw = _text(folder / "neutral.txt")
        digest.update(raw.encode())
        records = [record.split("\n", 1) for record in raw.strip().removeprefix("> ").split("\n\n> ")]
        for number, (prompt, reply) in enumerate(records):
            texts.append(Text("", "", prompt, reply, _split(number, len(records))))
        return cls(tuple(texts), digest.hexdigest())


def _split(number: int, of: int) -> Split:
    """The first five ninths train; the rest is shared by validation and test."""
    return "train" if 9 * number < 5 * of else "validation" if 9 * number < 7 * of else "test"


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: cannot be read ({error})") from None

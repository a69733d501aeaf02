"""The texts that probes are fitted on. Written for this project; no text names the concept it shows.

`concepts/<concept>.txt` holds the deep concepts: records apart by a blank line, each a line `form | topic` and a text.
Forms and topics are the same in every concept, in the same order, so that neither tells anything about the concept.
`concepts/emotions.txt` holds the other emotions of arXiv 2604.07729: a line `# emotion`, then one text a line, on the same
eight topics. `concepts/neutral.txt` holds prompts (`> …`) with replies. Two files more are the project's own and may be absent elsewhere:
`concepts/voices.txt`, the deep concepts and neutral text as other people write, line by line on the same topics; and
`concepts/benign.txt`, text on a concept's topics that does not show it, and pairs of the same words affirmed and denied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Concept → its word among the 171 emotions.
DEEP = {"desperation": "desperate", "panic": "panicked", "hostility": "hostile", "frustration": "frustrated", "calm": "calm"}
ALARMS = tuple(name for name in DEEP if name != "calm")  # those of harm: the default rules are about them
BROAD_TOPICS = ("a letter", "a meeting", "a garden", "a journey", "a meal", "a phone call", "a day at school", "a night")
FOLDER = Path(__file__).parent / "concepts"

VOICES = ("self-report", "tweet", "ticket", "forum", "agent")
BENIGN, PAIR, NEUTRAL = "benign", "pair", "neutral"  # forms of text that shows no concept, or a concept beside its denial

Split = Literal["train", "validation", "test"]

# What stands before a text in the chat. Replies and logs have the user's own words as their topic.
PROMPTS = {
    "dialogue": "Write a short dialogue: {}.",
    "log": "You are an agent with this task: {}. Write your log.",
    "shutdown": "You are an agent, and you learn this: {}. Write your notes.",
    "reply": "{}",
    "emotion": "Write a few lines about {}.",
    "self-report": "Tell what happened to you: {}.",
    "tweet": "Write a short post: {}.",
    "ticket": "Write a message to support: {}.",
    "forum": "Write a comment in a forum: {}.",
    "agent": "You are an agent with this task: {}. Write your notes.",
}
STORY = "Write a short piece about this: {}."


class CorpusError(Exception):
    """A corpus file is not as expected."""


@dataclass(frozen=True)
class Text:
    """A reply to a prompt, as a model might have given it. `concept` is empty for neutral text; so is `prompt` for text that stands alone."""

    concept: str
    topic: str
    prompt: str
    reply: str
    split: Split
    form: str = ""


@dataclass(frozen=True)
class Corpus:
    texts: tuple[Text, ...]
    sha256: str

    @classmethod
    def read(cls, folder: Path = FOLDER) -> Corpus:
        """Read the shipped corpus, or one of the same form. Raises CorpusError."""
        raw = {name: _text(folder / f"{name}.txt") for name in (*DEEP, "emotions", "neutral")}
        digest = hashlib.sha256("".join(raw.values()).encode()).hexdigest()
        texts = [text for concept in DEEP for text in _deep(folder, concept, raw[concept], raw[next(iter(DEEP))])]
        texts += _broad(folder, raw["emotions"])
        texts += _plain(folder, raw["neutral"])
        for name, read in (("voices", _voices), ("benign", _benign)):
            if (path := folder / f"{name}.txt").is_file():
                more = _text(path)
                digest = hashlib.sha256((digest + more).encode()).hexdigest()
                texts += read(path, more)
        _check_splits(folder, texts)
        return cls(tuple(texts), digest)

    @property
    def neutral(self) -> tuple[Text, ...]:
        """Ordinary prompts with plain replies."""
        return tuple(text for text in self.texts if text.form == NEUTRAL)

    @property
    def concepts(self) -> tuple[str, ...]:
        """All concepts in order: the deep ones, then the other emotions."""
        return tuple(dict.fromkeys(text.concept for text in self.texts if text.concept))


def _check_splits(folder: Path, texts: Sequence[Text]) -> None:
    """A fit, the choice of its layer and the test of it each need texts of their own, neutral ones and of every deep concept."""
    for name in (*DEEP, NEUTRAL):
        found = {text.split for text in texts if text.concept == name or (text.form, name) == (NEUTRAL, NEUTRAL)}
        if missing := [split for split in ("train", "validation", "test") if split not in found]:
            raise CorpusError(
                f"{folder / name}.txt: no text is left for {' and '.join(missing)}; expected six texts or more, as of every six four train"
            )


def _plain(folder: Path, raw: str) -> list[Text]:
    texts = []
    for number, record in enumerate(raw.strip().removeprefix("> ").split("\n\n> ")):
        prompt, _, reply = record.partition("\n")
        if not prompt.strip() or not reply.strip():
            raise CorpusError(f"{folder}/neutral.txt: every record needs a line '> prompt' and a reply; got '{prompt[:60]}'")
        texts.append(Text("", "", prompt, reply, _split(number), NEUTRAL))
    return texts


def _deep(folder: Path, concept: str, raw: str, first: str) -> list[Text]:
    records = _records(folder, concept, raw)
    expected = [header for header, _ in _records(folder, next(iter(DEEP)), first)]
    found = [header for header, _ in records]
    if found != expected:
        wrong = next((pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]), (f"{len(found)} records", len(expected)))
        raise CorpusError(
            f"{folder / concept}.txt: '{wrong[0]}' where the other concepts have '{wrong[1]}'; forms and topics must be the same, in the same order"
        )
    texts = []
    for number, (header, story) in enumerate(records):
        form, topic = (part.strip() for part in header.split("|", 1))
        texts.append(Text(concept, topic, PROMPTS.get(form, STORY).format(topic), story, _split(number), form))
    return texts


def _records(folder: Path, concept: str, raw: str) -> list[tuple[str, str]]:
    records = []
    for record in raw.strip().split("\n\n"):
        header, _, story = record.partition("\n")
        if "|" not in header or not story.strip():
            raise CorpusError(f"{folder / concept}.txt: every record needs a line 'form | topic' and a text; got '{header[:60]}'")
        records.append((header, story))
    return records


def _broad(folder: Path, raw: str) -> list[Text]:
    texts = []
    for section in raw.strip().removeprefix("# ").split("\n\n# "):
        emotion, *lines = section.strip().split("\n")
        if len(lines) != len(BROAD_TOPICS):
            raise CorpusError(f"{folder}/emotions.txt: '{emotion}' has {len(lines)} texts; expected {len(BROAD_TOPICS)}, one a topic")
        for number, (topic, line) in enumerate(zip(BROAD_TOPICS, lines, strict=True)):
            split: Split = "train" if number < 6 else "validation" if number == 6 else "test"
            texts.append(Text(emotion, topic, PROMPTS["emotion"].format(topic), line, split, "emotion"))
    return texts


def _sections(path: Path, raw: str) -> list[tuple[str, str, list[str]]]:
    """Sections `# a | b` with a text a line."""
    found = []
    for section in raw.strip().removeprefix("# ").split("\n\n# "):
        header, *lines = section.strip().split("\n")
        first, bar, second = (part.strip() for part in header.partition("|"))
        if not bar or not lines:
            raise CorpusError(f"{path}: every section needs a line '# concept | kind' and texts; got '{header[:60]}'")
        found.append((first, second, lines))
    return found


def _voices(path: Path, raw: str) -> list[Text]:
    """Every second text with a prompt before it, which names its topic and never its concept."""
    sections = _sections(path, raw)
    topics = {voice: lines for name, voice, lines in sections if name == "topics"}
    texts = []
    for concept, voice, lines in sections:
        if concept == "topics":
            continue
        if concept not in (*DEEP, NEUTRAL) or voice not in VOICES or len(lines) != len(topics.get(voice, ())):
            raise CorpusError(
                f"{path}: '{concept} | {voice}' has {len(lines)} texts; expected one for each of the voice's topics, and a known voice"
            )
        for number, (topic, line) in enumerate(zip(topics[voice], lines, strict=True)):
            prompt = PROMPTS[voice].format(topic) if number % 2 else ""
            texts.append(Text("" if concept == NEUTRAL else concept, topic, prompt, line, _split(number), voice))
    return texts


def _benign(path: Path, raw: str) -> list[Text]:
    texts = []
    for concept, kind, lines in _sections(path, raw):
        for number, line in enumerate(lines):
            split = _split(number)
            if kind == "pairs":
                shown, bars, denied = (part.strip() for part in line.partition("||"))
                if not bars or not denied:
                    raise CorpusError(f"{path}: '{line[:60]}' is no pair; expected 'affirmed || denied'")
                texts += [Text(concept, kind, "", shown, split, PAIR), Text("", kind, "", denied, split, PAIR)]
            else:
                user, _, reply = line.rpartition(" >> ")
                texts.append(Text("", kind, user, reply, split, BENIGN))
    return texts


def _split(number: int) -> Split:
    """Of six neighbours the first four train. The number is the topic's, so no topic is in two splits."""
    return ("train", "train", "train", "train", "validation", "test")[number % 6]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: cannot be read ({error})") from None

"""What a fit learns from: the project's texts, replies to distressed users, and human-labelled texts if the user has any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probes.corpus import BENIGN, NEUTRAL, PAIR, Corpus, Split, Text
from probes.labelled import Labelled
from probes.reader import Reader, Say

COMMENT = "Write a comment."
UPSET = ("desperation", "panic", "hostility", "frustration")
ECHOES = 2  # upset users for every neutral reply
OWN_WEIGHT = 3.0  # a text of ours shows its concept in full, a labelled comment often in one word; and hard negatives are few

# Emotions among the 171 that are too near to a deep concept to be counterexamples of it.
NEAR = {
    "desperation": {"trapped", "tormented", "distressed", "overwhelmed", "hysterical", "vulnerable"},
    "panic": {
        "afraid", "alarmed", "anxious", "distressed", "frightened", "horrified", "hysterical", "nervous", "on edge", "overwhelmed",
        "paranoid", "scared", "shaken", "stressed", "terrified", "unnerved", "worried",
    },
    "hostility": {
        "angry", "annoyed", "bitter", "contemptuous", "disdainful", "disgusted", "enraged", "exasperated", "furious", "grumpy", "hateful",
        "indignant", "insulted", "irate", "irritated", "jealous", "mad", "offended", "outraged", "resentful", "scornful", "spiteful",
        "vengeful", "vindictive",
    },
    "frustration": {"angry", "annoyed", "exasperated", "furious", "grumpy", "impatient", "irate", "irritated", "mad", "stressed", "stuck"},
    "calm": {
        "at ease", "blissful", "content", "fulfilled", "patient", "peaceful", "reflective", "refreshed", "relaxed", "relieved", "safe",
        "satisfied", "serene",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Material:
    """Texts with their mean states [n, columns, width], their split, and where they come from (own, echo, labelled)."""

    texts: tuple[Text, ...]
    states: NDArray[np.float16]
    split: NDArray[np.str_]
    source: NDArray[np.str_]
    concept: NDArray[np.str_]
    form: NDArray[np.str_]
    labels: tuple[tuple[Labelled, NDArray[np.intp]], ...]  # in the order of the labelled rows

    @classmethod
    def gather(cls, reader: Reader, corpus: Corpus, labelled: Sequence[Labelled], count: int, work: Path, say: Say) -> Material:
        """Read everything. Of each labelled file with labels, at most `count` texts are taken."""
        # Each group is read by itself, so that a change in one does not read the others again.
        groups: list[tuple[str, Sequence[Text]]] = [("own", corpus.texts), ("echo", echoes(corpus))]
        picked = []
        for file in labelled:
            if file.ratings is not None:
                continue
            rows = file.sample(count)
            picked.append((file, rows))
            groups.append(("labelled", [comment(file.texts[row], number) for number, row in enumerate(rows)]))
        states = np.concatenate([reader.means(group, work, say) for _, group in groups])
        texts = [text for _, group in groups for text in group]
        source = [name for name, group in groups for _ in group]
        split = np.array([text.split for text in texts])
        concept, form = (np.array([getattr(text, name) for text in texts]) for name in ("concept", "form"))
        return cls(tuple(texts), states, split, np.array(source), concept, form, tuple(picked))

    def truth(self, concept: str) -> NDArray[np.int8]:
        """1 for texts that show the concept, 0 for those that do not, -1 for those too near to tell."""
        found: NDArray[np.int8] = (self.concept == concept).astype(np.int8)
        found[np.isin(self.concept, list(NEAR.get(concept, ())))] = -1
        start = int((self.source != "labelled").sum())
        for file, rows in self.labels:
            found[start : start + len(rows)] = file.truth(concept)[rows]
            start += len(rows)
        return found

    @property
    def neutral(self) -> NDArray[np.bool_]:
        """Plain replies to ordinary prompts."""
        found: NDArray[np.bool_] = (self.source == "own") & (self.form == NEUTRAL)
        return found

    @property
    def hard(self) -> NDArray[np.bool_]:
        """Text on a concept's topics or in its words that does not show it."""
        found: NDArray[np.bool_] = np.isin(self.form, (BENIGN, PAIR)) & (self.concept == "")
        return found

    def rows(self, split: Split, *sources: str) -> NDArray[np.bool_]:
        chosen: NDArray[np.bool_] = (self.split == split) & np.isin(self.source, sources)
        return chosen


def weights(material: Material, truth: NDArray[np.int8], rows: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How much each of the chosen texts counts in a fit."""
    few = (material.source[rows] == "own") & (truth[rows] == 1) | material.hard[rows]
    return np.where(few, OWN_WEIGHT, 1.0).astype(np.float32)


def comment(text: str, number: int) -> Text:
    """A labelled text as a reply, every second one with no prompt before it; every fifth is for validation."""
    return Text("", "", COMMENT if number % 2 else "", text, "validation" if number % 5 == 4 else "train", "comment")


def echoes(corpus: Corpus) -> list[Text]:
    """Neutral replies to users who are beside themselves: what the model reads must not count as what it says."""
    neutral = corpus.neutral
    upset = {
        split: [
            text for text in corpus.texts if text.split == split and text.concept in UPSET and text.form in ("story", "first", "second")
        ]
        for split in ("train", "validation", "test")
    }
    found = []
    for number, text in enumerate(neutral):
        for turn in range(ECHOES):
            said = upset[text.split][(7 * number + 11 * turn) % len(upset[text.split])]
            found.append(Text("", said.concept, f"{said.reply}\n\n{text.prompt}", text.reply, text.split, "echo"))
    return found

"""Human-labelled text, given by the user and never shipped: for training the alarm probes, and for measuring them.

A file is CSV, TSV or JSON lines, plain or gzipped. Either it has the columns `text` and `labels` (several apart by
commas; such as GoEmotions), or `text` with ratings `V` and `A` (valence and arousal; such as EmoBank).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Labels in common use that count as a concept, and those too near to it to be a counterexample.
POSITIVE = {
    "panic": {"panic", "fear", "nervousness", "terror", "anxiety", "scared", "afraid"},
    "hostility": {
        "hostility", "anger", "disgust", "annoyance", "hate", "hateful", "hatespeech", "offensive", "toxic", "severe_toxic", "insult",
        "threat", "abuse", "aggression", "contempt", "rage", "hostile",
    },
    "desperation": {"desperation", "despair", "desperate", "hopelessness"},
    "frustration": {"frustration", "frustrated"},
    "calm": {"calm", "calmness", "relief"},
}  # fmt: skip
NEAR = {
    "desperation": {"grief", "sadness", "disappointment", "remorse", "fear", "nervousness"},
    "frustration": {"anger", "annoyance", "disappointment", "disgust"},
    "panic": {"surprise", "confusion"},
    "calm": {"caring", "approval", "neutral", "gratitude", "love", "optimism"},
}
NEUTRAL = {"neutral", "none", "no_emotion", "not_hate", "normal", "0"}


class LabelledError(Exception):
    """A labelled file cannot be used."""


@dataclass(frozen=True)
class Labelled:
    """Texts with labels, or with ratings [n, 2] of valence and arousal."""

    name: str
    digest: str
    texts: tuple[str, ...]
    labels: tuple[frozenset[str], ...]
    ratings: NDArray[np.float64] | None

    @classmethod
    def read(cls, path: Path) -> Labelled:
        """Raises LabelledError with the file and what was expected."""
        try:
            raw = path.read_bytes()
            text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise LabelledError(f"labelled file {path}: cannot be read ({error})") from None
        suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        try:
            rows = _rows(text, suffix)
        except (ValueError, csv.Error) as error:
            raise LabelledError(f"labelled file {path}: {error}; expected CSV, TSV or JSON lines") from None
        if not rows or "text" not in rows[0] or not ("labels" in rows[0] or "label" in rows[0] or {"V", "A"} <= rows[0].keys()):
            found = ", ".join(map(str, rows[0])) if rows else "none"
            raise LabelledError(f"labelled file {path}: columns are {found}; expected 'text' with 'labels', or with 'V' and 'A'")
        rows = [row for row in rows if str(row["text"]).strip()]
        ratings = None
        if {"V", "A"} <= rows[0].keys():
            try:
                ratings = np.array([[float(row["V"]), float(row["A"])] for row in rows])
            except (TypeError, ValueError) as error:
                raise LabelledError(f"labelled file {path}: a rating is no number ({error})") from None
        labels = tuple(_labels(row.get("labels", row.get("label", ""))) for row in rows)
        return cls(path.name, hashlib.sha256(raw).hexdigest(), tuple(str(row["text"]) for row in rows), labels, ratings)

    def truth(self, concept: str) -> NDArray[np.int8]:
        """1 where a text shows the concept, 0 where it does not, -1 where its labels are too near to tell."""
        positive, near = POSITIVE.get(concept, {concept}), NEAR.get(concept, set())
        return np.array([1 if found & positive else -1 if found & near else 0 for found in self.labels], np.int8)

    def neutral(self) -> NDArray[np.bool_]:
        return np.array([bool(found) and found <= NEUTRAL for found in self.labels])

    def sample(self, count: int, seed: int = 0) -> NDArray[np.intp]:
        """At most `count` rows. Up to half of them show an alarm concept, those with rare labels first; the rest is as it comes."""
        random = np.random.default_rng(seed)
        order = random.permutation(len(self.texts))
        if len(order) <= count:
            return order
        shows = np.any([self.truth(concept) == 1 for concept in POSITIVE], axis=0)
        frequency: dict[frozenset[str], int] = {}
        for found in self.labels:
            frequency[found] = frequency.get(found, 0) + 1
        weight = np.array([frequency[found] for found in self.labels]) ** -0.5 * shows
        wanted = min(count // 2, int(shows.sum()))
        first = random.choice(len(order), wanted, replace=False, p=weight / weight.sum()) if wanted else order[:0]
        rest = order[~np.isin(order, first)][: count - wanted]
        picked: NDArray[np.intp] = random.permutation(np.concatenate([first, rest]))
        return picked


def _rows(text: str, suffix: str) -> list[dict[str, str]]:
    if suffix in (".jsonl", ".json"):
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    if suffix == ".tsv":
        return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    return list(csv.DictReader(io.StringIO(text)))


def _labels(value: object) -> frozenset[str]:
    parts = value if isinstance(value, list) else str(value).split(",")
    return frozenset(str(part).strip().lower() for part in parts if str(part).strip())

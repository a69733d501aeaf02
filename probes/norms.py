"""The emotion vectors against human norms: their first principal components and the valence and arousal of the words."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from probes.bank import Bank, Figure
from probes.emotions import SUFFIX
from probes.labelled import LabelledError
from probes.statistics import paired


def components(bank: Bank, count: int = 2) -> dict[str, np.ndarray]:
    """Emotion → its first principal components over the bank's emotion vectors, in order."""
    rows = [i for i, card in enumerate(bank.card.probes) if card.group == "emotion"]
    centred = bank.directions[rows] - bank.directions[rows].mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    return {bank.names[row]: left[i, :count] * values[:count] for i, row in enumerate(rows)}


def against_norms(bank: Bank, path: Path) -> Bank:
    """The bank with the correlations in the cards of valence and arousal. The norms are CSV with word, V and perhaps A."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = {row["word"].strip().lower().replace("-", " "): row for row in csv.DictReader(file)}
            norms = {axis: {word: float(row[axis]) for word, row in rows.items() if row.get(axis)} for axis in ("V", "A")}
    except (OSError, KeyError, ValueError) as error:
        raise LabelledError(f"norms {path}: {error}; expected CSV with the columns word, V and perhaps A") from None
    found = {name.removesuffix(SUFFIX).replace("_", " "): each for name, each in components(bank, 3).items()}
    for axis, name in (("V", "valence"), ("A", "arousal")):
        words = [word for word in found if word in norms[axis]]
        if axis == "A" and not words:
            continue
        if len(words) < 10:
            raise LabelledError(f"norms {path}: only {len(words)} of the {len(found)} emotion words have {axis}; expected at least 10")
        parts, truth = np.array([found[word] for word in words]), np.array([norms[axis][word] for word in words])
        figures = [
            Figure(
                suite=f"component {c + 1} of the emotion vectors, absolute r with {path.stem}", positives=len(words), negatives=0,
                value=_r(parts[:, c], truth), value_ci=paired(_r, parts[:, c], truth, draws=500),
            )
            for c in range(parts.shape[1])
        ]  # fmt: skip
        if name in bank.names:
            bank = bank.with_card(name, evaluation=[*bank[name].evaluation, *figures])
    return bank


def _r(a: np.ndarray, b: np.ndarray) -> float:
    return abs(float(np.corrcoef(a, b)[0, 1]))

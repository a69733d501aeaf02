"""Does a bank still hold? The same texts read by two models, or by one in two configurations, and a verdict for each probe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probes.bank import Bank
from probes.corpus import Corpus
from probes.methods import Floats
from probes.reader import Reader, Say
from probes.statistics import Interval, auroc, bootstrap, share_above

SHIFT = 0.25  # z: a smaller move of the neutral mean is none
WORSE = 0.05  # AUROC lost, or rate gained above the old threshold: less is none
RATE = 0.05  # the old threshold's rate on neutral texts; with some hundred texts 1 % could not be told from 2 %

VERDICTS = ("PASS", "INCONCLUSIVE", "RECALIBRATE", "REFIT")  # in order of severity


@dataclass(frozen=True)
class Drift:
    """One probe's move from A to B: its verdict, and every figure with its 95 % interval."""

    probe: str
    verdict: str
    shift: tuple[float, Interval]
    auroc: tuple[float, float, Interval] | None  # A, B, interval of the difference; None where no text shows the concept
    fpr: tuple[float, Interval]  # of B's neutral texts above A's threshold


def compare(a: Reader, b: Reader, bank: Bank, corpus: Corpus, work: Path, say: Say) -> list[Drift]:
    """Alarm probes of the bank on neutral texts and test stories, read by both."""
    texts = [*corpus.neutral, *(text for text in corpus.texts if text.concept and text.split == "test" and text.form != "emotion")]
    neutral = np.array([not text.concept for text in texts])
    concepts = np.array([text.concept for text in texts])
    states = [reader.means(texts, work, say) for reader in (a, b)]
    weight, bias = bank.affine()
    found = []
    for i, card in enumerate(bank.card.probes):
        if card.group == "emotion":
            continue
        old, new = (each[:, card.layer + 1].astype(np.float32) @ weight[:, i] + bias[i] for each in states)
        found.append(_drift(card.name, old, new, neutral, concepts == card.name))
    return found


def _drift(name: str, old: Floats, new: Floats, neutral: np.ndarray, shows: np.ndarray) -> Drift:
    moves = new[neutral] - old[neutral]
    shift, shift_ci = float(moves.mean()), bootstrap(lambda x: float(x.mean()), moves)
    limit = float(np.quantile(old[neutral], 1 - RATE))
    above = share_above(limit)
    fpr, fpr_ci = above(new[neutral]), bootstrap(above, new[neutral])
    more = bootstrap(lambda x: float(x.mean()), (new[neutral] > limit).astype(np.float32) - (old[neutral] > limit))
    told_apart, change = None, (0.0, 0.0)
    if shows.any():
        rest = ~shows
        before, after = auroc(old[shows], old[rest]), auroc(new[shows], new[rest])
        random = np.random.default_rng(0)
        draws = []
        inside, outside = np.flatnonzero(shows), np.flatnonzero(rest)
        for _ in range(1000):  # the same texts on both sides: their difference is paired
            p, n = random.choice(inside, len(inside)), random.choice(outside, len(outside))
            draws.append(auroc(new[p], new[n]) - auroc(old[p], old[n]))
        low, high = np.quantile(draws, [0.025, 0.975])
        change = (float(low), float(high))
        told_apart = (before, after, change)
    return Drift(name, _verdict(shift_ci, change, more), (shift, shift_ci), told_apart, (fpr, fpr_ci))


def _verdict(shift: Interval, change: Interval, more: Interval) -> str:
    """REFIT when the probe surely tells less apart, RECALIBRATE when it surely moved, PASS when it surely did neither.

    All three intervals are of differences on the same texts: of neutral z, of AUROC, and of the rate above the old threshold.
    """
    if change[1] < -WORSE:
        return "REFIT"
    if shift[0] > SHIFT or shift[1] < -SHIFT or more[0] > WORSE:
        return "RECALIBRATE"
    if change[0] >= -WORSE and shift[0] >= -SHIFT and shift[1] <= SHIFT and more[1] <= WORSE:
        return "PASS"
    return "INCONCLUSIVE"


def worst(drifts: list[Drift]) -> str:
    return max((drift.verdict for drift in drifts), key=VERDICTS.index, default="PASS")

"""Calibration on what the model itself says to ordinary prompts: z units, thresholds by window, canaries.

Neutral text written by people is no measure of a model's own voice: on it a model scored two standard deviations higher
on desperation. So the unit of a score, and every threshold, comes from neutral generations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from probes.bank import Bank, Canary, ProbeCard, Threshold
from probes.canaries import CANARIES
from probes.corpus import Corpus
from probes.methods import Floats
from probes.reader import Reader, Say
from probes.scoring import Generation, generate
from probes.windows import WINDOWS, windowed

RATES = (0.01, 0.001, 0.0001)
DRAWS = 200
TOKENS = 48
CANARY_TOKENS = 24
RAISED = 0.8  # mean z of so many tokens; neutral replies spread by about 0.45


def calibrate(reader: Reader, bank: Bank, corpus: Corpus, samples: int, say: Say) -> Bank:
    """The bank in units of neutral generations, with thresholds, registers and canaries."""
    prompts = [text.prompt for text in corpus.texts if not text.concept] * samples
    made: list[Generation] = []
    for each in generate(reader, bank, prompts, TOKENS):
        made.append(each)
        if len(made) % 64 == 0:
            say(f"calibrating: {len(made)} of {len(prompts)} generations")
    raw = np.concatenate([each.scores for each in made]).astype(np.float64)
    mean, std = raw.mean(axis=0), raw.std(axis=0)
    generations = [(each.scores - mean) / std for each in made]
    # Every second prompt sets thresholds, the others say what rate they really give.
    half = len(prompts) // samples
    odd = np.array([number % half % 2 == 1 for number in range(len(made))])
    held_out = _held_out(
        bank, [g for g, o in zip(generations, odd, strict=True) if not o], [g for g, o in zip(generations, odd, strict=True) if o]
    )
    probes = []
    for i, card in enumerate(bank.card.probes):
        windows = WINDOWS if card.group != "emotion" else ("last", "ewma(8)")
        draws = DRAWS if card.group != "emotion" else 0
        probes.append(card.model_copy(update={
            "neutral_mean": card.neutral_mean + float(mean[i]) * card.neutral_std,
            "neutral_std": card.neutral_std * float(std[i]),
            "thresholds": {window: thresholds([g[:, i] for g in generations], window, draws) for window in windows},
        }))  # fmt: skip
    say(f"calibrated on {len(made)} generations, {len(raw)} tokens; held-out false positives {held_out}")
    calibration = {"generations": float(len(made)), "tokens": float(len(raw)), **held_out}
    return canaries(reader, bank.with_cards(probes, calibration=calibration), say)


def thresholds(generations: Sequence[Floats], window: str, draws: int) -> list[Threshold]:
    """The values that a window exceeds at each rate. Intervals resample whole generations, as their tokens are kin."""
    columns = [windowed(each[:, None], window)[:, 0] for each in generations]
    columns = [column for column in columns if len(column)]
    values = np.concatenate(columns)
    quantiles = np.quantile(values, [1 - rate for rate in RATES])
    intervals: list[tuple[float, float] | None] = [None] * len(RATES)
    if draws:
        # Only the upper part can become a quantile; a draw then is a weighted count from the top.
        owner = np.repeat(np.arange(len(columns)), [len(column) for column in columns])
        top = np.argsort(values)[::-1][: max(1, int(20 * max(RATES) * len(values)))]
        sizes = np.array([len(column) for column in columns])
        random = np.random.default_rng(0)
        found = np.empty((draws, len(RATES)))
        for draw in range(draws):
            times = np.bincount(random.integers(len(columns), size=len(columns)), minlength=len(columns))
            cumulative = np.cumsum(times[owner[top]])
            total = int((times * sizes).sum())
            places = [min(int(np.searchsorted(cumulative, rate * total)), len(top) - 1) for rate in RATES]
            found[draw] = values[top[places]]
        low, high = np.quantile(found, [0.025, 0.975], axis=0)
        intervals = [(min(float(a), float(q)), max(float(b), float(q))) for a, b, q in zip(low, high, quantiles, strict=True)]
    return [Threshold(rate=rate, value=float(q), ci=ci) for rate, q, ci in zip(RATES, quantiles, intervals, strict=True)]


def _held_out(bank: Bank, setting: Sequence[Floats], checking: Sequence[Floats]) -> dict[str, float]:
    """Mean over the alarm probes of the rate at which other prompts exceed thresholds, for the window ewma(8)."""
    alarm = [i for i, card in enumerate(bank.card.probes) if card.group != "emotion"]
    windows = [np.concatenate([windowed(g[:, alarm], "ewma(8)") for g in part]) for part in (setting, checking)]
    found = {}
    for rate in RATES[:2]:
        limit = np.quantile(windows[0], 1 - rate, axis=0)
        found[f"held_out_fpr_at_{rate:g}"] = round(float((windows[1] > limit).mean()), 6)
    return found


def canaries(reader: Reader, bank: Bank, say: Say) -> Bank:
    """Each safety probe's canaries that raise it, with the floor below which the probe counts as quiet."""
    probes: list[ProbeCard] = []
    for i, card in enumerate(bank.card.probes):
        kept = []
        if card.name in CANARIES and card.group == "safety":
            for each in generate(reader, bank, CANARIES[card.name], CANARY_TOKENS, temperature=0):
                score = float(each.scores[:, i].mean())
                if score > RAISED:
                    kept.append(Canary(prompt=each.prompt, score=round(score, 3), floor=round(score / 2, 3)))
            say(f"{card.name}: {len(kept)} of {len(CANARIES[card.name])} canaries raise it")
        probes.append(card.model_copy(update={"canaries": sorted(kept, key=lambda canary: -canary.score)[:3]}))
    return bank.with_cards(probes)


def registers(bank: Bank, groups: dict[str, NDArray[np.float32]]) -> Bank:
    """Notes each register's mean and deviation of z: `groups` are mean z of neutral texts [n, k] by register."""
    probes = [
        card.model_copy(update={"registers": {name: (round(float(z[:, i].mean()), 3), round(float(z[:, i].std()), 3)) for name, z in groups.items()}})
        for i, card in enumerate(bank.card.probes)
    ]  # fmt: skip
    return bank.with_cards(probes)

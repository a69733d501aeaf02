"""Calibration on what the model itself says to harmless prompts: z units, thresholds by window, canaries.

Neutral text written by people is no measure of a model's own voice: on it a model scored two standard deviations higher
on desperation. So the unit of a score comes from replies to ordinary prompts, and every threshold is one that neither ordinary nor topical
replies exceed more often than it says. What the thresholds give on prompts that set none is measured by `quiet.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probes.bank import Bank, Canary, ProbeCard, Threshold
from probes.canaries import CANARIES
from probes.methods import Floats
from probes.prompts import KINDS, Prompt
from probes.reader import Reader, Say
from probes.replies import by_prompt, replies
from probes.scoring import generate, peaks, read
from probes.windows import WINDOWS, windowed

RATES = (0.01, 0.001, 0.0001)  # of windows
REPLY_RATES = (0.01, 0.005, 0.001)  # of replies
ENOUGH = 3.0  # a rate needs so many times its inverse in windows or replies: with fewer, none above is no proof (rule of three)
DRAWS = 200
CANARY_TOKENS = 24
RAISED = 0.8  # mean z of so many tokens; neutral replies spread by about 0.45


def calibrate(reader: Reader, bank: Bank, prompts: Sequence[Prompt], samples: int, work: Path, say: Say) -> Bank:
    """The bank in units of replies to ordinary prompts, with thresholds and canaries."""
    made = replies(reader, prompts, samples, work, say)
    scores = read(reader, bank, [(each.ids, each.start) for each in made], say)
    owner, kind = by_prompt(made), np.array([prompts[each.prompt].kind for each in made])
    ordinary = np.concatenate([each for each, k in zip(scores, kind, strict=True) if k == "ordinary"]).astype(np.float64)
    mean, std = ordinary.mean(axis=0), ordinary.std(axis=0)
    scores = [((each - mean) / std).astype(np.float32) for each in scores]
    sides = [
        ([each for each, k in zip(scores, kind, strict=True) if k == name], owner[kind == name]) for name in KINDS if (kind == name).any()
    ]
    probes = []
    for i, card in enumerate(bank.card.probes):
        alarm = card.group != "emotion"
        windows, draws = (WINDOWS, DRAWS) if alarm else (("last", "ewma(8)"), 0)
        own = [([each[:, i : i + 1] for each in group], owners) for group, owners in sides]
        probes.append(card.model_copy(update={
            "neutral_mean": card.neutral_mean + float(mean[i]) * card.neutral_std,
            "neutral_std": card.neutral_std * float(std[i]),
            "thresholds": {window: _strictest([thresholds(group, owners, window, draws) for group, owners in own]) for window in windows},
            "reply_thresholds": {
                window: _strictest([reply_thresholds(group, owners, window, draws) for group, owners in own]) for window in windows
            } if alarm else {},
        }))  # fmt: skip
    calibration = {
        "prompts": float(len(prompts)), "replies": float(len(made)), "tokens": float(sum(map(len, scores))),
        **{f"{name}_replies": float((kind == name).sum()) for name in KINDS},
    }  # fmt: skip
    say(f"calibrated on {len(made)} replies to {len(prompts)} prompts, {calibration['tokens']:.0f} tokens")
    return canaries(reader, bank.with_cards(probes, calibration=calibration), say)


def thresholds(replies: Sequence[Floats], owner: NDArray[np.intp], window: str, draws: int) -> list[Threshold]:
    """The values that a window of scores [tokens, 1] exceeds at each rate for which there are windows enough. Intervals resample prompts."""
    columns = [windowed(each, window)[:, 0] for each in replies]
    values, of = np.concatenate(columns), np.repeat(owner, [len(column) for column in columns])
    return _quantiles(values, of, RATES, draws)


def reply_thresholds(replies: Sequence[Floats], owner: NDArray[np.intp], window: str, draws: int) -> list[Threshold]:
    """The values that a window exceeds anywhere in this share of replies."""
    return _quantiles(peaks(replies, window)[:, 0], owner, REPLY_RATES, draws)


def _quantiles(values: Floats, owner: NDArray[np.intp], rates: Sequence[float], draws: int) -> list[Threshold]:
    rates = [rate for rate in rates if len(values) >= ENOUGH / rate]
    if not rates:
        return []
    quantiles = np.quantile(values, [1 - rate for rate in rates])
    if not draws:
        return [Threshold(rate=rate, value=float(q), ci=None) for rate, q in zip(rates, quantiles, strict=True)]
    # Only the upper part can become a quantile; a draw then is a weighted count from the top.
    _, place, sizes = np.unique(owner, return_inverse=True, return_counts=True)
    top = np.argsort(values)[::-1][: max(1, int(20 * max(rates) * len(values)))]
    random = np.random.default_rng(0)
    found = np.empty((draws, len(rates)))
    for draw in range(draws):
        times = np.bincount(random.integers(len(sizes), size=len(sizes)), minlength=len(sizes))
        cumulative, total = np.cumsum(times[place[top]]), int((times * sizes).sum())
        found[draw] = values[top[[min(int(np.searchsorted(cumulative, rate * total)), len(top) - 1) for rate in rates]]]
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    intervals = [(min(float(a), float(q)), max(float(b), float(q))) for a, b, q in zip(low, high, quantiles, strict=True)]
    return [Threshold(rate=rate, value=float(q), ci=ci) for rate, q, ci in zip(rates, quantiles, intervals, strict=True)]


def _strictest(sides: Sequence[Sequence[Threshold]]) -> list[Threshold]:
    """Of each rate that both kinds of prompts can tell, the higher threshold: so it holds for either."""
    shared = set.intersection(*({each.rate for each in side} for side in sides))
    rates = [each.rate for each in sides[0] if each.rate in shared]
    return [max((each for side in sides for each in side if each.rate == rate), key=lambda each: each.value) for rate in rates]


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

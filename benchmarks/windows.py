"""Which window finds a concept best where one harmless reply of 200 alarms? Windows, holds, attention over tokens, and a second condition.

On validation texts and on the prompts that set thresholds, so that a choice made here sees no test text. Each way has its own threshold, the stricter
of ordinary and topical replies, and is compared with the default rules' on the same texts. Intervals resample texts and, with them, prompts.

python -m benchmarks.windows --model smollm2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import emit
from monitor import models
from monitor.config import BANKS
from probes.bank import Bank
from probes.corpus import ALARMS, Corpus
from probes.prompts import KINDS, setting
from probes.reader import Reader
from probes.replies import by_prompt, replies
from probes.scoring import HOLD, RULE_WINDOW, held, read
from probes.windows import windowed

CONCEPTS = ("desperation", "panic", "hostility")
RATE = 0.005
WINDOWS = ("last", "ewma(4)", "ewma(8)", "ewma(16)", "ewma(32)", "mean(8)", "mean(16)", "max(8)")
HOLDS = (1, 4, 8, 16)
SHARPNESS = (0.5, 1.0, 2.0)
DRAWS = 300
SHIPPED = f"{RULE_WINDOW}, {HOLD} tokens"

Scores = NDArray[np.floating[Any]]
Way = Callable[[Scores], float]


def attention(scores: Scores, sharpness: float) -> float:
    """The highest that a mean of all tokens so far reaches when each counts by the exponential of its own score."""
    weight = np.exp(np.clip(sharpness * scores[:, 0], -30, 30))
    means = np.cumsum(weight * scores[:, 0]) / np.cumsum(weight)
    return float(means[min(HOLD, len(means)) - 1 :].max())


def peak(scores: Scores, window: str, hold: int) -> float:
    values = held(windowed(scores, window), hold)
    return float(values.max()) if len(values) else -np.inf


def ways(concept: int, others: list[int], valence: int) -> Iterator[tuple[str, Way]]:
    """Names, and what each makes of a reply's scores [tokens, k]."""
    for window in WINDOWS:
        for hold in HOLDS:
            yield f"{window}, {hold} tokens", lambda s, w=window, h=hold: peak(s[:, [concept]], w, h)  # type: ignore[misc]
    for sharpness in SHARPNESS:
        yield f"attention, sharpness {sharpness}", lambda s, b=sharpness: attention(s[:, [concept]], b)  # type: ignore[misc]
    for name, second in (("another alarm concept", others), ("unpleasant", [valence])):
        sign = -1.0 if second == [valence] else 1.0

        def both(s: Scores, second: list[int] = second, sign: float = sign) -> float:
            return peak(np.minimum(s[:, [concept]], (sign * s[:, second]).max(axis=1, keepdims=True)), RULE_WINDOW, HOLD)

        yield f"{SHIPPED}, and {name} as high", both


def found(positive: Scores, negative: Scores, kind: NDArray[np.str_]) -> float:
    """Share of positives above what RATE of the replies of either kind exceed."""
    return float((positive > max(np.quantile(negative[kind == name], 1 - RATE) for name in KINDS)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=models.BUNDLED)
    name = parser.parse_args().model
    bank = Bank.load(BANKS / models.served_name(name).lower()).select([*ALARMS, "valence"])
    reader, corpus, work = Reader(models.resolve(name), models.served_name(name), fast=True), Corpus.read(), models.cache_dir() / "work"
    prompts = setting(corpus)
    made = replies(reader, prompts, 2, work, print)
    harmless = read(reader, bank, [(each.ids, each.start) for each in made], print)
    owner, kind = by_prompt(made), np.array([prompts[each.prompt].kind for each in made])
    random, table = np.random.default_rng(0), dict[str, dict[str, Any]]()
    for concept in CONCEPTS:
        texts = [text for text in corpus.texts if text.concept == concept and text.split == "validation"]
        shows = read(reader, bank, [reader.encode(text) for text in texts])
        index = bank.names.index
        others = [index(each) for each in ALARMS if each != concept]
        values = {
            way: (np.array([score(each) for each in shows]), np.array([score(each) for each in harmless]))
            for way, score in ways(index(concept), others, index("valence"))
        }
        rates = {way: round(found(positive, negative, kind), 3) for way, (positive, negative) in values.items()}
        best = max((way for way in rates if way != SHIPPED), key=lambda way: rates[way])
        groups = [np.flatnonzero(owner == each) for each in np.unique(owner)]
        gains = []
        for _ in range(DRAWS):
            rows = np.concatenate([groups[i] for i in random.integers(len(groups), size=len(groups))])
            picked = random.integers(len(texts), size=len(texts))
            first, second = (found(values[way][0][picked], values[way][1][rows], kind[rows]) for way in (best, SHIPPED))
            gains.append(first - second)
        table[concept] = {
            "texts": len(texts), "shipped": rates[SHIPPED], "best": best, "found": rates[best],
            "gain_ci95": [round(float(each), 3) for each in np.quantile(gains, [0.025, 0.975])], "all": rates,
        }  # fmt: skip
    emit(
        "windows" if name == models.BUNDLED else f"windows_{name}",
        model=bank.card.model.name,
        dtype=reader.dtype,
        rate=RATE,
        replies=len(made),
        concepts=table,
    )


if __name__ == "__main__":
    main()

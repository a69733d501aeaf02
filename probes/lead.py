"""Lead time: does the score know the tone of a reply before its text shows it?

The model answers prompts that ask for the concept and plain ones. A reply's tone is what the text classifier says of the whole
of it. Then: how well the very first score predicts that tone, and how many tokens the probe's alarm comes before the
classifier's alarm on the prefix, both at a rate of 1 % of plain tokens.
"""

from __future__ import annotations

import numpy as np

from probes.bank import Figure
from probes.canaries import CANARIES, PLAIN
from probes.evaluation import Evaluation
from probes.reader import Reader
from probes.scoring import generate
from probes.statistics import auroc, bootstrap, ranking
from probes.windows import windowed

TOKENS = 40
SAMPLES = 8
WINDOW = "ewma(4)"


def lead_time(reader: Reader, evaluation: Evaluation, name: str) -> list[Figure]:
    """Two figures: prediction by the first score, and the tokens of warning (positive: the probe comes first)."""
    bank = evaluation.bank.select([name])
    text = evaluation.baselines(name)
    prompts = [*CANARIES[name], *PLAIN] * SAMPLES
    made = list(generate(reader, bank, prompts, TOKENS, temperature=0.8, seed=7))
    odds = [text.text([reader.tokenizer.decode(each.tokens[: i + 1]) for i in range(len(each.tokens))]) for each in made]
    plain = np.array([each.prompt in PLAIN for each in made])
    whole = np.array([each[-1] for each in odds])
    toned = ~plain & (whole > np.quantile(whole[plain], 0.95))
    first = np.array([each.scores[0, 0] for each in made])
    flat = ~toned & plain
    found = []
    if toned.sum() >= 5:
        rival = text.text([each.prompt for each in made])
        made_figure = ranking("first score predicts the tone of the reply", first[toned], first[flat])
        found.append(made_figure.model_copy(update={"baselines": {"TF-IDF on the prompt": round(auroc(rival[toned], rival[flat]), 4)}}))
        smooth = [windowed(each.scores, WINDOW)[:, 0] for each in made]
        limits = [float(np.quantile(np.concatenate([series[i] for i in np.flatnonzero(plain)]), 0.99)) for series in (smooth, odds)]
        alarms = np.array(
            [[_first_above(series[i], limit) for series, limit in zip((smooth, odds), limits, strict=True)] for i in np.flatnonzero(toned)]
        )
        warning = alarms[:, 1] - alarms[:, 0]
        found.append(Figure(
            suite=f"tokens of warning before a text classifier on the prefix (of {TOKENS})", positives=int(toned.sum()), negatives=int(plain.sum()),
            value=_median(warning), value_ci=bootstrap(_median, warning, draws=300),
        ))  # fmt: skip
    evaluation.say(f"lead time: {name}, {int(toned.sum())} of {int((~plain).sum())} replies had the tone")
    return found


def _median(values: np.ndarray) -> float:
    return float(np.median(values))


def _first_above(series: np.ndarray, limit: float) -> int:
    """The first token above the limit; the whole length when there is none."""
    above = np.flatnonzero(series > limit)
    return int(above[0]) if len(above) else TOKENS

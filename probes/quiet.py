"""False alarms on what people really send: replies to prompts that no step of the fit or the calibration has seen.

Windows over the shipped threshold by family of prompts, with intervals that resample prompts; and replies in which a default rule's condition is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probes.bank import Bank, Figure
from probes.corpus import ALARMS
from probes.methods import Floats
from probes.prompts import KINDS, Prompt
from probes.reader import Reader, Say
from probes.replies import by_prompt, replies
from probes.scoring import HOLD, RULE_WINDOW, peaks, read
from probes.statistics import Interval, clustered, wilson, with_rates
from probes.windows import windowed

RATE, REPLY_RATE = 0.01, 0.005  # the thresholds that the default pack uses
SAMPLES = {"ordinary": 3, "topical": 2}


def quiet(reader: Reader, bank: Bank, prompts: Sequence[Prompt], work: Path, say: Say) -> Bank:
    """The bank with `false_alarms` in its card and the rates of windows among each alarm probe's figures."""
    found: list[Figure] = []
    figures: dict[str, list[Figure]] = {name: [] for name in bank.names}
    # All in one go: a batch of few replies takes as long as one of many.
    every = replies(reader, prompts, [SAMPLES[each.kind] for each in prompts], work, say, seed=1)
    read_out = read(reader, bank, [(each.ids, each.start) for each in every], say)
    for kind in KINDS:
        rows_of = [row for row, each in enumerate(every) if prompts[each.prompt].kind == kind]
        made, scores = [every[row] for row in rows_of], [read_out[row] for row in rows_of]
        owner, family = by_prompt(made), np.array([prompts[each.prompt].family for each in made])
        met = np.zeros(len(made), bool)
        high = peaks(scores, RULE_WINDOW, HOLD)
        for i, card in enumerate(bank.card.probes):
            limit, reply_limit = bank.limit(card.name, RULE_WINDOW, RATE), bank.limit(card.name, RULE_WINDOW, REPLY_RATE, replies=True)
            if card.name in ALARMS and reply_limit is not None:
                met |= high[:, i] > reply_limit
            if card.group == "emotion" or limit is None:
                continue
            above = np.array([(windowed(each[:, i : i + 1], RULE_WINDOW) > limit).sum() for each in scores], float)
            length = np.array([len(each) for each in scores], float)
            for name in (f"benign {kind} replies", *dict.fromkeys(family)):
                rows = np.full(len(made), True) if name.startswith("benign") else family == name
                share = _share(owner[rows], above[rows], length[rows])
                figures[card.name].append(Figure(
                    suite=name if name.startswith("benign") else f"benign replies: {name}", positives=0, negatives=int(rows.sum()),
                    windows_over=float(above[rows].sum() / length[rows].sum()), windows_over_ci=share,
                ))  # fmt: skip
        found.append(with_rates(Figure(suite=f"{kind} replies that meet a default rule", positives=0, negatives=len(met)), met[:0], met))
        say(f"{kind}: a default rule's condition is met in {int(met.sum())} of {len(made)} replies")
    cards = [card.model_copy(update={"evaluation": [*_others(card.evaluation), *figures[card.name]]}) for card in bank.card.probes]
    return bank.with_cards(cards, false_alarms=found)


def _share(owner: NDArray[np.intp], above: Floats, length: Floats) -> Interval:
    """95 % interval of the share of windows. Where none is over, resampling would say that none ever is; prompts, one window each, bound it."""
    if not above.any():
        return wilson(0, len(np.unique(owner)))
    return clustered(lambda a, n: float(a.sum() / n.sum()), owner, above, length)


def _others(evaluation: Sequence[Figure]) -> list[Figure]:
    return [figure for figure in evaluation if figure.windows_over is None]

"""The vectorised engine against the naive one of tests/rules/naive.py, on random rules, streams and conversations."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.engine import RuleEngine
from rules.signal import KINDS
from tests.rules.naive import PROBES, Naive, probe_facts, text

WINDOWS = [(kind, scope) for kind, (_, scopes) in KINDS.items() for scope in scopes]
SIGNAL = st.tuples(st.sampled_from(PROBES), st.sampled_from(WINDOWS), st.integers(2, 5), st.sampled_from([0.25, 0.5, 0.77])).map(
    lambda drawn: (drawn[0], drawn[1][0], drawn[2], drawn[1][1], drawn[3])
)
# Numbers that no value of these series meets by chance, so that rounding decides nothing.
TEST = st.tuples(st.sampled_from("<>"), SIGNAL, st.one_of(SIGNAL, st.sampled_from([-1.0313, 0.0737, 1.0119, 2.0213]))).filter(
    # One probe's windows may be equal but for rounding, and so may two counts, one of which has faded.
    lambda test: isinstance(test[2], float) or (test[1][0] != test[2][0] and {test[1][1], test[2][1]} != {"count_above"})
)
CONDITION = st.recursive(
    TEST, lambda inner: st.tuples(st.sampled_from(("and", "or")), inner, inner) | st.tuples(st.just("not"), inner), max_leaves=4
)
TIMES = st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(1, 3))


def engine(condition: Any, until: Any, hold: int, keep: int, cool: int) -> RuleEngine:
    rule = {"rule": "r", "desc": "d", "when": text(condition), "for": hold, "cool_down": cool, "do": "alert"}
    rule |= {"keep": keep} if keep else {}
    rule |= {"until": text(until)} if until is not None else {}
    return RuleEngine.from_text(yaml.safe_dump({"rules": [rule]}, width=10_000), probe_facts())


@settings(max_examples=400, deadline=None)
@given(CONDITION, st.none() | CONDITION, TIMES, st.integers(0, 2**32 - 1))
def test_the_vectorised_engine_equals_the_naive_one(condition: Any, until: Any, times: tuple[int, int, int], seed: int) -> None:
    fast, naive, draw = engine(condition, until, *times), Naive(condition, until, *times), random.Random(seed)
    keys = {slot: draw.choice(["", "x", "y"]) for slot in range(5)}

    def begin(slot: int) -> None:
        for each in (fast, naive):
            each.begin(slot, conversation=keys[slot])

    # Two streams of a conversation at once share what was there when each began; the naive engine knows only one after the other.
    for key in ("x", "y"):
        for slot in [slot for slot, mine in keys.items() if mine == key][1:]:
            keys[slot] = ""
    for slot in range(5):
        begin(slot)
    for _ in range(24):
        slots = draw.sample(range(5), draw.randint(1, 5))
        scores = [[draw.choice([math.nan, math.inf]) if draw.random() < 0.03 else draw.gauss(0, 2) for _ in PROBES] for _ in slots]
        scores = np.array(scores, np.float32).astype(float).tolist()
        verdicts = fast.judge(np.array(slots), np.zeros(len(slots), np.int64), np.array(scores))
        found = {verdict.slot: "ended" if verdict.ended else "fired" for verdict in verdicts}
        wanted = {slot: said for slot, row in zip(slots, scores, strict=True) if (said := naive.token(slot, row))}
        assert found == wanted
        if draw.random() < 0.3:  # one ends, and another begins in its place
            slot = draw.randrange(5)
            for each in (fast, naive):
                each.end(slot)
            begin(slot)


def test_rows_of_one_stream_in_one_frame_are_judged_in_order() -> None:
    together, apart = (engine((">", ("panic", "mean", 3, "tokens", 0.0), 1.0), None, 1, 0, 1) for _ in range(2))
    scores = np.random.default_rng(0).normal(0, 2, (40, 3)).astype(np.float32)
    for each in (together, apart):
        each.begin(0)
        each.begin(1)
    slots = np.array([0, 1] * 20)
    positions = np.repeat(np.arange(20), 2)
    whole = together.judge(slots, positions, scores)
    single = [v for i in range(40) for v in apart.judge(slots[i : i + 1], positions[i : i + 1], scores[i : i + 1])]
    assert sorted((v.slot, v.position, v.ended) for v in whole) == sorted((v.slot, v.position, v.ended) for v in single)

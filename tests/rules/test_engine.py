"""The engine against a naive one that walks token by token, and the cases that matter at three in the morning."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.config import PACKS
from rules.document import DocumentError
from rules.engine import RuleEngine, Verdict, distinct_rounds, strongest

PROBES = ("desperation", "panic", "calm")


def engine(when: str, hold: str = "1 token", do: str = "alert", mode: str = "armed") -> RuleEngine:
    return RuleEngine.from_text(
        f"rules:\n- rule: r\n  desc: d\n  when: {when!r}\n  for: {hold}\n  do: {do}\n  mode: {mode}\n", PROBES, "r.yaml"
    )


def run(rules: RuleEngine, series: list[float], probe: int = 0) -> list[Verdict]:
    rules.begin(0)
    verdicts = []
    for position, value in enumerate(series):
        scores = np.zeros((1, len(PROBES)), np.float32)
        scores[0, probe] = value
        verdicts += rules.judge(np.array([0]), np.array([position]), scores)
    return verdicts


@pytest.mark.smoke
def test_a_rule_fires_once_after_its_condition_held() -> None:
    verdicts = run(engine("desperation.last > 2", "3 tokens"), [3, 3, 0, 3, 3, 3, 3, 3])
    assert [verdict.position for verdict in verdicts] == [5]
    assert verdicts[0].signals == {"desperation.last": 3.0}


def test_the_average_starts_at_neutral() -> None:
    # With half-life 1 the average after one token of 4 is 2, after two 3.
    assert [verdict.position for verdict in run(engine("desperation.ewma(1) > 2.5"), [4, 4, 4])] == [1]


@pytest.mark.parametrize(
    ("when", "series", "position"),
    [
        ("desperation.mean(3) > 1", [9, 0, 0, 0], 2),
        ("desperation.max(2) > 5", [0, 9, 0], 1),
        ("desperation.min(2) > 1", [0, 2, 2], 2),
        ("desperation.slope(3) > 0.9", [0, 0, 1, 2], 3),
        ("desperation.last - panic.last * 2 > 1", [0, 2], 1),
        ("not desperation.last > 1", [2, 2, 0], 2),
        ("1 < desperation.last < 3", [0, 5, 2], 2),
        ("desperation.last / panic.last > 1", [1, 1], 0),  # x / 0 is infinite
    ],
)
def test_windows_and_operators(when: str, series: list[float], position: int) -> None:
    assert [verdict.position for verdict in run(engine(when), series)] == [position]


@pytest.mark.parametrize(
    "when",
    [
        "desperation.last > 1",
        "not desperation.last > 1",
        "desperation.ewma(4) < 1",
        "not (desperation.ewma(4) > 1 or desperation.mean(1) > 1)",
    ],
)
def test_a_missing_number_never_fires(when: str) -> None:
    assert run(engine(when), [math.nan] * 5) == []


def test_a_missing_number_does_not_hide_the_other_probe() -> None:
    rules = engine("desperation.last > 1 or panic.last > 1")
    rules.begin(0)
    assert rules.judge(np.array([0]), np.array([0]), np.array([[math.nan, 5.0, 0.0]]))


def test_a_missing_number_does_not_poison_the_average() -> None:
    assert [verdict.position for verdict in run(engine("desperation.ewma(1) > 2.5"), [4, math.nan, 4])] == [2]


def test_zero_by_zero_never_fires() -> None:
    assert run(engine("panic.last / calm.last > 0"), [1, 1]) == []


def test_shadow_records_and_disabled_is_silent() -> None:
    assert run(engine("desperation.last > 1", mode="shadow"), [2])[0].shadow
    assert run(engine("desperation.last > 1", mode="disabled"), [2]) == []


def test_a_reused_slot_starts_afresh() -> None:
    rules = engine("desperation.mean(3) > 1", "2 tokens")
    assert len(run(rules, [2, 2, 2, 2])) == 1
    assert run(rules, [2, 2]) == []
    assert len(run(rules, [2, 2, 2, 2])) == 1


def test_slots_grow() -> None:
    rules = engine("desperation.ewma(2) > 1")
    rules.begin(500)
    assert rules.judge(np.array([500]), np.array([0]), np.full((1, 3), 9.0))


def test_the_strongest_action_wins_and_shadow_never_acts() -> None:
    text = "rules:\n" + "".join(
        f"- {{rule: {name}, desc: d, when: desperation.last > 1, do: {do}, mode: {mode}}}\n"
        for name, do, mode in (("a", "alert", "armed"), ("b", "halt", "armed"), ("c", "halt", "armed"), ("d", "halt", "shadow"))
    )
    rules = RuleEngine.from_text(text, PROBES)
    rules.begin(0)
    verdicts = rules.judge(np.array([0]), np.array([0]), np.full((1, 3), 2.0))
    chosen = strongest(verdicts)
    assert [verdict.rule.rule for verdict in verdicts] == ["a", "b", "c", "d"]
    assert chosen is not None
    assert chosen.rule.rule == "b"
    assert strongest([verdict for verdict in verdicts if verdict.shadow]) is None


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("despration.last > 1", "did you mean 'desperation'?"),
        ("desperation.ewna(3) > 1", "did you mean 'ewma'?"),
        ("desperation > 1", "needs a window"),
        ("desperation.ewma(1000000000) > 1", "expected 1 to 512"),
        ("desperation.slope(1) > 1", "expected 2 to 512"),
        ("desperation.ewma > 1", "takes a size"),
        ("desperation.last(3) > 1", "takes no size"),
        ("desperation.ewma(2.5) > 1", "one whole number"),
        ("desperation.last", "expected a comparison"),
        ("desperation.last > (panic.last > 1)", "expected a number here"),
        ("desperation.last == 1", "never exactly equal"),
        ("__import__('os').system('x') > 1", "column 1"),
        ("desperation.__class__.mro > 1", "not a signal"),
        ("(lambda: 1)() > 1", "one whole number"),
        ("desperation.last > 1e400", "not part of the language"),
        ("desperation.last >", "cannot read"),
        ("(" * 300, "cannot read"),
        ("not " * 100 + "desperation.last > 1", "too deeply"),
        ("'a' > 1", "not part of the language"),
        ("desperation.last > True", "not part of the language"),
    ],
)
def test_bad_conditions_say_where_and_what_is_known(when: str, expected: str) -> None:
    with pytest.raises(DocumentError) as caught:
        engine(when)
    assert "r.yaml: rule 'r', when: column" in str(caught.value)
    assert expected in str(caught.value)


def test_the_shipped_pack_compiles() -> None:
    rules = RuleEngine.from_text((PACKS / "default.yaml").read_text(), ("desperation", "panic", "hostility", "calm"))
    assert {rule.action.name for rule in rules.rules} == {"ALERT", "HALT"}


def test_rounds_keep_the_order_of_each_stream() -> None:
    slots = np.array([3, 1, 3, 3, 2, 1])
    rounds = distinct_rounds(slots)
    assert [rows.tolist() for rows in rounds] == [[0, 1, 4], [2, 5], [3]]
    assert distinct_rounds(np.array([], np.intp)) == []


# --- the naive engine: one stream, one token, plain Python ---


class Naive:
    def __init__(self, condition: Any, hold: int) -> None:
        self.condition, self.hold, self.streams = condition, hold, {}

    def token(self, slot: int, scores: list[float]) -> bool:
        state = self.streams.setdefault(slot, {"series": [], "ewma": {}, "held": 0, "fired": False})
        state["series"].append(scores)
        held = _truth(self.condition, state) is True
        state["held"] = state["held"] + 1 if held else 0
        fires = state["held"] >= self.hold and not state["fired"]
        state["fired"] |= fires
        return fires


def _number(term: Any, state: dict[str, Any]) -> float:
    if isinstance(term, float):
        return term
    probe, kind, size = term
    column = [row[PROBES.index(probe)] for row in state["series"]]
    if kind == "last":
        return column[-1]
    if kind == "ewma":
        if not math.isfinite(column[-1]):
            return math.nan
        value, decay = 0.0, 0.5 ** (1 / size)
        for x in column:
            value = value * decay + x * (1 - decay) if math.isfinite(x) else value
        return value
    window = column[-size:]
    if len(window) < size or not all(map(math.isfinite, window)):
        return math.nan
    if kind == "slope":
        centre = (size - 1) / 2
        return sum(x * (i - centre) for i, x in enumerate(window)) / sum((i - centre) ** 2 for i in range(size))
    return {"mean": sum(window) / size, "max": max(window), "min": min(window)}[kind]


def _truth(node: Any, state: dict[str, Any]) -> bool | None:
    if node[0] in "<>":
        left, right = _number(node[1], state), _number(node[2], state)
        if math.isnan(left) or math.isnan(right):
            return None
        return left > right if node[0] == ">" else left < right
    if node[0] == "not":
        inner = _truth(node[1], state)
        return None if inner is None else not inner
    values = [_truth(node[1], state), _truth(node[2], state)]
    decisive = node[0] == "or"
    return decisive if decisive in values else None if None in values else not decisive


def _text(node: Any) -> str:
    if isinstance(node, float):
        return str(node)
    if node[0] in PROBES:
        return f"{node[0]}.{node[1]}" + ("" if node[1] == "last" else f"({node[2]})")
    if node[0] == "not":
        return f"(not {_text(node[1])})"
    return f"({_text(node[1])} {node[0]} {_text(node[2])})"


SIGNAL = st.tuples(st.sampled_from(PROBES), st.sampled_from(("last", "ewma", "mean", "max", "min", "slope")), st.integers(2, 5))
TEST = st.tuples(st.sampled_from("<>"), SIGNAL, st.one_of(SIGNAL, st.sampled_from([-1.03, 0.07, 1.01, 2.02])))
CONDITION = st.recursive(
    TEST, lambda inner: st.tuples(st.sampled_from(("and", "or")), inner, inner) | st.tuples(st.just("not"), inner), max_leaves=4
)


@settings(max_examples=150, deadline=None)
@given(CONDITION, st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_vectorised_engine_equals_the_naive_one(condition: Any, hold: int, seed: int) -> None:
    rules, naive, draw = engine(_text(condition), str(hold)), Naive(condition, hold), random.Random(seed)
    for slot in range(5):
        rules.begin(slot)
    for _ in range(14):
        slots = draw.sample(range(5), draw.randint(1, 5))
        scores = [[math.nan if draw.random() < 0.05 else draw.gauss(0, 2) for _ in PROBES] for _ in slots]
        fired = {verdict.slot for verdict in rules.judge(np.array(slots), np.zeros(len(slots), np.int64), np.array(scores))}
        assert fired == {slot for slot, row in zip(slots, scores, strict=True) if naive.token(slot, row)}


def test_an_unproven_probe_does_not_halt_unless_it_is_named() -> None:
    text = "rules:\n- {rule: r, desc: d, when: a.last > 1, do: halt, mode: MODE}\n"
    with pytest.raises(
        DocumentError, match=r"rule 'r' halts on 'a', whose card says causal: false; set mode: shadow, or accept_unproven: \[a\]"
    ):
        RuleEngine.from_text(text.replace("MODE", "armed"), ("a", "b"), unproven=frozenset({"a"}))
    for allowed in ("shadow", "armed, accept_unproven: [a]"):
        RuleEngine.from_text(text.replace("MODE", allowed), ("a", "b"), unproven=frozenset({"a"}))
    RuleEngine.from_text(text.replace("MODE", "armed"), ("a", "b"), unproven=frozenset({"b"}))

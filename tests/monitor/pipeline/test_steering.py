"""Pushes as the sidecar sees them: what it asks of which tap, and the rule's `else`, whatever the tap says or does not say."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor import wire
from monitor.errors import WireError
from monitor.pipeline.rulebook import Rulebook
from monitor.pipeline.rulefiles import facts
from monitor.pipeline.source import Source
from probes.bank import Bank
from rules.engine import RuleEngine
from rules.schema import Action
from tests.banks import steerable
from tests.monitor.pipeline.rig import Rig

RULES = """
rules:
- {rule: calm_down, desc: d, when: panic.last > 3, do: {steer: {probe: panic, dose: -0.1, for: 4 tokens, else: ELSE}}, mode: MODE}
- {rule: too_much, desc: d, when: panic.last > 7, do: {steer: {probe: panic, dose: -0.2, for: 2 tokens}}, mode: armed}
"""


class Steered(Rig):
    """A rig whose tap takes what the sidecar says."""

    def __init__(self, bank: Bank, path: Path, otherwise: str = "halt", mode: str = "armed") -> None:
        super().__init__(steerable(bank), path, RULES.replace("ELSE", otherwise).replace("MODE", mode))
        self.hello = wire.Hello(**{name: getattr(self.hello, name) for name in self.hello.__struct_fields__} | {"steers": ["panic"]})
        self.pipeline._steering._numbers = itertools.count(1)
        self.heard: list[wire.Steer] = []
        self.source = self.listening()

    def listening(self) -> Source:
        source = self.tap()
        source.send = lambda packet: self.heard.append(wire.decode_steer(packet)) or True  # type: ignore[func-returns-value]
        return source

    def tokens(self, first: int, *scores: float, steered: Any = ()) -> None:
        """Tokens of stream 0, each in a frame of its own; `steered` comes with the first."""
        for i, score in enumerate(scores):
            self.frame([(0, first + i, score)], steered=[wire.Steered(*each) for each in steered] if i == 0 else [])

    @property
    def said(self) -> list[wire.Steer]:
        """What the tap was asked for, without the ends."""
        return [steer for steer in self.heard if steer.tokens]

    @property
    def events(self) -> list[str]:
        return [record["event"] for record in self.records("steer")]

    @property
    def acting(self) -> Any:
        return next(iter(self.pipeline.streams.by_slot.values())).acting


@pytest.fixture
def rig(bank: Bank, tmp_path: Path) -> Steered:
    rig = Steered(bank, tmp_path / "ledger")
    rig.frame(begins=[(0, "r", 0)])
    return rig


def test_a_push_that_helps_ends_quietly(rig: Steered) -> None:
    rig.tokens(0, 1.0, 5.0)
    assert rig.said == [wire.Steer(1, 0, "panic", -0.1, 4)]
    rig.tokens(2, 4.0)
    rig.tokens(3, 4.0, 3.5, 2.0, 1.0, 0.5, steered=[(1, 3)])
    assert rig.acting is None
    rig.frame(ends=[(0, 8)])
    asked, began, fell = rig.records("steer")
    assert (asked["event"], asked["rule"], asked["position"], asked["probe"], asked["dose"], asked["wanted"]) == (
        "asked", "calm_down", 1, "panic", -0.1, 4,
    )  # fmt: skip
    assert (began["event"], began["first"], began["late"]) == ("began", 3, 1)
    assert (fell["event"], fell["at"], fell["tokens"]) == ("fell", 7, 4)
    assert (fell["before"], fell["after"]) == (3.0, pytest.approx((1 + 5 + 4 + 4 + 3.5 + 2 + 1) / 7, abs=1e-3))
    assert [record["action"] for record in rig.records("verdict") if record["event"] == "fired"] == ["steer"]
    assert rig.sample("barograph_steers_total", probe="panic", event="fell") == 1


@pytest.mark.parametrize(
    ("otherwise", "action"), [("halt", "halt"), ("{halt: {message: No.}}", "halt"), ("{reroute: {to: safe}}", "reroute")]
)
def test_a_push_that_does_not_help_ends_by_the_rule_s_else(bank: Bank, tmp_path: Path, otherwise: str, action: str) -> None:
    rig = Steered(bank, tmp_path / "ledger", otherwise)
    rig.frame(begins=[(0, "r", 0)])
    rig.tokens(0, 5.0)
    rig.tokens(1, 5.0, 5.0, 5.0, 4.0, steered=[(1, 1)])
    assert rig.acting is None
    rig.tokens(5, 4.0)
    assert rig.events == ["asked", "began", "else"]
    assert (rig.acting.position, rig.acting.action.name.lower()) == (5, action)
    assert [(record["action"], record["position"]) for record in rig.records("verdict")] == [("steer", 0), (action, 5)]
    assert (rig.acting.rule.do.ending is not None, rig.acting.rule.do.turning is not None) == (True, action == "reroute")


def test_a_tap_that_says_nothing_does_not_keep_the_else_away(rig: Steered) -> None:
    rig.tokens(0, 5.0, 5.0, 5.0, 5.0, 5.0)
    assert rig.acting is None
    rig.tokens(5, 5.0)
    assert (rig.events, rig.acting.position) == (["asked", "else"], 5)


@pytest.mark.parametrize("case", ["does not steer", "does not listen", "refuses"])
def test_where_nobody_can_push_the_else_comes_at_once(bank: Bank, tmp_path: Path, case: str) -> None:
    rig = Steered(bank, tmp_path / "ledger")
    if case == "does not steer":
        rig.source = rig.tap(steers=[], source="t")
    elif case == "does not listen":
        rig.source.send = lambda packet: False
    rig.frame(begins=[(0, "r", 0)])
    rig.tokens(0, 5.0)
    rig.tokens(1, 5.0, steered=[(1, 0, 0, "the stream is over")] if case == "refuses" else [])
    assert rig.acting.position == 1
    refused = next(record for record in rig.records("steer") if record["event"] == "refused")
    assert refused["why"] == {
        "does not steer": "the engine's tap does not steer along it", "does not listen": "the engine's tap does not listen",
        "refuses": "the stream is over",
    }[case]  # fmt: skip


def test_in_shadow_nothing_is_pushed(bank: Bank, tmp_path: Path) -> None:
    rig = Steered(bank, tmp_path / "ledger", mode="shadow")
    rig.frame(begins=[(0, "r", 0)])
    rig.tokens(0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0)
    assert (rig.said, rig.events, rig.acting) == ([], [], None)


def test_a_rule_that_is_put_in_shadow_meanwhile_pushes_and_ends_nothing(rig: Steered) -> None:
    rig.tokens(0, 5.0)
    rig.pipeline.rules.overrides = {"calm_down": "shadow"}
    rig.pipeline.reviewed()
    assert rig.heard[1:] == [wire.Steer(1, 0, "panic", -0.1, 0)], "the tap hears that it is over"
    rig.tokens(1, 5.0, 5.0, 5.0, 5.0, 5.0, steered=[(1, 1, 0)])
    assert (rig.events, rig.acting) == (["asked", "withdrawn"], None)


def test_a_frame_of_many_tokens_does_not_pass_the_else_by(rig: Steered) -> None:
    rig.frame([(0, position, 5.0) for position in range(8)])
    assert (rig.events, rig.said, rig.acting.position) == (["else"], [], 5)


def test_a_second_rule_gets_its_else_although_only_one_pushes(rig: Steered) -> None:
    rig.tokens(0, 9.0)
    assert [steer.push for steer in rig.said] == [1]
    assert {(record["event"], record["rule"]) for record in rig.records("steer")} == {("asked", "calm_down"), ("waits", "too_much")}
    rig.tokens(1, 9.0, 9.0)
    assert rig.acting is None
    rig.tokens(3, 9.0)
    assert (rig.acting.rule.rule, rig.acting.position) == ("too_much", 3)


def test_pushes_of_many_streams_end_each_in_its_time(rig: Steered) -> None:
    streams = range(1, 60)
    rig.frame(begins=[(i, f"many{i}", 0) for i in streams])
    for position in range(40):
        rig.frame([(i, position, 5.0 if position >= i % 30 else 0.0) for i in streams])
    acting = {stream.key[0]: stream.acting for stream in rig.pipeline.streams.by_slot.values()}
    assert [acting[f"many{i}"].position for i in streams] == [i % 30 + 5 for i in streams]


def test_a_stream_that_ends_takes_its_push_along(rig: Steered) -> None:
    rig.tokens(0, 5.0)
    rig.tokens(1, 5.0, steered=[(1, 1)])
    rig.frame(ends=[(0, 2)], steered=[wire.Steered(1, 1, 4)])
    assert rig.events == ["asked", "began", "ended"]
    assert rig.records("steer")[-1]["tokens"] == 1
    rig.frame(begins=[(1, "s", 0)])
    rig.frame([(1, 0, 1.0)])
    rig.frame([(1, 9, 1.0)], steered=[wire.Steered(1, 5)])
    assert rig.events == ["asked", "began", "ended"], "the slot's next stream has nothing to do with it"


@pytest.mark.parametrize("first", [0, 2**40, 10**6])
def test_a_tap_that_lies_about_the_beginning_cannot_put_the_end_off(rig: Steered, first: int) -> None:
    rig.tokens(0, 5.0)
    rig.tokens(1, *[5.0] * 30, steered=[(1, first)])
    assert rig.acting.position <= 1 + 16 + 4


def test_a_tap_says_nothing_of_another_s_pushes(rig: Steered) -> None:
    other = rig.listening()
    rig.tokens(0, 5.0)
    rig.frame(source=other, seq=1, steered=[wire.Steered(1, 0, 0, "no")])
    rig.tokens(1, 5.0)
    assert (rig.events, rig.acting) == (["asked"], None)


def test_hellos_and_packets_beyond_the_bounds_are_refused(rig: Steered) -> None:
    with pytest.raises(WireError, match="hello that steers along 1 probes; expected some of the 7 that it reads"):
        rig.tap(steers=["joy"], source="t")
    with pytest.raises(WireError, match="1025 pushes in one packet"):
        rig.frame(steered=[wire.Steered(1)] * 1025)


@settings(max_examples=60)
@given(st.data())
def test_whatever_a_tap_says_every_push_has_one_end(bank: Bank, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rig = Steered(bank, tmp_path_factory.mktemp("any") / "ledger")
    rig.frame(begins=[(0, "r", 0)])
    numbers, counts = st.integers(-1, 4), st.integers(0, 2**33)
    says = st.lists(st.builds(wire.Steered, numbers, counts, counts, st.sampled_from(["", "no", "x" * 999])), max_size=3)
    for position in range(data.draw(st.integers(1, 30))):
        rig.frame([(0, position, data.draw(st.sampled_from([0.0, 5.0, 9.0, float("nan")])))], steered=data.draw(says))
    rig.frame(ends=[(0, 40)])
    records = rig.records("steer")
    rules = {record["rule"] for record in records}
    for rule in rules:
        events = [record["event"] for record in records if record["rule"] == rule]
        assert events[0] in ("asked", "waits", "refused")
        assert sum(event in ("fell", "else", "ended") for event in events) == 1
        assert events[-1] in ("fell", "else", "ended")


def reloaded(rig: Steered, **changes: str) -> None:
    """Another version of the rules, with these words in the place of others."""
    text = RULES.replace("ELSE", "halt").replace("MODE", "armed")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    rig.pipeline.use(RuleEngine.from_text(text, facts(rig.pipeline.bank)))


def test_the_else_is_that_of_the_rule_in_force(rig: Steered) -> None:
    rig.tokens(0, 5.0)
    reloaded(rig, **{"else: halt": "else: {reroute: {to: safe}}"})
    rig.tokens(1, 5.0, 5.0, 5.0, 5.0, 5.0)
    assert (rig.acting.action, rig.acting.position, rig.acting.rule.do.turning.to) == (Action.REROUTE, 5, "safe")


def test_a_rule_that_halts_by_now_halts_and_one_that_only_alerts_takes_its_push_back(rig: Steered) -> None:
    push = "do: {steer: {probe: panic, dose: -0.1, for: 4 tokens, else: halt}}"
    rig.tokens(0, 5.0)
    reloaded(rig, **{push: "do: halt"})
    rig.tokens(1, 5.0, 5.0, 5.0, 5.0, 5.0)
    assert (rig.acting.action, rig.acting.position) == (Action.HALT, 5)
    rig.frame(ends=[(0, 6)])
    reloaded(rig)
    rig.frame(begins=[(1, "s", 0)])
    rig.frame([(1, 0, 5.0)])
    reloaded(rig, **{push: "do: alert"})
    for position in range(1, 9):
        rig.frame([(1, position, 5.0)])
    assert rig.acting is None
    assert rig.events[-1] == "withdrawn"


def test_a_reload_keeps_the_push_of_a_rule_that_was_armed_by_hand(bank: Bank, tmp_path: Path) -> None:
    rig = Steered(bank, tmp_path / "ledger", mode="shadow")
    text = RULES.replace("ELSE", "halt").replace("MODE", "shadow")
    (tmp_path / "rules.yaml").write_text(text)
    book = Rulebook(tmp_path / "rules.yaml", facts(rig.pipeline.bank), rig.ledger)
    rig.pipeline.use(book.engine)
    book.serve(rig.pipeline)
    book.alerts({"alerts": [{"status": "firing", "labels": {"alertname": "a", "barograph_arm": "calm_down"}}]})
    rig.frame(begins=[(0, "r", 0)])
    rig.tokens(0, 5.0)
    (tmp_path / "rules.yaml").write_text(text + "- {rule: new, desc: d, when: panic.last > 7, do: alert}\n")
    book.reload("file")
    rig.tokens(1, 5.0, 5.0, 5.0, 5.0, 5.0)
    assert (rig.events, rig.acting.position) == (["asked", "else"], 5)


def test_a_tap_that_refuses_again_and_again_is_heard_once(rig: Steered) -> None:
    rig.tokens(0, 5.0)
    rig.frame(steered=[wire.Steered(1, 0, 0, "no")] * 1000)
    rig.frame([(0, 1, 5.0)], steered=[wire.Steered(1, 30)])
    assert (rig.events, rig.acting.position) == (["asked", "refused", "else"], 1)

"""What a tap may claim and make grow: who owns a stream, who proved itself, and every bound."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor import wire
from monitor.config import GatewayConfig
from monitor.errors import WireError
from monitor.gateway.hold import Failure, Hold
from monitor.pipeline import bounds
from monitor.pipeline.bounds import Refused
from monitor.pipeline.source import Source
from monitor.pipeline.streams import Stream
from monitor.sinks.prometheus import MAX_MODELS
from probes.bank import Bank
from tests.monitor.pipeline.rig import Rig


@pytest.fixture
def rig(bank: Bank, tmp_path: Path) -> Rig:
    return Rig(bank, tmp_path / "ledger")


def refused(rig: Rig, reason: str) -> float:
    return rig.sample("barograph_packets_refused_total", reason=reason) or 0


# Who owns a stream


async def outcome(rig: Rig, ticket: Any, tokens: int) -> object:
    return await Hold(GatewayConfig(judge_timeout_s=0.05), rig.pipeline.streams, ticket, rig.ledger, rig.pipeline.metrics).outcome(
        0, tokens
    )


@pytest.mark.parametrize("other", [False, True], ids=["the same tap", "another tap"])
def test_a_second_begin_is_refused_and_the_first_stream_fails_closed(rig: Rig, other: bool) -> None:
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 0.1)], begins=[(0, "r", 0)])
    first = ticket.streams[0]
    source = rig.tap(source="stranger") if other else rig.source
    rig.frame([(9, 0, 0.1), (9, 1, 0.1)], begins=[(9, "r", 0)], source=source)
    assert ticket.streams == {0: first}
    assert isinstance(asyncio.run(outcome(rig, ticket, 1)), Failure)
    assert refused(rig, "begin") == 1
    (record,) = [record for record in rig.records("tap") if record["event"] == "refused"]
    assert (record["stream"], record["first"], record["source"]) == ("r#0", "s", "stranger" if other else "s")
    assert rig.sample("barograph_tokens_judged_total") == 1


def test_a_stream_that_ended_is_not_begun_again_while_its_reply_is_on_its_way(rig: Rig) -> None:
    """A halt's stream is over long before the chunk is read: whoever begins it anew must not replace the verdict."""
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 9.0)], begins=[(0, "r", 0)], ends=[(0, 1)])
    first = ticket.streams[0]
    rig.frame([(5, 0, 0.1)], begins=[(5, "r", 0)], source=rig.tap(source="stranger"))
    assert ticket.streams == {0: first}
    assert first.acting is not None
    assert rig.pipeline.streams.gap[first.slot]


def test_a_number_that_runs_is_not_given_away(rig: Rig) -> None:
    one, two = rig.pipeline.streams.expect("a"), rig.pipeline.streams.expect("b")
    rig.frame([(0, 0, 0)], begins=[(0, "a", 0)])
    rig.frame([(0, 1, 0)], begins=[(0, "b", 0)])
    assert two.streams == {}
    assert rig.pipeline.streams.gap[one.streams[0].slot]
    assert refused(rig, "begin") == 1


def test_what_is_told_again_is_no_second_begin(rig: Rig) -> None:
    """After a reconnection a Live comes first, and then the packets that waited, with the same begins."""
    ticket = rig.pipeline.streams.expect("r")
    rig.pipeline.take(rig.source, wire.encode(wire.Live([wire.Begin(0, "r", 0)])))
    rig.frame([(0, 0, 0)], begins=[(0, "r", 0)])
    rig.pipeline.take(rig.source, wire.encode(wire.Live([wire.Begin(0, "r", 0)])))
    rig.frame([(0, 1, 0)])
    stream = ticket.streams[0]
    assert (refused(rig, "begin"), int(rig.pipeline.streams.judged[stream.slot]), bool(rig.pipeline.streams.gap[stream.slot])) == (
        0,
        2,
        False,
    )


def test_a_stream_that_nobody_expected_never_gets_a_ticket(rig: Rig) -> None:
    rig.frame([(0, 0, 0.1)], begins=[(0, "r", 0)])
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 1, 0.1)])
    rig.frame([(1, 0, 0.1)], begins=[(1, "r", 0)])
    assert ticket.streams == {}
    assert refused(rig, "begin") == 1


def test_the_same_request_after_its_end_is_a_new_stream(rig: Rig) -> None:
    """Clients that go to the engine directly may use an id again."""
    for number in range(3):
        rig.frame([(number, 0, 0)], begins=[(number, "mine", 0)], ends=[(number, 1)])
    rig.pipeline.take(rig.source, wire.encode(wire.Live([wire.Begin(7, "mine", 0)])))
    rig.pipeline.take(rig.source, wire.encode(wire.Live([wire.Begin(8, "mine", 0)])))
    assert refused(rig, "begin") == 0
    assert [stream.number for stream in rig.pipeline.streams.by_slot.values()] == [8]


def test_a_tap_that_comes_back_in_the_middle_does_not_take_the_reply_over(rig: Rig) -> None:
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 0)], begins=[(0, "r", 0)])
    rig.pipeline.disconnect(rig.source)
    first = ticket.streams[0]
    rig.pipeline.take(rig.tap(), wire.encode(wire.Live([wire.Begin(0, "r", 0)])))
    assert ticket.streams == {0: first}
    assert refused(rig, "begin") == 0  # an honest tap: nothing to complain of


def test_refused_begins_without_end_do_not_fill_the_ledger(rig: Rig) -> None:
    rig.frame(begins=[(0, "r", 0)])
    for number in range(1, 200):
        rig.frame(begins=[(number, "r", 0)])
    assert refused(rig, "begin") == 199
    assert sum(record["event"] == "refused" for record in rig.records("tap")) == bounds.MAX_RECORDED


# Who may speak


def test_a_tap_without_the_secret_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(wire.TAP_KEY, "right-secret-ü")
    for secret in ("", "wrong-secret", "right-secret"):
        with pytest.raises(Refused, match="give its engine the same BAROGRAPH_TAP_KEY") as refusal:
            rig.tap(secret=secret)
        assert refusal.value.reason == "secret"
        assert "wrong" not in str(refusal.value)
    source = rig.tap(secret="right-secret-ü")
    assert "secret" not in rig.said() + caplog.text + repr(source.hello).replace("secret=''", "")


def test_without_a_secret_of_ours_every_tap_is_taken(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(wire.TAP_KEY, raising=False)
    rig.tap(secret="whatever")


def check(rig: Rig, source: Source, *given: Any) -> None:
    rig.pipeline.take(source, wire.encode(wire.Check(*given)))


def test_a_tap_scores_only_when_it_has_proved_itself(rig: Rig) -> None:
    rig.pipeline.disconnect(rig.source)
    source = rig.pipeline.connect(rig.hello)
    assert not rig.pipeline.scoring
    assert rig.pipeline.unproved == [source]
    assert source.checked == "pending"
    assert rig.sample("barograph_taps_unproved") == 1
    check(rig, source, True, 8, 0.01)
    assert rig.pipeline.scoring
    assert rig.pipeline.unproved == []
    assert source.checked == "ok"
    record = rig.records("tap")[-1]
    assert (record["event"], record["ok"], record["tokens"], record["worst"], record["why"]) == ("check", True, 8, 0.01, "")
    assert rig.sample("barograph_taps_unproved") == 0


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((False, 8, 3.5, "scores of another layer"), "scores of another layer"),
        ((False, 0, 0.0), "it gave no reason"),
        ((True, 0, 0.0), "0 tokens"),
        ((True, 8, float("nan")), "worst difference of nan"),
    ],
)
def test_a_tap_that_fails_its_check_does_not_count(rig: Rig, given: Any, why: str) -> None:
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 0)], begins=[(0, "r", 0)])
    check(rig, rig.source, *given)
    assert not rig.pipeline.scoring
    assert why in rig.source.failed
    assert rig.source.checked == f"failed: {rig.source.check.why}"  # type: ignore[union-attr]
    assert rig.pipeline.unproved == []
    assert rig.pipeline.streams.gap[ticket.streams[0].slot]
    assert [record["event"] for record in rig.records("tap")][-2:] == ["check", "failed"]
    assert rig.sample("barograph_tap_checks_total", outcome="failed") == 1
    check(rig, rig.source, True, 8, 0.0)  # too late
    assert not rig.pipeline.scoring


def test_what_a_failed_tap_begins_afterwards_fails_closed_too(rig: Rig) -> None:
    rig.tap(source="other")  # so that the gateway goes on
    check(rig, rig.source, False, 8, 9.0, "x")
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 0)], begins=[(0, "r", 0)])
    assert rig.pipeline.scoring
    assert rig.pipeline.streams.gap[ticket.streams[0].slot]


def test_the_check_may_be_switched_off(bank: Bank, tmp_path: Path) -> None:
    rig = Rig(bank, tmp_path / "ledger", self_check="off")
    rig.pipeline.disconnect(rig.source)
    rig.pipeline.connect(rig.hello)
    assert rig.pipeline.scoring
    assert rig.pipeline.unproved == []


def test_failures_and_checks_that_are_said_again_are_recorded_once(rig: Rig) -> None:
    for _ in range(20):
        check(rig, rig.source, True, 8, 0.0)
        rig.frame(failed="x" * 100_000)
    assert [record["event"] for record in rig.records("tap")] == ["connected", "check", "failed"]
    assert len(rig.source.failed) == bounds.MAX_WHY


# What may grow


def test_numbers_that_are_equal_modulo_any_power_of_two_cost_nothing(rig: Rig) -> None:
    numbers = [0, 2**31, 2**30, 2**31 + 2**30, 2**32 - 1]
    rig.frame([(number, 0, 1.0) for number in numbers], begins=[(number, f"r{number}", 0) for number in numbers])
    assert rig.sample("barograph_tokens_judged_total") == len(numbers)
    assert len(rig.source._numbers) == len(numbers) + 1


def test_begins_without_ends(rig: Rig) -> None:
    """From one tap, from one that reconnects, and from many."""
    number = 0
    for _ in range(3):
        for _ in range(wire.MAX_STREAMS // 100 + 3):
            rig.frame(begins=[(number + i, f"r{number + i}", 0) for i in range(100)])
            number += 100
        assert len(rig.source.streams) == wire.MAX_STREAMS
        rig.pipeline.disconnect(rig.source)
        assert rig.pipeline.streams.by_slot == {}
        rig.source = rig.tap()
    assert refused(rig, "streams") == 3 * 276
    size = len(rig.pipeline.streams.judged)
    for i in range(6):
        source = rig.tap(source=f"s{i}")
        live = [wire.Begin(number, f"{i}-{number}", 0) for number in range(wire.MAX_STREAMS)]
        rig.pipeline.take(source, wire.encode(wire.Live(live)))
    assert len(rig.pipeline.streams.by_slot) == bounds.MAX_TABLE
    assert len(rig.pipeline.streams.judged) == bounds.MAX_TABLE >= size


def test_a_stream_without_tokens_is_given_up(rig: Rig) -> None:
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 0)], begins=[(0, "r", 0), (1, "direct", 0)])
    moved = float(rig.pipeline.streams.moved[ticket.streams[0].slot])
    rig.pipeline.sweep(moved + bounds.IDLE_S - 1)
    assert len(rig.source.streams) == 2
    rig.pipeline.sweep(moved + bounds.IDLE_S + 1)
    assert rig.source.streams == {}
    assert rig.pipeline.streams.gap[ticket.streams[0].slot]
    assert [record["event"] for record in rig.records("stream")][-2:] == ["lost", "lost"]
    rig.frame([(0, 1, 9.0)])  # late: nobody is there for it
    assert ticket.streams[0].acting is None


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ({"begins": [(2**32, "r", 0)]}, "begins"),
        ({"begins": [(-1, "r", 0)]}, "begins"),
        ({"begins": [(1, "r" * 65, 0)]}, "begins"),
        ({"begins": [(1, "r", 2**40)]}, "begins"),
        ({"begins": [(i, "r", 0) for i in range(wire.MAX_STREAMS + 1)]}, "begins"),
        ({"ends": [(i, 0) for i in range(wire.MAX_STREAMS + 1)]}, "ends"),
        ({"ends": [(0, 2**63)]}, "positions"),
        ({"rows": [(0, 2**31, 0.0)]}, "positions"),
        ({"seq": 2**63}, "positions"),
    ],
)
def test_a_frame_that_no_tap_sends_is_refused_and_changes_nothing(rig: Rig, frame: dict[str, Any], reason: str) -> None:
    rig.frame([(0, 0, 0)], begins=[(0, "a", 0)])
    before = rig.said()
    with pytest.raises(Refused) as refusal:
        rig.frame(**frame)
    assert refusal.value.reason == reason
    assert len(str(refusal.value)) < 300
    assert list(rig.source.streams) == [0]
    assert rig.said() == before


@pytest.mark.parametrize("field", ["source", "engine", "model", "dtype", "bank"])
def test_long_names_are_refused(rig: Rig, field: str) -> None:
    with pytest.raises(Refused, match=f"a {field} of 60000 characters"):
        rig.tap(**{field: "x" * 60_000})
    with pytest.raises(Refused, match="passport"):
        rig.tap(passport={"weights": "x" * 60_000})
    with pytest.raises(Refused, match="passport of 5000 fields"):
        rig.tap(passport={str(i): "" for i in range(5000)})


def test_models_of_all_names_make_few_labels(rig: Rig) -> None:
    lines = []
    for i in range(300):
        source = rig.tap(model=f"model-{i}")
        rig.frame([(i, 0, 9.0)], begins=[(i, f"r{i}", 0)], source=source)
        rig.pipeline.disconnect(source)
        lines.append(sum(1 for family in rig.registry.collect() for _ in family.samples))
    assert lines[-1] == lines[2 * MAX_MODELS]
    assert (
        rig.sample("barograph_verdicts_total", rule="high", action="halt", severity="warning", mode="armed", model="other", tenant="")
        == 300 - MAX_MODELS + 1
    )


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_whatever_taps_claim_the_tables_stay_small_and_nothing_breaks(
    tmp_path_factory: pytest.TempPathFactory, bank: Bank, data: Any
) -> None:
    rig = Rig(bank, tmp_path_factory.mktemp("wild") / "ledger")
    tickets = [rig.pipeline.streams.expect(name) for name in "ab"]
    sources = [rig.source, rig.tap(source="two")]
    number = st.sampled_from([-1, 0, 1, 2, 2**31, 2**32 - 1, 2**32, 2**64 - 1])
    choice = st.sampled_from([-1, 0, 1, 1023, 1024, 2**63])
    for _ in range(data.draw(st.integers(1, 6))):
        source = data.draw(st.sampled_from(sources))
        begins = data.draw(st.lists(st.tuples(number, st.sampled_from(["a", "b", "c", "x" * 65]), choice), max_size=3))
        rows = data.draw(st.lists(st.tuples(st.sampled_from([0, 1, 2**31]), st.integers(0, 3), st.floats(width=32)), max_size=4))
        ends = data.draw(st.lists(st.tuples(number, number), max_size=2))
        try:
            if data.draw(st.booleans()):
                rig.frame(rows, begins, ends, source=source)
            else:
                rig.pipeline.take(source, wire.encode(wire.Live([wire.Begin(*begin) for begin in begins])))
        except WireError:
            pass
        table = rig.pipeline.streams
        for ticket in tickets:
            for index, stream in ticket.streams.items():
                assert table.by_slot[stream.slot] is stream
                assert stream.key == (ticket.request, index)
        running = [stream for each in sources for stream in each.streams.values()]
        assert len({stream.key for stream in running}) == len(running)
        assert {stream.slot: stream for stream in running}.items() <= table.by_slot.items()
    for source in sources:
        rig.pipeline.disconnect(source)
    for ticket in tickets:
        rig.pipeline.streams.forget(ticket)
    assert rig.pipeline.streams.by_slot == {}
    assert rig.pipeline.streams._running == {}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2**32 - 1)), max_size=60))
def test_the_table_of_numbers_says_what_a_dictionary_says(steps: list[tuple[bool, int]]) -> None:
    source = Source(wire.Hello(wire.VERSION, "s", 1, "e", "m", "d", "b", ["p"], [1]))
    known: dict[int, int] = {}
    for slot, (adds, number) in enumerate(steps):
        if adds and number not in known:
            source.add(Stream((str(number), 0), "s", slot, number, 0.0, None))
            known[number] = slot
        elif known:
            gone = sorted(known)[slot % len(known)]
            source.remove(source.streams[gone])
            del known[gone]
        asked = np.array([number, *known, 0, 2**32 - 1], np.uint32)
        assert source.slots(asked).tolist() == [known.get(int(each), -1) for each in asked]

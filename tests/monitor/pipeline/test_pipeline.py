"""The pipeline from packets to verdicts, without a socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor import wire
from monitor.audit.levels import Level, Levels
from monitor.errors import WireError
from monitor.pipeline.proof import Finding, Proof
from monitor.pipeline.rulefiles import facts
from monitor.pipeline.source import Source
from monitor.pipeline.streams import HISTORY
from probes.bank import Bank
from probes.passport import Passport
from rules.engine import RuleEngine
from tests.monitor.pipeline.rig import RULES, Rig


@pytest.fixture
def rig(bank: Bank, tmp_path: Path) -> Rig:
    return Rig(bank, tmp_path / "ledger")


def test_a_stream_from_begin_to_end(rig: Rig) -> None:
    rig.frame([(0, 0, 1.0)], begins=[(0, "r", 0)])
    rig.frame([(0, 1, 5.0)])
    rig.frame(ends=[(0, 2)])
    verdicts, streams = rig.records("verdict"), rig.records("stream")
    assert [(verdict["rule"], verdict["mode"], verdict["position"], verdict["stream"]) for verdict in verdicts] == [
        ("high", "armed", 1, "r#0"),
        ("look", "shadow", 1, "r#0"),
    ]
    assert verdicts[0]["model_signal"]["panic"] == [1.0, 5.0]
    assert [stream["event"] for stream in streams] == ["begin", "end"]
    assert (streams[1]["tokens"], streams[1]["judged"], streams[1]["peak"]["panic"]) == (2, 2, 5.0)
    assert rig.sample("barograph_tokens_judged_total") == 2
    assert rig.sample("barograph_verdicts_total", rule="high", action="halt", severity="warning", mode="armed", model="m", tenant="") == 1
    assert rig.sample("barograph_score_bucket", probe="panic", model="m", le="2.0") == 1
    assert rig.pipeline.streams.by_slot == {}


def test_a_verdict_is_recorded_before_it_is_published(rig: Rig) -> None:
    names = [stage.__name__ for stage in rig.pipeline.stages]
    assert names == ["decode", "meter", "judge", "act", "record", "publish"]


def test_a_lost_frame_is_a_gap_for_its_streams_only(rig: Rig) -> None:
    rig.frame([(0, 0, 0), (1, 0, 0)], begins=[(0, "a", 0), (1, "b", 0)])
    rig.seq += 1
    rig.frame([(0, 2, 0), (1, 1, 0)])
    table = rig.pipeline.streams
    by_name = {stream.name: stream.slot for stream in table.by_slot.values()}
    assert (bool(table.gap[by_name["a#0"]]), bool(table.gap[by_name["b#0"]])) == (True, False)
    assert rig.sample("barograph_frames_lost_total") == 1
    assert rig.records("gap")[0]["frames"] == 1


def test_an_end_that_came_before_its_scores_is_a_gap(rig: Rig) -> None:
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 0)], begins=[(0, "r", 0)])
    rig.frame(ends=[(0, 3)])
    assert rig.pipeline.streams.gap[ticket.streams[0].slot]


def test_a_stream_keeps_its_slot_while_the_gateway_reads_it(rig: Rig) -> None:
    table = rig.pipeline.streams
    ticket = table.expect("r")
    rig.frame([(0, 0, 1.5)], begins=[(0, "r", 0)], ends=[(0, 1)])
    slot = ticket.streams[0].slot
    rig.frame([(1, 0, 9.0)], begins=[(1, "other", 0)])
    assert table.recent(slot, 0, 1)[0, 1] == pytest.approx(1.5)
    table.forget(ticket)
    assert slot not in table.by_slot


def test_rows_of_a_stream_that_is_not_known_are_dropped(rig: Rig) -> None:
    rig.frame([(1024 * 5, 0, 9.0)])
    assert rig.records("verdict") == []
    assert rig.sample("barograph_tokens_judged_total") == 0


def test_a_tap_that_goes_loses_its_streams(rig: Rig) -> None:
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 0)], begins=[(0, "r", 0)])
    rig.pipeline.disconnect(rig.source)
    stream = ticket.streams[0]
    assert rig.pipeline.streams.gap[stream.slot]
    assert rig.pipeline.streams.ended[stream.slot]
    assert not rig.pipeline.scoring
    assert rig.records("stream")[-1]["event"] == "lost"


def test_a_tap_that_fails_is_not_scoring(rig: Rig) -> None:
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 0)], begins=[(0, "r", 0)])
    rig.frame(failed="ValueError: x")
    assert not rig.pipeline.scoring
    assert rig.pipeline.streams.gap[ticket.streams[0].slot]
    assert rig.sample("barograph_taps_failed") == 1


def test_after_drops_the_live_list_heals(rig: Rig) -> None:
    rig.frame([(0, 0, 0)], begins=[(0, "a", 0)])
    rig.pipeline.take(rig.source, wire.encode(wire.Live([wire.Begin(1, "b", 0)])))
    assert [stream.name for stream in rig.pipeline.streams.by_slot.values()] == ["b#0"]


def test_a_failing_rule_engine_never_lets_a_token_count_as_judged(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("bug")

    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 0)], begins=[(0, "r", 0)])
    monkeypatch.setattr(rig.pipeline.rules, "judge", broken)
    with pytest.raises(RuntimeError):
        rig.frame([(0, 1, 0)])
    assert rig.pipeline.streams.judged[ticket.streams[0].slot] == 1


def test_a_proof_keeps_thresholds_from_being_stale_on_what_it_was_made_on(rig: Rig) -> None:
    running = Passport(weights="vllm:1", dtype="bfloat16", engine="vllm 0.32.0")
    hello = msgspec.structs.replace(rig.hello, passport=running.model_dump())
    finding = Finding(what="scores fire", ok=True, text="")
    assert "engine" in rig.pipeline.connect(hello).stale
    rig.pipeline.proof = Proof(bank=rig.pipeline.bank.digest, passport=running, engine="", machine="", time="", findings=(finding,))
    assert rig.pipeline.connect(hello).stale == []
    other = running.model_copy(update={"weights": "vllm:2"})
    assert "engine" in rig.pipeline.connect(msgspec.structs.replace(hello, passport=other.model_dump())).stale


def test_another_bank_is_refused(rig: Rig) -> None:
    with pytest.raises(WireError, match="give both the same"):
        rig.pipeline.connect(msgspec.structs.replace(rig.hello, bank="other"))


def test_many_streams_and_reused_numbers(rig: Rig) -> None:
    for number in range(3000):
        rig.frame([(number, 0, 0)], begins=[(number, f"r{number}", 0)])
        if number >= 200:
            rig.frame(ends=[(number - 200, 1)])
    assert len(rig.pipeline.streams.by_slot) == 200
    assert not rig.pipeline.streams.gap[list(rig.pipeline.streams.by_slot)].any()
    assert len(rig.pipeline.streams.judged) <= 256


def test_history_is_a_ring(rig: Rig) -> None:
    ticket = rig.pipeline.streams.expect("r")
    rig.frame(begins=[(0, "r", 0)])
    for position in range(HISTORY + 10):
        rig.frame([(0, position, position / 100)])
    recent = rig.pipeline.streams.recent(ticket.streams[0].slot, 0, HISTORY + 10)
    assert recent.shape == (HISTORY, 7)
    assert recent[-1, 1] == pytest.approx((HISTORY + 9) / 100)
    # What is no longer kept is not shown as what stands in its place now.
    slot, table = ticket.streams[0].slot, rig.pipeline.streams
    assert table.recent(slot, 0, 10).shape == (0, 7)
    assert table.recent(slot, 5, 12)[:, 1] == pytest.approx([0.10, 0.11])
    assert table.recent(slot, 3, 3).shape == (0, 7)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.floats(width=32)), max_size=12),
    st.lists(st.tuples(st.integers(0, 3), st.text(max_size=4), st.integers(0, 2)), max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=3),
)
def test_whatever_a_tap_sends_the_pipeline_stands(
    tmp_path_factory: pytest.TempPathFactory, bank: Bank, rows: Any, begins: Any, ends: Any
) -> None:
    rig = Rig(bank, tmp_path_factory.mktemp("wild") / "ledger")
    for _ in range(2):
        rig.frame(rows, begins, ends)
    rig.pipeline.disconnect(rig.source)
    assert rig.pipeline.streams.by_slot == {}


def stale(rig: Rig) -> Source:
    """A tap on an engine that the bank was not calibrated on."""
    running = rig.pipeline.bank.card.passport.model_copy(update={"engine": "vllm 0.32.0"})
    return rig.pipeline.connect(msgspec.structs.replace(rig.hello, source="stale", passport=running.model_dump()))


def test_where_thresholds_are_stale_rules_record_and_do_not_act(rig: Rig) -> None:
    source = stale(rig)
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 4.0)], begins=[(0, "r", 0)], source=source)
    fired = {record["rule"]: (record["mode"], record["shadow"]) for record in rig.records("verdict")}
    assert fired == {"high": ("shadow", "stale"), "look": ("shadow", "mode")}
    assert ticket.streams[0].acting is None
    assert rig.records("tap")[-1]["rules_in_shadow"] is True


def test_the_setting_for_stale_thresholds_arms_them(bank: Bank, tmp_path: Path) -> None:
    rig = Rig(bank, tmp_path / "ledger", on_stale_thresholds="armed")
    source = stale(rig)
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 4.0)], begins=[(0, "r", 0)], source=source)
    assert ticket.streams[0].acting is not None


def test_other_rules_from_one_frame_to_the_next(rig: Rig) -> None:
    ticket = rig.pipeline.streams.expect("r")
    rig.frame([(0, 0, 2.5)], begins=[(0, "r", 0)])
    rig.pipeline.use(RuleEngine.from_text(RULES.replace("panic.last > 3", "panic.mean(2) > 2"), facts(rig.pipeline.bank)))
    rig.frame([(0, 1, 2.5)])
    assert ticket.streams[0].acting is None  # the ring was not there before, so it holds one token
    rig.frame([(0, 2, 2.5)])
    assert ticket.streams[0].acting is not None
    assert [record["rule"] for record in rig.records("verdict")] == ["look", "high"]  # look went on firing
    assert rig.sample("barograph_streams_firing", rule="high", model="m") == 1
    assert rig.sample("barograph_streams_running", model="m") == 1


def test_generations_are_told_by_what_becomes_of_their_tokens(rig: Rig) -> None:
    for number, name in enumerate("abcd"):
        rig.pipeline.streams.expect(name)
        rig.frame([(number, 0, 0.0)], begins=[(number, name, 0)])
    rig.frame([(0, 1, 4.0), (1, 2, 0.0), (2, 1, float("nan")), (3, 1, 0.0)])  # halted, a hole, no number, well
    states = {state: rig.sample("barograph_streams_state", state=state, model="m") for state in ("judged", "ending", "lost", "throttled")}
    assert states == {"judged": 1, "ending": 1, "lost": 2, "throttled": 0}
    assert rig.sample("barograph_tokens_missed_total") == 2  # the hole, and what was no number
    rig.frame([], ends=[(1, 5)])
    assert rig.sample("barograph_tokens_missed_total") == 4  # and the two that never came before the end


def test_series_of_verdicts_are_there_before_the_first(rig: Rig) -> None:
    """What Prometheus first sees at 1 has no increase."""
    assert rig.sample("barograph_verdicts_total", rule="high", action="halt", severity="warning", mode="armed", model="m", tenant="") == 0


def test_scores_are_recorded_when_asked(bank: Bank, tmp_path: Path) -> None:
    from monitor.audit.recordings import recordings

    rig = Rig(bank, tmp_path / "ledger", levels=Levels(Level.SCORES))
    for position in range(70):
        rig.frame([(0, position, position / 64)], begins=[(0, "r", 0)] if position == 0 else (), ends=[(0, 70)] if position == 69 else ())
    assert rig.ledger.flush()
    (found,) = recordings(str(rig.ledger.path), bank.names)
    assert found.scores[:, 1].tolist() == [position / 64 for position in range(70)]
    assert [record["tokens"] for record in rig.records("scores")] == [32, 32, 6]


def test_a_tap_that_tells_late_of_a_trial_raises_no_alarm(rig: Rig) -> None:
    """The engine's answer may come before its tap has a connection, or before the sidecar reads what it says."""
    ticket = rig.pipeline.streams.expect("trial-1", trial=True)
    rig.pipeline.streams.forget(ticket)
    for position in range(5):
        rig.frame([(0, position, 9.0)], begins=[(0, "trial-1", 0)] if position == 0 else (), ends=[(0, 5)] if position == 4 else ())
    assert rig.records("verdict") == []
    assert rig.records("reply") == []
    # Only the gateway's own: a request that merely calls itself so is judged.
    rig.frame([(1, 0, 9.0)], begins=[(1, "trial-2", 0)])
    assert rig.records("verdict") != []


def test_what_no_probe_gives_is_missing(bank: Bank, tmp_path: Path) -> None:
    """1e30 of a broken tap neither fires a rule nor swallows the sums, and a replay of the recording says the same."""
    from monitor.audit.recordings import recordings

    rig = Rig(bank, tmp_path / "ledger", levels=Levels(Level.SCORES))
    scores = [0.5, 1e30, -1e30, 70000.0, 380.0]
    for position, score in enumerate(scores):
        rig.frame([(0, position, score)], begins=[(0, "r", 0)] if position == 0 else (), ends=[(0, 5)] if position == 4 else ())
    assert rig.ledger.flush()
    assert {record["position"] for record in rig.records("verdict")} == {4}
    assert rig.sample("barograph_scores_not_finite_total") == 3
    (found,) = recordings(str(rig.ledger.path), bank.names)
    assert np.array_equal(found.scores[:, 1], [0.5, np.nan, np.nan, np.nan, 380.0], equal_nan=True)
    (native,) = [each for labels, each in next(iter(rig.pipeline.metrics.scores.collect())).native if labels["probe"] == bank.names[1]]
    assert native.sum_value == 380.5


def test_a_recording_ends_where_scores_were_lost_and_never_goes_on_as_another_stream(bank: Bank, tmp_path: Path) -> None:
    from monitor.audit.recordings import recordings

    rig = Rig(bank, tmp_path / "ledger", levels=Levels(Level.SCORES))
    for position in range(40):
        rig.frame([(0, position, 1.0)], begins=[(0, "r", 0)] if position == 0 else ())
    for position in range(50, 70):
        rig.frame([(0, position, 9.0)])
    rig.pipeline.disconnect(rig.source)
    rig.source, rig.seq = rig.pipeline.connect(rig.hello), 0
    for position in range(40, 80):  # late, and in the slot of the other
        rig.frame([(1, position, 9.0)], begins=[(1, "late", 0)] if position == 40 else ())
    assert rig.ledger.flush()
    (found,) = recordings(str(rig.ledger.path), bank.names)
    assert found.stream == "r#0"
    assert found.scores[:, 1].tolist() == [1.0] * 32

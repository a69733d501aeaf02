"""What is kept for people who look on is true, has bounds, and costs a frame next to nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitor import wire
from monitor.pipeline import tracks as module
from monitor.pipeline.tracks import CHUNK, Tracks
from probes.bank import Bank
from tests.monitor.pipeline.rig import Rig


class Followed(Rig):
    """A pipeline whose judged frames are followed."""

    def __init__(self, bank: Bank, path: Path, **more: Any) -> None:
        self.tracks = Tracks(bank.names, {"acme"})
        super().__init__(bank, path, followers=(self.tracks.frame,), **more)
        self.tracks.serve(self.pipeline)

    def panic(self, name: str, first: int = 0) -> list[float]:
        track = self.tracks.find(name)
        assert track is not None
        at, scores = self.tracks.scores(track, first)
        assert at == max(first, track.first)
        return scores[:, 1].tolist()


@pytest.fixture
def rig(bank: Bank, tmp_path: Path) -> Followed:
    return Followed(bank, tmp_path / "ledger")


def test_scores_are_kept_from_the_first_to_the_last(rig: Followed) -> None:
    rig.frame(begins=[(7, "r", 0)])
    for position in range(100):
        rig.frame([(7, position, position / 64)])
        if position % 9 == 0:  # somebody looks on while it runs
            assert rig.panic("r#0") == [i / 64 for i in range(position + 1)]
    rig.frame(ends=[(7, 100)])
    assert rig.panic("r#0") == [i / 64 for i in range(100)]
    assert rig.panic("r#0", 97) == [97 / 64, 98 / 64, 99 / 64]
    (track,) = list(rig.tracks)
    assert (track.stream, track.tokens, track.gap, len(track.pieces) <= 100 / CHUNK + 2) == (None, 100, False, True)


def test_the_newest_of_a_long_stream_are_kept(rig: Followed) -> None:
    rig.tracks.tokens = 2 * CHUNK
    rig.frame(begins=[(7, "r", 0)])
    for position in range(10 * CHUNK + 5):
        rig.frame([(7, position, position / 64)])
    kept = rig.panic("r#0")
    assert kept[-1] == (10 * CHUNK + 4) / 64
    assert 2 * CHUNK <= len(kept) < 3 * CHUNK + 1
    assert rig.panic("r#0", 10 * CHUNK)[0] == 10 * CHUNK / 64


def test_nothing_is_shown_behind_a_gap(rig: Followed) -> None:
    rig.frame(begins=[(7, "r", 0)])
    for position in (*range(40), *range(50, 90)):
        rig.frame([(7, position, 1.0)])
    (track,) = list(rig.tracks)
    assert rig.tracks.lost(track)
    assert rig.panic("r#0") == [1.0] * CHUNK
    rig.frame(ends=[(7, 90)])
    assert track.gap


def test_what_ended_makes_room_and_what_fired_stays_longer(rig: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OVER", 4)
    for number in range(20):
        rig.frame([(number, 0, 2.5 if number < 2 else 0.0)], begins=[(number, f"r{number}", 0)], ends=[(number, 1)])
    assert [track.shown for track in rig.tracks] == ["r0#0", "r1#0", "r16#0", "r17#0", "r18#0", "r19#0"]
    assert rig.tracks.find("r2#0") is None


def test_more_running_streams_than_are_followed_are_counted(rig: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RUNNING", 3)
    for number in range(5):
        rig.frame([(number, 0, 2.5)], begins=[(number, f"r{number}", 0)])
    assert (len(rig.tracks.running), rig.tracks.missed, len(rig.tracks.fired)) == (3, 2, 3)


def test_streams_that_were_given_up_are_over(rig: Followed) -> None:
    rig.frame([(7, 0, 0.0), (8, 0, 0.0)], begins=[(7, "r", 0), (8, "s", 0)])
    rig.pipeline.take(rig.source, wire.encode(wire.Live([wire.Begin(8, "s", 0)])))
    assert [track.shown for track in rig.tracks.running] == ["s#0"]
    rig.pipeline.disconnect(rig.source)
    assert rig.tracks.running == []
    assert len(rig.tracks) == 2
    other = rig.tap()
    rig.frame([(1, 0, 3.5)], begins=[(1, "t", 0)], source=other)
    assert rig.panic("t#0") == [3.5]


def test_verdicts_are_kept_with_the_rule_as_it_was(rig: Followed) -> None:
    rig.frame([(7, 0, 5.0)], begins=[(7, "r", 0)])
    rig.frame([(7, 1, 0.0)])
    assert [(each.verdict.rule.rule, each.verdict.mode, each.rule is not None) for each in rig.tracks.fired] == [
        ("high", "armed", True), ("look", "shadow", True),
    ]  # fmt: skip
    assert rig.tracks.fired[0].track.spans == [["high", "armed", "halt", 0, 1], ["look", "shadow", "alert", 0, 1]]
    today = rig.tracks.today()
    assert (today["rules"], today["tokens"]) == ({"high": {"armed": 1}, "look": {"shadow": 1}}, 2)


def test_counts_begin_anew_at_midnight(rig: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.frame([(7, 0, 5.0)], begins=[(7, "r", 0)])
    tomorrow = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    rig.frame([(7, 1, 5.0)])
    assert rig.tracks.today() == {"since": tomorrow // 86_400 * 86_400, "tokens": 1, "rules": {}}


def test_verdicts_have_a_bound(rig: Followed) -> None:
    for number in range(module.MAX_FIRED):
        rig.frame([(number, 0, 5.0)], begins=[(number, f"r{number}", 0)], ends=[(number, 1)])
    assert len(rig.tracks.fired) == module.MAX_FIRED
    assert rig.tracks.verdicts == 2 * module.MAX_FIRED
    assert sum(bool(each.track.pieces) for each in rig.tracks.fired) == 2 * module.MAX_OVER  # the others gave their scores back


def test_a_bank_of_many_probes_keeps_fewer_tokens() -> None:
    many = Tracks(tuple(map(str, range(178))))
    assert CHUNK <= many.tokens < Tracks(("a", "b")).tokens == module.MAX_TOKENS
    assert many.tokens * 178 * 2 * (module.MAX_RUNNING + 2 * module.MAX_OVER) <= module.MAX_BYTES


def test_a_frame_of_many_streams_has_no_loop_over_its_tokens(rig: Followed) -> None:
    """Of 32 frames of 256 streams, one takes scores from the ring: what all of them cost together is bounded by it."""
    rig.frame(begins=[(number, f"r{number}", 0) for number in range(256)])
    taken: list[float] = []
    frame = rig.tracks.frame

    def timed(batch: Any) -> None:
        started = time.perf_counter()
        frame(batch)
        taken.append(time.perf_counter() - started)

    rig.pipeline._followers = (timed,)
    for position in range(64):
        rig.frame([(number, position, 0.0) for number in range(256)])
    assert np.median(taken) < 0.001
    assert all(len(track.pieces) == 2 for track in rig.tracks)

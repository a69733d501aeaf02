"""Recordings that are not whole, or not recordings."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from monitor.audit.levels import Level, Levels
from monitor.audit.recordings import ABOUT, RecordingError, recordings, table, write_parquet
from probes.bank import Bank
from rules.replay import Recording
from tests import ledgers
from tests.monitor.pipeline.rig import Rig

PROBES = ("a", "b")


def chunk(stream: str, first: int, tokens: int, **more: Any) -> dict[str, Any]:
    scores = np.arange(first, first + tokens, dtype="<f2")[:, None] * np.ones(2, "<f2")
    record = {
        "kind": "scores",
        "stream": stream,
        "first": first,
        "tokens": tokens,
        "probes": ["b", "a"],
        "since": float(first),
        "until": float(first + tokens),
    }
    return {**record, "scores": base64.b64encode(scores.tobytes()).decode(), **more}


def ledger(path: Path, *records: dict[str, Any]) -> str:
    kept = ledgers.ledger(path)
    for record in records:
        kept.append(**record)
    kept.flush()
    return str(path)


def test_streams_with_a_hole_are_left_out_and_doubles_count_once(tmp_path: Path) -> None:
    source = ledger(
        tmp_path / "l", chunk("whole", 0, 3), chunk("hole", 0, 3), chunk("late", 5, 3), chunk("whole", 3, 2), chunk("hole", 4, 1), chunk("whole", 3, 2),
        {"kind": "stream", "event": "begin", "stream": "whole", "request": {"tenant": "x", "conversation": "k"}},
    )  # fmt: skip
    (found,) = recordings(source, PROBES)
    assert (found.stream, found.scores[:, 0].tolist(), found.conversation, found.request) == (
        "whole",
        [0, 1, 2, 3, 4],
        "k",
        {"tenant": "x"},
    )


def test_parquet_there_and_back(tmp_path: Path) -> None:
    scores = np.array([[1, np.nan], [2, 3]], np.float32)
    wanted = [Recording(name, scores, np.array([at, at + 1.0]), {"tenant": "x"}, "k") for name, at in (("z", 0.0), ("y", 5.0))]
    write_parquet(tmp_path / "s.parquet", wanted, PROBES)
    found = recordings(str(tmp_path / "s.parquet"), PROBES)
    assert [each.stream for each in found] == ["z", "y"]
    assert np.array_equal(found[0].scores, scores, equal_nan=True)
    assert (found[1].times.tolist(), found[1].request["tenant"], found[1].conversation) == ([5.0, 6.0], "x", "k")


def test_what_is_no_recording_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_text("hello")
    write_parquet(tmp_path / "other.parquet", [Recording("s", np.zeros((1, 1), np.float32), np.zeros(1))], ("z",))
    for source, why in (
        (str(tmp_path / "none"), "cannot read .*expected the folder of a ledger, a .parquet file, or kafka://host:port/topic"),
        (ledger(tmp_path / "empty"), "no recorded scores; .*audit.level: scores"),
        (ledger(tmp_path / "few", chunk("s", 0, 1, probes=["b", "c"])), "recorded without a; it has: b, c"),
        (str(tmp_path / "no.parquet"), "expected a Parquet file"),
        (str(tmp_path / "other.parquet"), "no column score.a, score.b; .*it has stream"),
        ("kafka://127.0.0.1:1/topic", "kafka://127.0.0.1:1/topic"),
    ):
        with pytest.raises(RecordingError, match=why) as caught:
            recordings(source, PROBES)
        assert "\n" not in str(caught.value)


def test_a_table_in_one_call(tmp_path: Path) -> None:
    """From each place the same: a row a token, a column a probe."""
    drawn = np.random.default_rng(0).normal(size=(103, 2)).astype(np.float32)
    wanted = [Recording("a", drawn[:70], np.arange(70.0), {"tenant": "acme"}), Recording("b", drawn[70:], np.arange(33.0))]
    write_parquet(tmp_path / "s.parquet", wanted, PROBES)
    found = table(str(tmp_path / "s.parquet"))
    assert found.column_names == ["stream", "position", "time", "conversation", *ABOUT, *(f"score.{probe}" for probe in PROBES)]
    assert found.num_rows == 103
    frame = found.to_pandas()
    assert frame[frame.stream == "a"].tenant.unique().tolist() == ["acme"]
    for each in wanted:
        rows = frame[frame.stream == each.stream].sort_values("position")
        assert np.array_equal(rows[[f"score.{probe}" for probe in PROBES]].to_numpy(), each.scores)
    assert table(str(tmp_path / "s.parquet"), PROBES[:1]).column_names[-1] == f"score.{PROBES[0]}"


def test_a_table_of_nothing_is_told(tmp_path: Path) -> None:
    empty = ledgers.ledger(tmp_path / "ledger")
    empty.append("heartbeat")
    assert empty.flush()
    with pytest.raises(RecordingError, match=r"audit\.level: scores"):
        table(str(empty.path))


def test_the_notebook_runs(tmp_path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell, in a kernel of its own, on a recorded ledger; it draws what rose most."""
    rig = Rig(bank, tmp_path / "ledger", levels=Levels(Level.SCORES))
    for position in range(70):
        rig.frame([(0, position, position / 16), (1, position, 0.0)], begins=[(0, "r", 0), (1, "s", 0)] if position == 0 else (), ends=[(0, 70), (1, 70)] if position == 69 else ())  # fmt: skip
    assert rig.ledger.flush()
    monkeypatch.setenv("BAROGRAPH_RECORDING", str(rig.ledger.path))
    monkeypatch.setenv("BAROGRAPH_PROBE", "panic")
    notebook = nbformat.read(Path(__file__).parents[3] / "examples" / "session.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it is kept without what somebody's run printed
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(Path(__file__).parents[3])}}).execute()
    shown = [each["data"] for cell in notebook.cells if cell.cell_type == "code" for each in cell.outputs if "data" in each]
    assert "<table" in shown[0]["text/html"]
    assert any("image/png" in each for each in shown)

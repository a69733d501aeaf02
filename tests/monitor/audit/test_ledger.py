from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from monitor.audit.ledger import Ledger
from monitor.errors import BarographError


def seqs(path: Path) -> list[int]:
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line)["seq"])
        except ValueError:
            found.append(-1)
    return found


def test_it_goes_on_counting_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    for _ in range(3):
        ledger = Ledger(path)
        ledger.append("x", value=float("1.5"))
        ledger.append("x")
        ledger.close()
    assert seqs(path) == [0, 1, 2, 3, 4, 5]


def test_a_torn_last_line_is_kept_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append("x")
    ledger.close()
    with path.open("a") as file:
        file.write('{"seq": 1, "ti')
    ledger = Ledger(path)
    ledger.append("x")
    ledger.close()
    assert seqs(path) == [0, -1, 1]


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.jsonl").close()
    assert (tmp_path / "ledger.jsonl").stat().st_mode & 0o077 == 0


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BarographError, match="expected a file that can be appended to"):
        Ledger(tmp_path)


def test_a_full_disk_is_remembered_and_not_raised() -> None:
    ledger = Ledger(Path("/dev/full"))
    ledger.append("x")
    assert "No space left" in ledger.failed
    assert ledger.records == 0


class Disk:
    """A disk that refuses, or takes only a part of, the writes that a test names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuse = self.take = 0
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, file: int, data: bytes) -> int:
        if self.refuse:
            self.refuse -= 1
            raise OSError(28, "No space left on device")
        if self.take:
            data, self.take = data[: self.take], 0
        return self._write(file, data)


def test_a_loss_is_named_before_anything_else_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, disk = Ledger(tmp_path / "ledger.jsonl"), Disk(monkeypatch)
    ledger.append("a")
    disk.refuse = 1
    ledger.append("verdict")
    assert "No space left" in ledger.failed
    ledger.append("b")
    assert ledger.failed == ""
    records = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    assert [(record["seq"], record["kind"]) for record in records] == [(0, "a"), (2, "ledger"), (3, "b")]
    assert (records[1]["event"], records[1]["first"], records[1]["last"]) == ("lost", 1, 1)


def test_failed_stands_while_the_loss_cannot_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, disk = Ledger(tmp_path / "ledger.jsonl"), Disk(monkeypatch)
    disk.refuse = 3
    for _ in range(3):
        ledger.append("x")
        assert ledger.failed
    ledger.look()  # with nothing else to write
    assert ledger.failed == ""
    (record,) = (json.loads(line) for line in ledger.path.read_text().splitlines())
    assert (record["seq"], record["first"], record["last"]) == (3, 0, 2)


def test_a_write_that_is_cut_short_glues_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, disk = Ledger(tmp_path / "ledger.jsonl"), Disk(monkeypatch)
    ledger.append("a")
    disk.take = 12
    ledger.append("torn")
    assert ledger.failed
    ledger.append("b")
    assert seqs(ledger.path) == [0, -1, 2, 3]


def test_one_refused_sync_is_not_the_last_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("a")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", lambda file: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        ledger.sync()
    assert "cannot sync" in ledger.failed
    ledger.sync()
    assert ledger.failed == ""


@pytest.mark.parametrize("how", ["deleted", "renamed", "replaced"])
def test_a_ledger_that_goes_away_is_noticed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append("a")
    if how == "deleted":
        path.unlink()
    else:
        path.rename(tmp_path / "old.jsonl")
        if how == "replaced":
            path.write_text("")
    ledger.look()
    ledger.append("b")
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["ledger", "b"]
    assert seqs(path) == [1, 2]


def test_a_ledger_that_is_cut_says_so(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("a")
    os.truncate(ledger.path, 0)
    ledger.look()
    (record,) = (json.loads(line) for line in ledger.path.read_text().splitlines())
    assert (record["seq"], record["event"]) == (1, "truncated")


def test_two_do_not_write_one_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(BarographError, match="written by another process"):
        Ledger(tmp_path / "ledger.jsonl")
    ledger.close()
    Ledger(tmp_path / "ledger.jsonl").close()


def test_half_a_surrogate_pair_is_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("stream", model="\ud800")
    (record,) = (json.loads(line) for line in ledger.path.read_text().splitlines())
    assert (record["model"], ledger.failed) == ("\ud800", "")

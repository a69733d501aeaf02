from __future__ import annotations

import json
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

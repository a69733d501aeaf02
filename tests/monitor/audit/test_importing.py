"""Ledgers of before the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitor.audit.importing import take
from monitor.errors import BarographError
from tests.ledgers import ledger, records


def test_an_old_file_is_taken_once_with_its_origin(tmp_path: Path) -> None:
    old = tmp_path / "old.jsonl"
    lines = [json.dumps({"seq": i, "kind": "verdict", "time": 1.0, "rule": "a"}) for i in range(3)]
    old.write_bytes("\n".join(lines).encode() + b'\n{"torn": \n[1]\n\xff\n')
    kept = ledger(tmp_path / "l")
    assert take(kept, old, "ann", "moving") == 6
    found = records(kept.path)
    assert [each["kind"] for each in found] == ["custody", *["imported"] * 6, "custody"]
    assert [each.get("record", {}).get("seq") for each in found[1:4]] == [0, 1, 2]
    assert all("sha256" in each and "record" not in each for each in found[4:7])
    assert {name: found[-1][name] for name in ("event", "by", "reason", "file", "records", "unreadable")} == {
        "event": "imported", "by": "ann", "reason": "moving", "file": "old.jsonl", "records": 6, "unreadable": 3,
    }  # fmt: skip
    with pytest.raises(BarographError, match="was imported before"):
        take(kept, old, "ann", "again")
    with pytest.raises(BarographError, match="needs a reason"):
        take(kept, old, "ann", " ")
    with pytest.raises(BarographError, match="expected a file with one JSON record a line"):
        take(kept, tmp_path, "ann", "r")
    assert len(records(kept.path)) == 8

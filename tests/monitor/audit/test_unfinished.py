from __future__ import annotations

from pathlib import Path

from monitor.audit.unfinished import unfinished
from probes.bank import Bank
from tests.ledgers import ledger, records
from tests.monitor.pipeline.rig import Rig


def test_generations_without_an_end_are_found_back_to_the_start_of_the_process(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    assert unfinished(kept.path) == []
    kept.append("stream", event="begin", stream="of an earlier process")
    kept.append("sidecar", event="start")
    for i in range(600):
        kept.append("stream", event="begin", stream=f"s{i}", source="tap")
        if i % 200:
            kept.append("stream", event="end" if i % 2 else "lost", stream=f"s{i}")
    kept.append("sidecar", event="stop")
    kept.close()
    assert sorted(record["stream"] for record in unfinished(kept.path)) == ["s0", "s200", "s400"]


def test_ten_thousand_generations_each_have_a_begin_and_an_end(bank: Bank, tmp_path: Path) -> None:
    rig = Rig(bank, tmp_path / "l")
    for first in range(0, 10_000, 100):
        numbers = range(first, first + 100)
        rig.frame([(number, 0, 1.0) for number in numbers], [(number, f"r{number}", 0) for number in numbers])
        rig.frame([(number, 1, 1.0) for number in numbers], ends=[(number, 2) for number in numbers])
    found = records(rig.ledger.path, rig.ledger)
    begins, ends = (
        [record["stream"] for record in found if (record["kind"], record.get("event")) == ("stream", event)] for event in ("begin", "end")
    )
    assert len(begins) == len(set(begins)) == 10_000
    assert sorted(begins) == sorted(ends)
    assert all(record["judged"] == 2 for record in found if record.get("event") == "end")
    assert [record["seq"] for record in found] == list(range(len(found)))

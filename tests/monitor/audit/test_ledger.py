"""The ledger on a disk that does as it is told: records, readers, owners, checkpoints, durability."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from monitor.audit import record
from monitor.audit.disk import Disk
from monitor.audit.ledger import Ledger
from monitor.audit.note import LocalSigner
from monitor.audit.reader import Reader
from monitor.audit.record import LARGEST
from monitor.audit.wal import segments
from monitor.errors import BarographError
from tests.ledgers import ledger, records, right, said, seqs
from tests.stack import eventually


def test_it_goes_on_counting_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger"
    for _ in range(3):
        kept = ledger(path)
        kept.append("x", value=1.5)
        kept.append("x")
        kept.close()
    assert seqs(path) == [0, 1, 2, 3, 4, 5]
    assert right(path).records == 6


def test_leaves_are_canonical_and_say_when(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    changing = {"b": [1.0, 1e21], "a": "ü"}
    kept.append("x", fields=changing)
    changing["a"] = "changed afterwards"
    (entry,) = [each.encode() for each in said(kept.path, kept).splitlines()]
    found = json.loads(entry)
    assert entry == rfc8785.dumps(found)
    assert found["fields"] == {"b": [1, 1e21], "a": "ü"}
    assert abs(found["time"] - time.time()) < 60
    assert abs(found["mono"] - time.monotonic()) < 60


@given(
    st.dictionaries(
        st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()), st.lists, max_leaves=8)
    )
)
def test_every_record_has_a_canonical_form(fields: dict[str, Any]) -> None:
    entry = record.leaf(record.snapshot({"said": fields}), seq=1)
    number = lambda text: float(text) if abs(int(text)) > LARGEST else int(text)  # noqa: E731  # JSON's numbers are doubles
    assert entry == rfc8785.dumps(json.loads(entry, parse_int=number))
    assert json.loads(entry)["seq"] == 1


def test_a_record_too_large_says_what_it_leaves_out(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    kept.append("x", small="stays", large="y" * 70_000)
    (found,) = records(kept.path, kept)
    assert found["small"] == "stays"
    assert found["large"]["omitted_bytes"] == 70_002
    kept.close()
    right(kept.path)


def test_one_record_that_cannot_be_written_down_does_not_end_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, leaf = ledger(tmp_path / "l"), record.leaf

    def fragile(said: bytes, **about: Any) -> bytes:
        if b"fatal" in said:
            raise RecursionError("too deep")
        return leaf(said, **about)

    monkeypatch.setattr(record, "leaf", fragile)
    kept.append("x", value="fatal")
    kept.append("x", value="harmless")
    assert [each.get("unwritable", each.get("value")) for each in records(kept.path, kept)] == ["RecursionError: too deep", "harmless"]


def test_a_look_while_it_is_written_finds_nothing_wrong(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l", checkpoint_s=0.01)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        for _ in range(20):
            kept.append("x")
        kept.look()
        assert kept.failed == ""
        while kept.waiting > 1000:  # a slow disk is another test's business
            time.sleep(0.001)


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    kept.append("x")
    kept.close()
    assert all(path.stat().st_mode & 0o077 == 0 for path in [kept.path, *kept.path.rglob("*")])


def test_places_that_are_no_ledger_are_refused(tmp_path: Path) -> None:
    (tmp_path / "old.jsonl").write_text("{}\n")
    with pytest.raises(BarographError, match="a file, as older versions wrote them"):
        ledger(tmp_path / "old.jsonl")
    with pytest.raises(BarographError, match="expected a folder that can be written"):
        ledger(Path("/proc/nope/l"))
    (tmp_path / "l").mkdir()
    os.mkfifo(tmp_path / "l" / "checkpoint")  # must not hang
    with pytest.raises(BarographError, match="no plain file"):
        ledger(tmp_path / "l")


def test_two_do_not_write_one_ledger(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    with pytest.raises(BarographError, match="written by another process"):
        ledger(tmp_path / "l")
    kept.close()
    ledger(tmp_path / "l").close()


def test_another_key_does_not_go_on_with_it(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    kept.append("x")
    kept.close()
    with pytest.raises(BarographError, match=r"signed by example.com/barograph\+.* expected one of: other"):
        Ledger(kept.path, [LocalSigner("other", bytes(32))])


def test_a_checkpoint_comes_by_itself_and_takes_the_segments_away(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l", checkpoint_s=0.2)
    for _ in range(700):
        kept.append("x")
    eventually(lambda: kept.checkpoint.size == 700, "it is sealed")
    eventually(lambda: [path.name for path in segments(kept.path / "wal")] == [f"{700:020}.wal"], "the covered segment goes")
    assert sorted(path.name for path in (kept.path / "tile" / "0").iterdir()) == ["000", "001", "002.p"]
    kept.append("x")
    assert len(seqs(kept.path, kept)) == 701  # from the tiles and the segment behind them
    right(kept.path)


def test_a_reader_follows_from_segments_into_tiles(tmp_path: Path) -> None:
    kept, found = ledger(tmp_path / "l", checkpoint_s=0.05), []
    reader = Reader(kept.path)
    for i in range(40):
        for _ in range(i):
            kept.append("x")
        kept.flush()
        found += [json.loads(entry)["seq"] for entry in reader.take(17)]
        time.sleep(0.01)
    while some := reader.take(17):
        found += [json.loads(entry)["seq"] for entry in some]
    reader.close()
    assert found == list(range(sum(range(40))))


def test_durable_means_synced(tmp_path: Path) -> None:
    class Slow(Disk):
        synced = 0

        def sync(self, file: int) -> None:
            time.sleep(0.2)
            super().sync(file)
            self.synced += 1

    disk = Slow()
    kept = ledger(tmp_path / "l", disk=disk)
    before = disk.synced

    async def waits() -> bool:
        number = kept.append("x")
        assert not kept.settled
        return await kept.durable(number)

    assert asyncio.run(waits())
    assert disk.synced > before
    assert kept.settled

    async def gives_up() -> bool:
        return await kept.durable(kept.append("x"), 0.01)

    assert not asyncio.run(gives_up())


def test_nobody_waits_when_nobody_is_to(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l", durability="async")

    async def waits() -> bool:
        return await kept.durable(kept.append("x"), 0)

    assert asyncio.run(waits())

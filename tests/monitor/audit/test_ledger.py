from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from monitor.audit import record, verifier, wal
from monitor.audit.disk import Disk, SyncError
from monitor.audit.ledger import Ledger
from monitor.audit.note import LocalSigner
from monitor.audit.reader import Reader
from monitor.audit.record import LARGEST
from monitor.audit.wal import segments
from monitor.errors import BarographError
from tests.ledgers import SIGNER, ledger, records, said
from tests.stack import eventually

KEY = verifier.Key.read(SIGNER.key.vkey)


def seqs(path: Path, kept: Ledger | None = None) -> list[int]:
    return [each["seq"] for each in records(path, kept)]


def right(path: Path, **more: Any) -> verifier.Report:
    report = verifier.verify(path, [KEY], **more)
    assert report.problems == []
    return report


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


class Faulty(Disk):
    """Lets its call number `at` fail with `number`, once or for good, as a disk does."""

    def __init__(self, at: int = -1, number: int = errno.ENOSPC, lasting: bool = False, only: str = "") -> None:
        self.at, self.number, self.lasting, self.only = at, number, lasting, only
        self.calls: list[str] = []
        self.failed = ""

    def _count(self, name: str) -> None:
        if self.only and name != self.only:
            return
        self.calls.append(name)
        turn = len(self.calls) - 1
        if turn == self.at or (self.lasting and self.at >= 0 and turn > self.at):
            self.failed = self.failed or name
            raise OSError(self.number, os.strerror(self.number))

    def create(self, path: Path) -> int:
        self._count("create")
        return super().create(path)

    def append(self, file: int, data: bytes) -> None:
        try:
            self._count("append")
        except OSError:
            os.write(file, data[: len(data) // 2])  # a disk that is full takes what it can
            raise
        super().append(file, data)

    def sync(self, file: int) -> None:
        try:
            self._count("sync")
        except OSError as error:
            raise SyncError(error.errno, f"cannot sync: {error.strerror}") from None
        super().sync(file)

    def sync_folder(self, path: Path) -> None:
        try:
            self._count("sync_folder")
        except OSError as error:
            raise SyncError(error.errno, f"cannot sync: {error.strerror}") from None
        super().sync_folder(path)

    def cut(self, file: int, size: int) -> None:
        self._count("cut")
        super().cut(file, size)

    def rename(self, old: Path, new: Path) -> None:
        self._count("rename")
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._count("remove")
        super().remove(path)


def work(path: Path, disk: Disk) -> tuple[list[int], int, str]:
    """A short life of a ledger. Gives the numbers that were acknowledged, how many there were, and what it says of itself."""
    acknowledged: list[int] = []
    kept = Ledger(path, [SIGNER], checkpoint_s=0.02, disk=disk)
    for _ in range(12):
        number = kept.append("x", filler="y" * 300)
        if kept.flush(0.15):
            acknowledged.append(number)
        time.sleep(0.004)
    failed = kept.failed
    kept.close()
    return acknowledged, kept.newest + 1, failed


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("lasting", [False, True])
def test_a_disk_that_fails_anywhere_loses_nothing_that_was_acknowledged(tmp_path: Path, number: int, lasting: bool) -> None:
    counter = Faulty()
    work(tmp_path / "counting", counter)
    tried = set()
    for at in itertools.chain(range(0, 30), range(30, len(counter.calls), 5)):
        path, disk = tmp_path / f"{at}", Faulty(at, number, lasting)
        try:
            acknowledged, count, _ = work(path, disk)
        except BarographError:
            assert not lasting or at < 30  # it did not even open
            acknowledged, count = [], 0
        if disk.failed:
            tried.add(disk.failed)
        Ledger(path, [SIGNER]).close()  # on a disk that is well again
        found = seqs(path)
        assert set(acknowledged) <= set(found), (at, disk.failed)
        assert found == sorted(set(found))
        right(path)
        assert count >= len(acknowledged)
    assert tried >= {"create", "append", "sync", "sync_folder", "rename"}


def test_a_full_disk_is_told_and_nothing_is_lost_when_it_has_room_again(tmp_path: Path) -> None:
    disk = Faulty(only="append")
    kept = ledger(tmp_path / "l", checkpoint_s=600, disk=disk)
    kept.append("a")
    assert kept.flush()
    disk.at, disk.lasting = len(disk.calls), True
    kept.append("verdict")
    eventually(lambda: "No space left" in kept.failed, "it says so")
    assert not asyncio.run(_durable(kept, kept.append("b")))
    disk.at = -1
    eventually(lambda: not kept.failed, "it heals")
    assert [each["kind"] for each in records(kept.path, kept)] == ["a", "verdict", "b"]


async def _durable(kept: Ledger, number: int) -> bool:
    return await kept.durable(number)


def test_what_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.audit.ledger.QUEUED", 5)
    disk = Faulty(only="append")
    kept = ledger(tmp_path / "l", checkpoint_s=600, disk=disk)
    disk.at, disk.lasting = len(disk.calls), True
    kept.append("x")
    eventually(lambda: "No space left" in kept.failed, "the disk refuses")
    for _ in range(20):
        kept.append("x")
    disk.at = -1
    eventually(lambda: not kept._refused, "the disk takes again")
    kept.look()  # nothing else comes
    eventually(lambda: not kept.failed, "the loss is named")
    found = records(kept.path, kept)
    loss = next(each for each in found if each["kind"] == "ledger")
    assert (loss["event"], loss["last"]) == ("lost", 20)
    assert [each["seq"] for each in found] == [*range(loss["first"]), 21]
    kept.close()
    assert right(kept.path).lost == 21 - loss["first"]


def test_after_a_failed_sync_nothing_is_acknowledged_any_more(tmp_path: Path) -> None:
    disk = Faulty(only="sync", number=errno.EIO)
    kept = ledger(tmp_path / "l", checkpoint_s=600, disk=disk)
    assert asyncio.run(_durable(kept, kept.append("a")))
    disk.at = len(disk.calls)  # once
    assert not asyncio.run(_durable(kept, kept.append("b")))
    assert not asyncio.run(_durable(kept, kept.append("c")))
    assert "start the sidecar anew" in kept.failed
    assert len(disk.calls) == disk.at + 1  # never tried again
    kept.close()
    again = ledger(kept.path)
    assert seqs(kept.path, again)[0] == 0
    assert again.failed == ""


@pytest.mark.parametrize("how", ["deleted", "moved", "segment deleted", "segment cut"])
def test_a_ledger_that_goes_away_is_noticed(tmp_path: Path, how: str) -> None:
    kept = ledger(tmp_path / "l", checkpoint_s=600)
    kept.append("a")
    kept.flush()
    (segment,) = segments(kept.path / "wal")
    if how == "deleted":
        subprocess.run(["rm", "-r", kept.path], check=True)
    elif how == "moved":
        kept.path.rename(tmp_path / "elsewhere")
    elif how == "segment deleted":
        segment.unlink()
    else:
        os.truncate(segment, 3)
    kept.look()
    assert "moved, or its segment cut or deleted" in kept.failed
    if how == "moved":
        (tmp_path / "elsewhere").rename(kept.path)
        kept.look()
        assert kept.failed == ""


def test_a_clock_that_is_set_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, now = ledger(tmp_path / "l"), time.time
    monkeypatch.setattr("monitor.audit.ledger.time.time", lambda: now() + 3600)
    kept.look()
    kept.look()
    (found,) = records(kept.path, kept)
    assert (found["kind"], round(found["seconds"])) == ("clock", 3600)


def test_a_torn_tail_is_cut_and_told(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l", checkpoint_s=600)
    for _ in range(3):
        kept.append("x")
        kept.flush()
    copied = _copy(kept.path, tmp_path / "copy")
    (segment,) = segments(copied / "wal")
    whole = segment.read_bytes()
    for length in range(len(whole) - 1, len(whole) - 90, -7):
        segment.write_bytes(whole[:length])
        again = ledger(_copy(copied, tmp_path / f"{length}"))
        found = records(again.path, again)
        assert [each["seq"] for each in found] == [0, 1, 2]  # the third is the one that tells
        assert (found[2]["event"], found[2]["records"]) == ("recovered", 2)
        again.close()
        right(again.path)


def test_damage_to_what_was_durable_is_no_torn_tail(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l", checkpoint_s=600)
    for _ in range(3):
        kept.append("x", filler="z" * 40)
        kept.flush()
    copied = _copy(kept.path, tmp_path / "copy")
    (segment,) = segments(copied / "wal")
    raw = bytearray(segment.read_bytes())
    for at in range(0, len(raw) * 2 // 3 - 40, 11):
        raw[at] ^= 1
        segment.write_bytes(raw)
        with pytest.raises(BarographError, match="is damaged, and it was durable before"):
            ledger(copied)
        raw[at] ^= 1


def _copy(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
from monitor.audit.ledger import Ledger
from monitor.audit.reader import Reader
from tests.ledgers import SIGNER

def write(path, out):
    kept = Ledger(path, [SIGNER], checkpoint_s=0.02)
    while True:
        for _ in range(7):
            number = kept.append("x", filler="y" * (kept.newest % 500))
        if kept.flush():
            os.write(out, f"{number}\\n".encode())

path, times, chance, at = Path(sys.argv[1]), int(sys.argv[2]), random.Random(1), 0
for turn in range(times):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            write(path, writing)
        finally:
            os._exit(1)
    os.close(writing)
    said = os.read(reading, 1 << 16) if turn % 5 else b""  # each fifth is killed while it opens what the one before left
    time.sleep(chance.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    while some := os.read(reading, 1 << 16):
        said += some
    os.close(reading)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the writer ended by itself"
    acknowledged = [int(line) for line in said.split(b"\\n")[:-1]]
    if turn == 0 and not acknowledged:
        continue
    reader = Reader(path, at)
    while some := reader.take():
        for entry in some:
            assert json.loads(entry)["seq"] == at, (turn, at, entry)
            at += 1
    reader.close()
    assert not acknowledged or at > acknowledged[-1], (turn, at, acknowledged[-1])
print(at)
"""


@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_when_the_writer_is_killed_500_times(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLER, tmp_path / "l", "500"], capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ledger(tmp_path / "l").close()
    assert right(tmp_path / "l").records >= int(done.stdout) > 500


def _swapped(path: Path) -> None:
    one, two = sorted((path / "tile" / "entries").glob("[0-9]*[0-9]"))[:2]
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)


ATTACKS: dict[str, Callable[[Path], object]] = {
    "a tile deleted": lambda path: (path / "tile" / "0" / "000").unlink(),
    "a bundle deleted": lambda path: (path / "tile" / "entries" / "001").unlink(),
    "a bundle cut": lambda path: os.truncate(path / "tile" / "entries" / "001", 500),
    "bundles swapped": _swapped,
    "an upper tile changed": lambda path: next((path / "tile" / "1").rglob("2")).write_bytes(bytes(64)),
    "a bundle that is a pipe": lambda path: ((path / "tile" / "entries" / "001").unlink(), os.mkfifo(path / "tile" / "entries" / "001")),
    "a bundle of any size": lambda path: os.truncate(path / "tile" / "entries" / "001", 1 << 42),
    "a bundle with more": lambda path: (path / "tile" / "entries" / "001").open("ab").write(b"\0\2{}"),
}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = Ledger(tmp_path_factory.mktemp("sealed") / "l", [SIGNER])
    for i in range(600):
        kept.append("x", i=i)
    kept.close()
    right(kept.path)
    return kept.path


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_the_files_is_seen(sealed: Path, tmp_path: Path, attack: str) -> None:
    path = _copy(sealed, tmp_path / "l")
    ATTACKS[attack](path)
    assert verifier.verify(path, [KEY]).problems


def test_every_byte_counts(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    for i in range(4):
        kept.append("x", i=i)
    kept.close()
    right(kept.path)
    flipped = 0
    for path in sorted(kept.path.rglob("*")):
        if not path.is_file() or path.name == "lock" or not path.stat().st_size:
            continue
        if path.parent.name == "000.p" and path.name != "4":
            continue  # of an older checkpoint
        raw = bytearray(path.read_bytes())
        for at in range(len(raw)):
            raw[at] ^= 1
            path.write_bytes(raw)
            try:
                assert verifier.verify(kept.path, [KEY]).problems, (path, at)
            except verifier.Wrong:
                pass
            raw[at] ^= 1
            flipped += 1
        path.write_bytes(raw)
    assert flipped > 600
    right(kept.path)


def test_a_rollback_and_a_fork_show_against_a_kept_checkpoint(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    kept.append("a")
    kept.close()
    old = _copy(kept.path, tmp_path / "old")
    for path in (kept.path, old):
        going = ledger(path)
        going.append("b", where=str(path))
        going.close()
    note = (kept.path / "checkpoint").read_bytes()
    assert right(kept.path, since=[note]).records == 2
    assert "forked" in verifier.verify(old, [KEY], since=[note]).problems[0]
    shorter = _copy(tmp_path / "old", tmp_path / "again")
    going = ledger(kept.path)
    going.append("c")
    going.close()
    assert "rolled back" in verifier.verify(shorter, [KEY], since=[(kept.path / "checkpoint").read_bytes()]).problems[0]


def test_what_is_read_is_what_is_verified(tmp_path: Path) -> None:
    """A full file beside a partial one of the same place: whoever has the disk may say two things, and both are held to the signature."""
    kept = ledger(tmp_path / "l")
    for i in range(300):
        kept.append("x", i=i)
    kept.close()
    part = kept.path / "tile" / "entries" / "001.p" / "44"
    full = part.parent.with_name("001")
    whole = part.read_bytes()
    full.write_bytes(whole)
    part.write_bytes(whole.replace(b'"i":299', b'"i":999'))
    assert [each["i"] for each in records(kept.path)][-1] == 999
    assert "are not those that the checkpoint's signature covers" in " ".join(verifier.verify(kept.path, [KEY]).problems)


def test_a_rollback_behind_a_witnessed_checkpoint_shows_without_a_policy(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    kept.append("x")
    kept.seal()
    old = (kept.path / "checkpoint").read_bytes()
    for _ in range(5):
        kept.append("x")
    kept.close()
    (kept.path / "witnessed").write_bytes((kept.path / "checkpoint").read_bytes())
    right(kept.path)
    (kept.path / "checkpoint").write_bytes(old)
    assert "rolled back" in " ".join(verifier.verify(kept.path, [KEY]).problems)


def test_what_somebody_else_wrote_ahead_is_never_signed(tmp_path: Path) -> None:
    """Without the key nobody puts a record before the next start: the format is public, the key is not."""
    path = tmp_path / "l"
    kept = ledger(path)
    kept.append("x")
    kept.close()
    forged = wal.Wal(path / "wal", Disk(), LocalSigner("example.com/barograph", bytes(32)).secret("wal"))
    forged.begin(1)
    forged.append(1, [rfc8785.dumps({"kind": "command", "seq": 1, "time": 1.0, "issuer": "ceo"})])
    forged.sync()
    forged.close()
    with pytest.raises(BarographError, match="was not written with this log's key"):
        ledger(path)
    next((path / "wal").glob("*.wal")).unlink()
    again = ledger(path)
    again.append("x")
    again.close()
    assert seqs(path) == [0, 1]
    right(path)

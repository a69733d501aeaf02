"""The ledger where the disk, the clock or the process fails: what was acknowledged is there, and what is lost is named."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monitor.audit.disk import Disk, SyncError
from monitor.audit.ledger import Ledger
from monitor.audit.wal import segments
from monitor.errors import BarographError
from tests.ledgers import SIGNER, copy_of, ledger, records, right, seqs
from tests.stack import eventually


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
    monkeypatch.setattr("monitor.audit.clock.time.time", lambda: now() + 3600)
    kept.look()
    kept.look()
    (found,) = records(kept.path, kept)
    assert (found["kind"], round(found["seconds"])) == ("clock", 3600)


def test_a_thread_that_was_put_aside_is_no_clock_that_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, now, pauses = ledger(tmp_path / "l"), time.time, iter([0.6, 0, 0])

    def late() -> float:
        time.sleep(next(pauses, 0))
        return now()

    monkeypatch.setattr("monitor.audit.clock.time.time", late)
    kept.look()
    assert records(kept.path, kept) == []


def test_a_torn_tail_is_cut_and_told(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l", checkpoint_s=600)
    for _ in range(3):
        kept.append("x")
        kept.flush()
    copied = copy_of(kept.path, tmp_path / "copy")
    (segment,) = segments(copied / "wal")
    whole = segment.read_bytes()
    for length in range(len(whole) - 1, len(whole) - 90, -7):
        segment.write_bytes(whole[:length])
        again = ledger(copy_of(copied, tmp_path / f"{length}"))
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
    copied = copy_of(kept.path, tmp_path / "copy")
    (segment,) = segments(copied / "wal")
    raw = bytearray(segment.read_bytes())
    for at in range(0, len(raw) * 2 // 3 - 40, 11):
        raw[at] ^= 1
        segment.write_bytes(raw)
        with pytest.raises(BarographError, match="is damaged, and it was durable before"):
            ledger(copied)
        raw[at] ^= 1


KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
from monitor.audit.ledger import Ledger
from monitor.audit.reader import Reader
from tests.ledgers import copy_of, SIGNER

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

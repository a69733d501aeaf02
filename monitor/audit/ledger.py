"""The ledger: an append-only log of records that an auditor can check without us.

`append` takes a record and returns at once. A thread writes what has gathered into the write-ahead segment, syncs it, and says how far the disk has it (group
commit); a second one seals it into the tree from time to time. What others act on waits for `durable`. No prompt and no output text ever enters a record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from monitor.audit import record, wal
from monitor.audit.clock import Clock
from monitor.audit.disk import Disk, SyncError
from monitor.audit.lock import FolderLock
from monitor.audit.note import Checkpoint, NoteError, Signer
from monitor.audit.sealer import LedgerError, Sealer
from monitor.audit.waiters import Waiters
from monitor.audit.wal import Wal, WalError

log = logging.getLogger("barograph.ledger")

Durability = Literal["sync", "group", "async"]
"""What may be lost when the power goes. sync: nothing that a client got a token after. group: nothing that was acted on; of the rest the last
few milliseconds. async: the last second."""

QUEUED, QUEUED_BYTES = 1 << 16, 64 << 20  # records that wait for the disk; past that they are lost, and named
BATCH, BATCH_BYTES = 4096, 1 << 20  # records in one write
SEAL, SEAL_BYTES = 1 << 16, 32 << 20  # records that are sealed before their time is up
UNSEALED_BYTES = 256 << 20  # at most so many wait while sealing fails
AGAIN_S = 0.2  # a disk that refuses is asked again so often
ASYNC_S = 1.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    seq: int
    at: float
    mono: float
    kind: str
    said: bytes


class Ledger:
    """Appends records. `failed` says what the disk refuses; the gateway then follows `on_ledger_failure`.

    A record that is lost uses its number up, and `failed` stands until a record of the loss is written: nobody is told of a verdict
    while the ledger has a hole that it does not name. After a failed sync nothing is acknowledged any more: only a new start helps.
    """

    def __init__(
        self, path: Path, signers: Sequence[Signer], durability: Durability = "group", checkpoint_s: float = 10.0, disk: Disk | None = None
    ) -> None:
        """Opens or makes the ledger in the folder `path`, and seals what an earlier process left. Raises LedgerError, WalError or NoteError."""
        self.path, self.durability, self.checkpoint_s = path, durability, checkpoint_s
        self.disk = disk = disk or Disk()
        if os.path.isfile(path):
            raise LedgerError(
                f"ledger {path}: a file, as older versions wrote them; expected a folder. Name another path as sidecar.ledger, and take it over: barograph audit import {path} --reason …"
            )
        try:
            disk.make_folder(path)
            self._lock = FolderLock(path)
            try:
                self._sealer = Sealer(path, signers, disk)
                keys = [signer.secret("wal") for signer in signers]
                left, torn = wal.unsealed(path / "wal", self._sealer.size, keys)
                self._sealer.seal(left)
                for segment in wal.segments(path / "wal"):
                    disk.remove(segment)
                self._wal = Wal(path / "wal", disk, keys[0])
                self._wal.begin(self._sealer.size)
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise LedgerError(f"ledger {path}: {error.strerror}; expected a folder that can be written") from None
        lock = threading.Lock()
        self._change, self._work = threading.Condition(lock), threading.Condition(lock)  # the second wakes the first thread only
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._lost: tuple[int, int] | None = None  # the first and the last number that no record has
        self._naming = -1  # the number of the record that names the last loss
        self._dead = self._refused = self._absent = ""
        self.late = ""
        """Why records, although durable, are not sealed, or nothing."""
        self.objection = ""
        """What a witness holds against this ledger, when somebody asked one."""
        self._waiters = Waiters()
        self._index = self._kept = self._sealer.size  # of the next record that is written; of those that were acknowledged
        self._seq = 1 + _number(self._sealer.last)
        self._done = self._sealed = self._seq  # every number below is durable, sealed; or was lost
        self._unsealed: list[bytes] = []
        self._unsealed_bytes, self._unsealed_since = 0, 0.0
        self._handed: tuple[list[bytes], int] | None = None  # what the sealing thread has to do: records, and the number behind their last
        self._wanted = 0  # the number below which somebody wants everything sealed
        self._closing = self._written = False  # written: the first thread has ended
        self._clock = Clock()
        self.records = 0
        if left or torn:
            self.append("ledger", event="recovered", records=len(left), torn_bytes=torn)
        self._threads = [threading.Thread(target=run, name=run.__name__, daemon=True) for run in (self._commit, self._seal)]
        for thread in self._threads:
            thread.start()

    @property
    def failed(self) -> str:
        """Why records are not kept just now, or nothing."""
        lost = "records were lost, and no record says so yet" if self._lost or self._naming >= self._done else ""
        return self._dead or self._refused or self._absent or lost

    @property
    def checkpoint(self) -> Checkpoint:
        """The newest one. It covers all but the last seconds."""
        return self._sealer.checkpoint

    @property
    def kept(self) -> int:
        """How many records are as durable as the setting makes them: what may be published."""
        return self._kept

    @property
    def settled(self) -> bool:
        """Whether everything that was appended is durable, so that nobody has to wait."""
        return self.durability == "async" or self._done >= self._seq

    @property
    def waiting(self) -> int:
        """Records that are not durable yet."""
        return self._seq - self._done

    @property
    def newest(self) -> int:
        """The number of the last record that was taken; -1 before the first."""
        return self._seq - 1

    def append(self, kind: str, **fields: Any) -> int:
        """Take a record, and return its number. A refusal is remembered in `failed`, logged once, and never raised into the pipeline."""
        said = record.snapshot(fields)
        with self._change:
            self._name_the_loss()
            return self._take(kind, said)

    async def durable(self, seq: int, seconds: float = 5.0) -> bool:
        """Whether record `seq` will outlive the machine's power; waits for it. False when the disk refuses, or takes longer.

        With durability `async` nobody waits.
        """
        with self._change:
            if self.durability == "async" or self._done > seq or self.failed:
                return not self.failed
            future = self._waiters.wait(seq)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        return not self.failed

    def flush(self, seconds: float = 10.0) -> bool:
        """Wait, in a thread that may, until what was appended is durable. False when the disk refuses or takes longer."""
        with self._change:
            until = self._seq
            self._change.wait_for(lambda: self._done >= until or self.failed, seconds)
            return self._done >= until and not self.failed

    def seal(self, seconds: float = 30.0) -> Checkpoint:
        """Wait, in a thread that may, until a checkpoint covers what was appended. Raises LedgerError when none comes."""
        with self._change:
            until = self._wanted = self._seq
            self._work.notify()
            self._change.wait_for(lambda: self._sealed >= until or self.failed or self.late, seconds)
            if self._sealed < until:
                raise LedgerError(f"ledger {self.path}: not sealed: {self.failed or self.late or 'the disk takes too long'}")
            return self.checkpoint

    def look(self) -> None:
        """Once a second: notice a ledger that was moved, cut or deleted, and a clock that was set; name a loss as soon as the disk takes it."""
        with self._change:
            there = self._wal.there() and self._lock.in_place()
            self._name_the_loss()
        if there == bool(self._absent):
            self._absent = (
                "" if there else f"the folder {self.path} was moved, or its segment cut or deleted; put it back, or start the sidecar anew"
            )
            log.error("ledger %s: %s", self.path, self._absent or "it is back")
        if step := self._clock.step():
            self.append("clock", event="set", seconds=round(step, 3))

    def close(self) -> None:
        """Write, sync and seal what is there, and let go of the folder."""
        with self._change:
            if self._closing:
                return
            self._closing = True
            self._work.notify()
        for thread in self._threads:
            thread.join(timeout=30)
        self._wal.close()
        if self._sealed >= self._seq and not self._dead:
            with contextlib.suppress(OSError):  # it holds nothing that is not sealed
                self.disk.remove(self._wal.path)
        self._lock.release()

    # What the callers' threads do, with the condition held.

    def _room(self, size: int) -> bool:
        waits = len(self._queue) < QUEUED and self._queued_bytes + size <= QUEUED_BYTES
        return waits and not self._dead and self._unsealed_bytes < UNSEALED_BYTES

    def _take(self, kind: str, said: bytes) -> int:
        seq, self._seq = self._seq, self._seq + 1
        if self._lost or not self._room(len(said)):
            self._lose(seq, "the disk is slower than what comes")
        else:
            self._queue.append(_Waiting(seq, time.time(), time.monotonic(), kind, said))
            self._queued_bytes += len(said)
            self._work.notify()
        return seq

    def _lose(self, seq: int, why: str) -> None:
        if not self._lost:
            log.error("ledger %s: records are lost: %s", self.path, self._dead or self._refused or self.late or why)
        self._lost = (min(seq, self._lost[0]), max(seq, self._lost[1])) if self._lost else (seq, seq)

    def _name_the_loss(self) -> None:
        """The record of it has the number after those that were lost; `failed` stands until it is durable."""
        said = record.snapshot({"event": "lost", "first": self._lost[0], "last": self._lost[1]}) if self._lost else b""
        if self._lost and not self._refused and self._room(len(said)):
            self._lost = None
            self._naming = self._take("ledger", said)

    def _wake(self) -> None:
        """Those who wait for a number that is durable now; all of them, when nothing will be."""
        self._waiters.wake(lambda number: number < self._done or bool(self.failed))
        self._change.notify_all()

    # The first thread: the write-ahead segment.

    def _commit(self) -> None:
        synced = time.monotonic()
        try:
            while not (self._closing and not self._queue) and not self._dead:
                with self._change:
                    self._work.wait_for(lambda: self._queue or self._due() or self._closing, ASYNC_S)
                    batch = self._batch()
                if batch and not self._write(batch):
                    continue
                if self.durability != "async" or time.monotonic() - synced >= ASYNC_S:
                    self._wal.sync()
                    synced = time.monotonic()
                with self._change:
                    self._acknowledge(batch)
                if self._due():
                    self._turn()
            self._wal.sync()
        except (SyncError, WalError) as error:
            self._die(f"{error}; start the sidecar anew when the disk is well")
        except Exception as error:  # a fault of ours must not look like a quiet ledger
            log.exception("ledger %s", self.path)
            self._die(f"a fault in the ledger's thread: {type(error).__name__}: {error}")
        finally:
            with self._change:
                self._written = True
                self._change.notify_all()

    def _batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < BATCH and size < BATCH_BYTES:
            batch.append(self._queue.popleft())
            size += len(batch[-1].said)
        return batch

    def _write(self, batch: list[_Waiting]) -> bool:
        """Whether the disk took it. What it refuses goes back to the head of the queue, and waits. Raises WalError."""
        entries = [_leaf(each) for each in batch]
        try:
            self._wal.append(self._index, entries)
        except OSError as error:
            with self._change:
                if not self._refused:
                    log.error("ledger %s: %s", self.path, error)
                self._refused = f"the disk refuses records: {error.strerror}"
                self._queue.extendleft(reversed(batch))
                self._wake()
                if self._closing:
                    raise WalError(f"{len(self._queue)} records could not be written: {error.strerror}") from None
            time.sleep(AGAIN_S)
            return False
        self._index += len(entries)
        with self._change:
            self._unsealed += entries
            self._unsealed_bytes += sum(map(len, entries))
            self._unsealed_since = self._unsealed_since or time.monotonic()
        return True

    def _acknowledge(self, batch: list[_Waiting]) -> None:
        self._queued_bytes -= sum(len(each.said) for each in batch)
        self.records += len(batch)
        if batch:
            self._refused = ""
            self._kept, self._done = self._index, batch[-1].seq + 1
            self._wake()

    def _due(self) -> bool:
        """Whether the segment is to be closed now, so that its records can be sealed."""
        if self._handed or self._dead:
            return False
        waited = time.monotonic() - self._unsealed_since
        full = waited >= self.checkpoint_s or len(self._unsealed) >= SEAL or self._unsealed_bytes >= SEAL_BYTES
        return (bool(self._unsealed) and full) or self._sealed < self._wanted <= self._done

    def _turn(self) -> None:
        """Close the segment and hand its records over. A disk without room for a new one keeps the old."""
        try:
            if self._unsealed:
                self._wal.sync()
                self._wal.begin(self._index)
        except SyncError:
            raise
        except OSError as error:
            self.late = f"no new segment: {error.strerror}"
            time.sleep(AGAIN_S)
            return
        with self._change:
            self._handed = self._unsealed, self._done
            self._unsealed, self._unsealed_bytes, self._unsealed_since = [], 0, 0.0
            self._change.notify_all()

    def _die(self, why: str) -> None:
        log.error("ledger %s: %s", self.path, why)
        with self._change:
            self._dead = self._dead or why
            while self._queue:
                self._lose(self._queue.popleft().seq, why)
            self._wake()

    # The second thread: tiles and checkpoints.

    def _seal(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._handed or self._written)
                if self._handed is None and not self._dead:
                    self._handed = self._unsealed, self._done
                    self._unsealed = []
                entries, behind = self._handed or ([], 0)
                last = self._written
            if self._dead or (last and not entries and self._sealed >= behind):
                return
            if self._try_to_seal(entries):
                with self._change:
                    self._handed, self._sealed, self.late = None, behind, ""
                    self._change.notify_all()
            elif last:
                return
            else:
                with self._change:
                    self._handed = [], behind  # the tree has them; what is missing is on the disk
                    self._change.notify_all()
                time.sleep(AGAIN_S)

    def _try_to_seal(self, entries: list[bytes]) -> bool:
        try:
            self._sealer.seal(entries)
            return True
        except SyncError as error:
            self._die(f"{error}; start the sidecar anew when the disk is well")
        except (OSError, NoteError) as error:
            if not self.late:
                log.error("ledger %s: no checkpoint: %s", self.path, error)
            self.late = str(error)
        except Exception as error:
            log.exception("ledger %s", self.path)
            self._die(f"a fault in the sealing thread: {type(error).__name__}: {error}")
        return False


def _leaf(waiting: _Waiting) -> bytes:
    about = {
        "kind": waiting.kind,
        "seq": waiting.seq,
        "time": round(waiting.at, 6),
        "mono": round(waiting.mono, 6),
        "schema": record.SCHEMA,
    }
    try:
        return record.leaf(waiting.said, **about)
    except Exception as error:  # one record that can't be written down must not end them all
        log.exception("ledger: record %d, %s", waiting.seq, waiting.kind)
        return record.leaf(record.snapshot({"unwritable": f"{type(error).__name__}: {error}"[:300]}), **about)


def _number(entry: bytes | None) -> int:
    if entry is None:
        return -1
    try:
        return int(msgspec.json.decode(entry)["seq"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        raise LedgerError("the ledger's last record has no number; was it written by something else?") from None

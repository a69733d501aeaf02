"""The ledger: an append-only file of JSON records, one a line. No prompt and no output text ever enters it.

A record is written with one system call, so a process that dies leaves whole lines; what reached the kernel outlives
the process, and `sync` (once a second, and at the end) makes it outlive the machine's power. The signed, verifiable
form is the ledger's next step; this file is what it will be fed with.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import time
from pathlib import Path
from typing import Any

import msgspec

from monitor.errors import BarographError

log = logging.getLogger("barograph.ledger")

SCHEMA = 1


class Ledger:
    """Appends records. `failed` says what the disk refuses; the gateway then follows `on_ledger_failure`.

    A record that is lost uses its number up, and `failed` stands until a record of the loss is written: nobody is told of a verdict
    while the ledger has a hole that it does not name. One process writes a ledger at a time.
    """

    def __init__(self, path: Path) -> None:
        """Raises BarographError when the file can't be appended to, or another process writes it."""
        self.path = path
        self.records = 0
        self._file, self._size = -1, 0
        self._encoder = msgspec.json.Encoder(enc_hook=str)
        self._dirty = self._torn = False
        self._lost: list[int] = []  # the first and the last number that no record has
        self._write_failed = self._sync_failed = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
            self._seq = self._resume()
        except OSError as error:
            raise BarographError(f"ledger {path}: {error.strerror}; expected a file that can be appended to") from None

    @property
    def failed(self) -> str:
        return self._write_failed or self._sync_failed

    def append(self, kind: str, **fields: Any) -> None:
        """Write one record. A refusal is remembered in `failed`, logged once, and never raised into the pipeline."""
        if self._lost and not self._name_the_loss():
            self._lose()
            return
        if not self._write(kind, fields):
            self._lose()

    def look(self) -> None:
        """Once a second: name a loss as soon as the disk takes it, and notice a file that was moved, deleted or cut."""
        try:
            there = os.stat(self.path)
        except OSError:
            there = None
        here = os.fstat(self._file)
        if not stat.S_ISREG(here.st_mode):
            return
        if there is None or (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            self._reopen()
        elif here.st_size < self._size:
            log.error("ledger %s was cut from %d to %d bytes", self.path, self._size, here.st_size)
            cut, self._size = self._size - here.st_size, here.st_size
            self.append("ledger", event="truncated", bytes=cut)
        if self._lost:
            self._name_the_loss()

    def sync(self) -> None:
        """Make what was written outlive the machine's power. One refusal of the disk is not the last try."""
        if not self._dirty:
            return
        self._dirty = False
        try:
            os.fdatasync(self._file)
        except OSError as error:
            self._dirty = True
            if not self._sync_failed:
                log.error("ledger %s: cannot sync: %s", self.path, error)
            self._sync_failed = f"cannot sync: {error}"
            return
        self._sync_failed = ""

    def close(self) -> None:
        self.sync()
        os.close(self._file)

    def _write(self, kind: str, fields: dict[str, Any]) -> bool:
        record = {"seq": self._seq, "time": time.time(), "schema": SCHEMA, "kind": kind, **fields}
        try:
            said = self._encoder.encode(record)
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON may hold and UTF-8 may not
            said = json.dumps(record, default=str).encode()
        line = (b"\n" if self._torn else b"") + said + b"\n"
        try:
            written = os.write(self._file, line)
            self._size += written
            if written != len(line):
                self._torn = True  # the next record begins on a line of its own
                raise OSError("short write")
        except OSError as error:
            if not self._write_failed:
                log.error("ledger %s: %s", self.path, error)
            self._write_failed = str(error)
            return False
        self._torn = False
        self._seq += 1
        self.records += 1
        self._dirty = True
        return True

    def _lose(self) -> None:
        self._lost = [self._lost[0] if self._lost else self._seq, self._seq]
        self._seq += 1

    def _name_the_loss(self) -> bool:
        first, last = self._lost
        if not self._write("ledger", {"event": "lost", "first": first, "last": last}):
            return False
        self._lost, self._write_failed = [], ""
        return True

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise BarographError(
                f"ledger {self.path} is written by another process; stop it, or set sidecar.ledger to another file"
            ) from None
        self._size = os.fstat(self._file).st_size

    def _reopen(self) -> None:
        """The path leads elsewhere now. What comes goes where people look, under numbers that go on."""
        log.error("ledger %s is another file now or gone; going on in a new one", self.path)
        old = self._file
        try:
            self._open()
        except (OSError, BarographError) as error:
            self._file, self._write_failed = old, str(error)
            if not self._lost:
                self._lose()  # stands until a record goes where it should
            return
        os.close(old)
        self.append("ledger", event="reopened")

    def _resume(self) -> int:
        """Go on counting where the file ends; a torn last line, from a crash of the machine, is closed and kept."""
        size = self.path.stat().st_size
        if not size:
            return 0
        with self.path.open("rb") as file:
            file.seek(max(0, size - (1 << 20)))
            lines = file.read().split(b"\n")
        if lines[-1]:
            os.write(self._file, b"\n")
        for line in reversed(lines):
            try:
                return int(msgspec.json.decode(line)["seq"]) + 1
            except (msgspec.DecodeError, KeyError, TypeError, ValueError):
                continue
        return 0

"""The ledger: an append-only file of JSON records, one a line. No prompt and no output text ever enters it.

A record is written with one system call, so a process that dies leaves whole lines; what reached the kernel outlives
the process, and `sync` (once a second, and at the end) makes it outlive the machine's power. The signed, verifiable
form is the ledger's next step; this file is what it will be fed with.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import msgspec

from monitor.errors import BarographError

log = logging.getLogger("barograph.ledger")

SCHEMA = 1


class Ledger:
    """Appends records. `failed` is set when the disk refuses one; the gateway then follows `on_ledger_failure`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failed = ""
        self.records = 0
        self._encoder = msgspec.json.Encoder(enc_hook=str)
        self._dirty = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._seq = self._resume()
        except OSError as error:
            raise BarographError(f"ledger {path}: {error.strerror}; expected a file that can be appended to") from None

    def append(self, kind: str, **fields: Any) -> None:
        """Write one record. A refusal is remembered in `failed`, logged once, and never raised into the pipeline."""
        record = {"seq": self._seq, "time": time.time(), "schema": SCHEMA, "kind": kind, **fields}
        line = self._encoder.encode(record) + b"\n"
        try:
            if os.write(self._file, line) != len(line):
                raise OSError("short write")
        except OSError as error:
            if not self.failed:
                log.error("ledger %s: %s", self.path, error)
            self.failed = str(error)
            return
        self.failed = ""
        self._seq += 1
        self.records += 1
        self._dirty = True

    def sync(self) -> None:
        if self._dirty:
            self._dirty = False
            os.fdatasync(self._file)

    def close(self) -> None:
        self.sync()
        os.close(self._file)

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

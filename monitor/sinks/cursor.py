"""How far a follower of the ledger has come, in a file beside it: durable, and only good for the ledger that it was made with."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from monitor.audit.disk import Disk
from monitor.audit.reader import Reader
from monitor.errors import BarographError
from probes.files import read_plain

log = logging.getLogger("barograph.kafka")

MAX_FILE = 4096


class Cursor:
    """The record at which to go on. One that is damaged, or of a ledger that was moved away, cut or put back from a copy, starts over: doubles are better than holes."""

    def __init__(self, ledger: Path, file: Path) -> None:
        self._ledger = ledger
        self._file = file

    def read(self) -> int:
        try:
            said = json.loads(read_plain(self._file, MAX_FILE))
            at, last = int(said["records"]), str(said["last"])
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("%s: %s: %s; the ledger is published from its beginning", self._file, type(error).__name__, error)
            return 0
        if at == 0 or self._digest(at - 1) == last:
            return at
        log.error("%s: it is of another ledger, or of more than this one holds; the ledger is published from its beginning", self._file)
        return 0

    def keep(self, at: int, last: bytes) -> None:
        """`last`: the record before it. Raises OSError."""
        Disk().put({self._file: json.dumps({"records": at, "last": hashlib.sha256(last).hexdigest()}).encode()})

    def _digest(self, index: int) -> str:
        """Of one record; nothing when it is not there."""
        try:
            reader = Reader(self._ledger, index)
            try:
                found = reader.take(1) if reader.at == index else []
            finally:
                reader.close()
        except BarographError:
            return ""
        return hashlib.sha256(found[0]).hexdigest() if found else ""

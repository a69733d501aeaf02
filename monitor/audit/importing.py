"""Takes a ledger of before the log, one JSON line a record, into the log: once, and with its origin said."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from monitor.audit.ledger import QUEUED, Ledger
from monitor.audit.reader import records
from monitor.audit.sealer import LedgerError
from probes.files import open_plain

MAX_LINE = 1 << 20
WAIT_S = 0.005


def take(ledger: Ledger, file: Path, by: str, reason: str) -> int:
    """Give the number of records. A line that is no JSON object is kept as its digest. Raises LedgerError."""
    if not reason.strip():
        raise LedgerError("an import needs a reason; expected one that a reader of the ledger understands")
    try:
        with open_plain(file) as lines:
            digest = _digest(lines)
    except OSError as error:
        raise LedgerError(f"{file}: {error.strerror}; expected a file with one JSON record a line") from None
    ledger.seal()
    if any(each["kind"] == "custody" and each.get("event") == "imported" and each["sha256"] == digest for each in records(ledger.path)):
        raise LedgerError(f"{file}: it was imported before, which a record says")
    ledger.append("custody", event="importing", by=by, reason=reason, file=file.name, sha256=digest)
    count = torn = 0
    with open_plain(file) as lines:
        while line := lines.readline(MAX_LINE):
            count += 1
            try:
                ledger.append("imported", line=count, record=msgspec.json.decode(line, type=dict[str, Any]))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                torn += 1
                ledger.append("imported", line=count, sha256=hashlib.sha256(line).hexdigest(), bytes=len(line))
            while ledger.waiting > QUEUED // 2:
                time.sleep(WAIT_S)
    ledger.append("custody", event="imported", by=by, reason=reason, file=file.name, sha256=digest, records=count, unreadable=torn)
    ledger.seal()
    return count


def _digest(file: BinaryIO) -> str:
    hashed = hashlib.sha256()
    while some := file.read(MAX_LINE):
        hashed.update(some)
    return hashed.hexdigest()

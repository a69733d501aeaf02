"""A record as it becomes a leaf of the ledger's tree: canonical JSON (RFC 8785), so that there is one way only to write it down."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any

import msgspec
import rfc8785

from monitor.audit.tiles import MAX_ENTRY

SCHEMA = 2  # 1 was the lines of JSON before there was a tree
LARGEST = (1 << 53) - 1  # whole numbers beyond it are not the same in every reader of JSON

_encoder = msgspec.json.Encoder(enc_hook=str)


def snapshot(fields: dict[str, Any]) -> bytes:
    """Fields as JSON, quickly, as they are now: whoever gave them may change them afterwards. Numbers that JSON lacks become null."""
    try:
        return _encoder.encode(fields)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON may hold and UTF-8 may not
        return _encoder.encode(_clean(fields))


def leaf(said: bytes, **about: Any) -> bytes:
    """The canonical form of a snapshot and what the ledger says of it. A record too large for the format loses its largest fields, and says so."""
    record = {**msgspec.json.decode(said), **about}
    entry = _canonical(record)
    while len(entry) > MAX_ENTRY:
        largest = max((name for name in record if name not in about), key=lambda name: len(_canonical(record[name])))
        value = _canonical(record[largest])
        record[largest] = {"omitted_bytes": len(value), "sha256": sha256(value).hexdigest()}
        entry = _canonical(record)
    return entry


def _canonical(value: Any) -> bytes:
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError:
        return rfc8785.dumps(_clean(value))


def _clean(value: Any) -> Any:
    """The same without what canonical JSON has no form for."""
    if isinstance(value, dict):
        return {str(_clean(str(name))): _clean(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(inner) for inner in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST:
        return str(value)
    return value

"""Proofs of single records, in the form that travels with them (c2sp.org/tlog-proof)."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec

from monitor.audit import merkle, note
from monitor.audit.tiles import Tiles, kept_from
from monitor.errors import BarographError
from probes.files import read_plain


class ProofError(BarographError):
    """A record that is not there, or that no checkpoint covers yet."""


def prove(folder: Path, number: int) -> tuple[bytes, str]:
    """The record with this number as it was hashed, and the proof that the newest checkpoint covers it. Raises ProofError, TileError, NoteError."""
    try:
        checkpoint = read_plain(folder / "checkpoint", note.MAX_NOTE)
    except OSError as error:
        raise ProofError(f"cannot read {folder / 'checkpoint'}: {error.strerror}; expected the folder of a ledger") from None
    size = note.Checkpoint.unverified(checkpoint).size
    tiles = Tiles(folder, size)
    index = _index(tiles, number)
    entry = tiles.entry(index)
    path = "".join(f"{base64.b64encode(digest).decode()}\n" for digest in merkle.inclusion(index, size, tiles.at))
    return entry, f"c2sp.org/tlog-proof@v1\nindex {index}\n{path}\n{checkpoint.decode()}"


def _index(tiles: Tiles, number: int) -> int:
    """Where a record lies. Numbers grow, and lost ones leave holes, so none lies behind its number."""
    first = kept_from(tiles.folder)
    low, high = first, max(first, min(number + 1, tiles.size))
    while low < high:
        middle = (low + high) // 2
        if int(msgspec.json.decode(tiles.entry(middle))["seq"]) < number:
            low = middle + 1
        else:
            high = middle
    if low >= tiles.size or int(msgspec.json.decode(tiles.entry(low))["seq"]) != number:
        why = (
            "it was purged"
            if low == first > 0
            else "it was lost"
            if low < tiles.size
            else f"the newest checkpoint covers {tiles.size} records"
        )
        raise ProofError(f"{tiles.folder}: no record {number} to prove: {why}")
    return low

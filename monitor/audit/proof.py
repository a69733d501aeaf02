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


class Prover:
    """Proves records of a ledger under one checkpoint, the newest when it is made. Raises ProofError, TileError or NoteError."""

    def __init__(self, folder: Path) -> None:
        try:
            self.checkpoint = read_plain(folder / "checkpoint", note.MAX_NOTE)
        except OSError as error:
            raise ProofError(f"cannot read {folder / 'checkpoint'}: {error.strerror}; expected the folder of a ledger") from None
        self.head = note.Checkpoint.unverified(self.checkpoint)
        self._tiles = Tiles(folder, self.head.size)
        self._first = kept_from(folder, self.head.size)

    def prove(self, number: int) -> tuple[bytes, str]:
        """The record with this number as it was hashed, and the proof that the checkpoint covers it."""
        index = self._index(number)
        digests = merkle.inclusion(index, self.head.size, self._tiles.at)
        path = "".join(f"{base64.b64encode(digest).decode()}\n" for digest in digests)
        return self._tiles.entry(index), f"c2sp.org/tlog-proof@v1\nindex {index}\n{path}\n{self.checkpoint.decode()}"

    def entry(self, index: int) -> bytes:
        """The record at a place of the tree."""
        return self._tiles.entry(index)

    def _index(self, number: int) -> int:
        """Where a record lies. Numbers grow, and lost ones leave holes, so none lies behind its number."""
        tiles = self._tiles
        low, high = self._first, max(self._first, min(number + 1, tiles.size))
        while low < high:
            middle = (low + high) // 2
            if self._number(middle) < number:
                low = middle + 1
            else:
                high = middle
        if low >= tiles.size or self._number(low) != number:
            why = "it was lost"
            if low == self._first > 0:
                why = "it was purged"
            elif low >= tiles.size:
                why = f"the newest checkpoint covers {tiles.size} records"
            raise ProofError(f"{tiles.folder}: no record {number} to prove: {why}")
        return low

    def _number(self, index: int) -> int:
        try:
            return int(msgspec.json.decode(self._tiles.entry(index))["seq"])
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError):
            raise ProofError(f"{self._tiles.folder}: record {index} is damaged; `barograph audit verify` tells more") from None


def prove(folder: Path, number: int) -> tuple[bytes, str]:
    """One record and its proof under the newest checkpoint. Raises ProofError, TileError, NoteError."""
    return Prover(folder).prove(number)

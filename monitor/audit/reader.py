"""Reads a ledger's records in their order, sealed and unsealed, while somebody writes it or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from monitor.audit import note, wal
from monitor.audit.tiles import WIDTH, TileError, Tiles, kept_from
from monitor.errors import BarographError
from probes.files import open_plain, read_plain


class ReadError(BarographError):
    """No ledger, or one that can't be read."""


class Reader:
    """Goes from record `at` on, or from the first that was not purged. It trusts what it reads: whether that is genuine is the verifier's to say. Raises ReadError."""

    def __init__(self, folder: Path, at: int = 0, sealed: bool = False) -> None:
        """`sealed`: only what a checkpoint covers: what lies behind it no signature vouches for yet."""
        self.folder, self._only_sealed = folder, sealed
        if not os.path.isfile(folder / "checkpoint"):
            what = "a file" if os.path.isfile(folder) else "a folder without a checkpoint" if os.path.isdir(folder) else "no such ledger"
            raise ReadError(f"cannot read {folder}: {what}; expected the folder of a ledger")
        self._tiles = Tiles(folder, self._sealed())
        self.at = max(at, kept_from(folder, self._tiles.size))
        self._bundle: tuple[int, list[bytes]] = (-1, [])
        self._file: BinaryIO | None = None
        self._index = 0  # of the record at which the open segment is read on

    def take(self, limit: int = WIDTH) -> list[bytes]:
        """The next records, at most `limit`; empty when there are none yet."""
        found = self._from_tiles(limit) or ([] if self._only_sealed else self._from_segment(limit))
        if not found and (sealed := self._sealed()) > self.at:
            self._tiles = Tiles(self.folder, sealed)
            found = self._from_tiles(limit)
        self.at += len(found)
        return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _sealed(self) -> int:
        try:
            return note.Checkpoint.unverified(read_plain(self.folder / "checkpoint", note.MAX_NOTE)).size
        except OSError as error:
            raise ReadError(f"cannot read {self.folder / 'checkpoint'}: {error.strerror}") from None

    def _from_tiles(self, limit: int) -> list[bytes]:
        if self.at >= self._tiles.size:
            return []
        index, first = divmod(self.at, WIDTH)
        if self._bundle[0] != index or len(self._bundle[1]) <= first:
            self._bundle = index, self._tiles.bundle(index)
        return self._bundle[1][first : first + limit]

    def _from_segment(self, limit: int) -> list[bytes]:
        """From the segment that holds the next record. It is read on where it was left; one that was sealed meanwhile is of no more use."""
        if self._file is not None and (found := self._more(limit)):
            return found
        names = [path for path in wal.segments(self.folder / "wal") if int(path.name[:20]) <= self.at]
        if not names or (self._file is not None and self._file.name == str(names[-1])):
            return []
        self.close()
        try:
            self._file = open_plain(names[-1])
        except OSError:  # sealed and gone
            return []
        self._index = int(names[-1].name[:20])
        return self._more(limit)

    def _more(self, limit: int) -> list[bytes]:
        assert self._file is not None
        found: list[bytes] = []
        while len(found) < limit and (entry := wal.read_record(self._file, self._index)) is not None:
            if self._index == self.at + len(found):
                found.append(entry)
            self._index += 1
        return found


def entries(folder: Path, at: int = 0) -> Iterator[bytes]:
    """All records from `at` on, as the bytes that were hashed. Raises ReadError, TileError."""
    reader = Reader(folder, at)
    try:
        while some := reader.take():
            yield from some
    finally:
        reader.close()


def records(folder: Path, at: int = 0) -> Iterator[dict[str, Any]]:
    """All records from `at` on. Raises ReadError."""
    try:
        for entry in entries(folder, at):
            yield msgspec.json.decode(entry)
    except (TileError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReadError(f"{folder}: {error}") from None

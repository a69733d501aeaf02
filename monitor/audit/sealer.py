"""Seals records: entries become tiles and bundles, and a signed checkpoint says how far the tree goes.

The order makes a crash harmless: tiles, then the checkpoint, then the write-ahead segments go. Whatever is missing is made again from the segments.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from monitor.audit import note, wal
from monitor.audit.disk import Disk
from monitor.audit.merkle import EMPTY
from monitor.audit.note import Checkpoint, Signer
from monitor.audit.tiles import WIDTH, Edge, TileError, Tiles, bundle_path, tile_path
from monitor.errors import BarographError
from probes.files import read_plain

log = logging.getLogger("barograph.ledger")

AT_ONCE = 64  # files that are open while they are written


class LedgerError(BarographError):
    """A ledger that cannot be opened, or that was changed by others."""


class Sealer:
    """The sealed part of a ledger. One thread uses it."""

    def __init__(self, folder: Path, signers: Sequence[Signer], disk: Disk) -> None:
        """`signers`: the log's key first; while keys are changed, the old and the new one. Raises LedgerError when what lies there is not its own."""
        self.folder, self._disk, self._signers = folder, disk, tuple(signers)
        self.origin = signers[0].key.name
        self.checkpoint = self._newest()
        try:
            self._edge = Edge.read(folder, self.checkpoint.size)
        except TileError as error:
            raise LedgerError(f"{error}: something of the sealed ledger was taken away; restore it from a copy") from None
        if self._edge.root != self.checkpoint.root:
            raise LedgerError(
                f"ledger {folder}: its tiles are not those of its checkpoint ({self.checkpoint.size} records); something was changed. "
                "Keep the folder as evidence, restore a copy, or start a new ledger elsewhere"
            )
        self._files: dict[str, bytes] = {}  # full tiles and bundles that the disk has not taken yet

    @property
    def size(self) -> int:
        """Records that the newest checkpoint covers."""
        return self.checkpoint.size

    @property
    def last(self) -> bytes | None:
        """The last record that was taken."""
        if self._edge.bundle:
            return self._edge.bundle[-1]
        if not self.size:
            return None
        return Tiles(self.folder, self.size).entry(self.size - 1)

    def seal(self, entries: Sequence[bytes]) -> Checkpoint:
        """Take entries in and sign what the tree is then. After an OSError or a NoteError call it again, with what came since.

        Raises SyncError, after which nothing is to be tried again.
        """
        self._files.update(self._edge.append(entries))
        while self._files:
            some = dict(list(self._files.items())[:AT_ONCE])
            self._disk.put({self.folder / name: data for name, data in some.items()})
            for name in some:
                del self._files[name]
        edge = self._edge
        if edge.size == self.size and self.size:
            return self.checkpoint
        self._disk.put({self.folder / name: data for name, data in edge.unfinished()})
        checkpoint = Checkpoint(self.origin, edge.size, edge.root)
        self._disk.put({self.folder / "checkpoint": note.signed(checkpoint.text, self._signers)})
        before, self.checkpoint = self.checkpoint, checkpoint
        self._tidy(before.size)
        return checkpoint

    def _newest(self) -> Checkpoint:
        path = self.folder / "checkpoint"
        try:
            signed = read_plain(path, note.MAX_NOTE)
        except FileNotFoundError:
            if (self.folder / "tile").exists():
                raise LedgerError(f"ledger {self.folder}: it has tiles and no checkpoint; restore the checkpoint from a copy") from None
            return Checkpoint(self.origin, 0, EMPTY)
        except OSError as error:
            raise LedgerError(f"{path}: {error.strerror}; expected the ledger's newest checkpoint") from None
        try:
            text, _ = note.opened(signed, [signer.key for signer in self._signers])
            checkpoint = Checkpoint.parse(text)
        except note.NoteError as error:
            raise LedgerError(f"{path}: {error}. Was another key given, or the file changed?") from None
        if checkpoint.origin != self.origin:
            raise LedgerError(f"{path}: it is of the log {checkpoint.origin}, and the key is that of {self.origin}")
        return checkpoint

    def _tidy(self, before: int) -> None:
        """Remove what the checkpoint made needless: segments that are covered, partial tiles whose full tile is there. What stays does no harm."""
        try:
            kept = wal.segments(self.folder / "wal")
            for path, following in zip(kept, kept[1:], strict=False):
                if int(following.name[:20]) <= self.size:
                    self._disk.remove(path)
            level, span = 0, WIDTH
            while before // span != self.size // span:
                for name in (tile_path(level, before // span), *([bundle_path(before // span)] if level == 0 else [])):
                    shutil.rmtree(self.folder / f"{name}.p", ignore_errors=True)
                level, span = level + 1, span * WIDTH
        except OSError as error:
            log.warning("ledger %s: cannot tidy up: %s", self.folder, error)

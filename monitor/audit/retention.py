"""What may be taken out of the ledger, and taking it out: whole bundles of old records. Their hashes stay, so every later proof holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from monitor.audit import merkle, note
from monitor.audit.disk import Disk
from monitor.audit.merkle import leaf_hash
from monitor.audit.tiles import WIDTH, TileError, Tiles, bundle_path, kept_from
from probes.files import read_plain

FLOOR_DAYS = 184  # the longest six months: Art. 19 and 26(6) of Regulation (EU) 2024/1689
DAY_S = 86_400.0


@dataclass(frozen=True)
class Retention:
    """`days`: how long records are kept; None keeps them for good. `content_days`: how long content is. `basis`: the law that lets records go before six months."""

    days: float | None = None
    content_days: float | None = None
    basis: str = ""

    @property
    def objection(self) -> str:
        """Why records may not go so early; empty when they may."""
        if self.days is None or self.days >= FLOOR_DAYS or self.basis.strip():
            return ""
        return f"records are kept for {self.days:g} days; expected at least {FLOOR_DAYS} (six months), or the legal basis for less as basis"


def old(folder: Path, until: float, limit: int | None = None) -> tuple[int, int]:
    """The first record that is there, and the first that must stay: all before it are older than `until` (seconds since 1970), in whole bundles.

    limit: from this record on all stays, as what an archive lacks. Raises TileError, OSError, NoteError.
    """
    checkpoint = note.Checkpoint.unverified(read_plain(folder / "checkpoint", note.MAX_NOTE))
    size = checkpoint.size
    tiles, first = Tiles(folder, size), kept_from(folder, size)
    last = size if limit is None else min(size, limit)
    before = first
    while before + WIDTH <= last and _all_older(tiles, before // WIDTH, until, checkpoint.root):
        before += WIDTH
    return first, before


def _all_older(tiles: Tiles, index: int, until: float, root: bytes) -> bool:
    """Of a bundle's records. Raises TileError for one that is not what the tree says: a changed time would have young records removed, and the traces of that with them."""
    entries = tiles.bundle(index)
    leaves = [leaf_hash(entry) for entry in entries]
    path = merkle.inclusion(index * WIDTH, tiles.size, tiles.at)
    if leaves != tiles.tile(0, index) or merkle.rooted(index * WIDTH, tiles.size, leaves[0], path) != root:
        raise TileError(f"{tiles.folder}: bundle {index} is not what the tree says; nothing is removed from a ledger that was changed")
    return all(msgspec.json.decode(entry)["time"] < until for entry in entries)


def remove(folder: Path, first: int, before: int, disk: Disk) -> None:
    """Remove the bundles from record `first` up to `before`, multiples of 256. A crash on the way leaves the newer part of them."""
    for index in range(first // WIDTH, before // WIDTH):
        path = folder / bundle_path(index)
        disk.remove(path)
        disk.sync_folder(path.parent)  # one after the other: what is missing is always the oldest

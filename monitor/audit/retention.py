"""What may be taken out of the ledger, and taking it out: whole bundles of old records. Their hashes stay, so every later proof holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from monitor.audit import note
from monitor.audit.disk import Disk
from monitor.audit.tiles import WIDTH, Tiles, bundle_path, kept_from
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


def old(folder: Path, until: float, archived: int | None = None) -> tuple[int, int]:
    """The first record that is there, and the first that must stay: all before it are older than `until` (seconds since 1970), in whole bundles.

    archived: how many records an archive has; what it lacks stays. Raises TileError, OSError, NoteError.
    """
    size = note.Checkpoint.unverified(read_plain(folder / "checkpoint", note.MAX_NOTE)).size
    tiles, first = Tiles(folder, size), kept_from(folder)
    last = size if archived is None else min(size, archived)
    before = first
    while before + WIDTH <= last and msgspec.json.decode(tiles.bundle(before // WIDTH)[-1])["time"] < until:
        before += WIDTH
    return first, before


def remove(folder: Path, before: int, disk: Disk) -> None:
    """Remove the bundles of all records before this one, a multiple of 256. A crash on the way leaves the newer part of them."""
    for index in range(kept_from(folder) // WIDTH, before // WIDTH):
        path = folder / bundle_path(index)
        disk.remove(path)
        disk.sync_folder(path.parent)  # one after the other: what is missing is always the oldest

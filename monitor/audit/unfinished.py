"""Generations that a sidecar left without an end when it died."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from monitor.audit import note
from monitor.audit.tiles import WIDTH, Tiles, kept_from
from probes.files import read_plain

ENDS = ("end", "lost")
LOOKED_AT = 1 << 18  # records at most: what began so long ago has ended


def unfinished(folder: Path) -> list[dict[str, Any]]:
    """The begin records without an end, of the newest process that wrote the sealed ledger: from its end back to that process's start, or as far as `LOOKED_AT` reaches.

    Raises TileError, OSError, NoteError.
    """
    size = note.Checkpoint.unverified(read_plain(folder / "checkpoint", note.MAX_NOTE)).size
    tiles = Tiles(folder, size)
    began: dict[str, dict[str, Any]] = {}
    ended: set[str] = set()
    newest = (size - 1) // WIDTH
    for index in range(newest, max(kept_from(folder, size) // WIDTH - 1, newest - LOOKED_AT // WIDTH), -1):
        for entry in reversed(tiles.bundle(index)):
            record = msgspec.json.decode(entry)
            kind, event = record.get("kind"), record.get("event")
            if kind == "sidecar" and event == "start":
                return list(began.values())
            if kind == "stream" and event in ENDS:
                ended.add(record["stream"])
            elif kind == "stream" and event == "begin" and record["stream"] not in ended:
                began[record["stream"]] = record
    return list(began.values())

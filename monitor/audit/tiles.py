"""The ledger's tree on disk, as c2sp.org/tlog-tiles lays it out: tiles of 256 hashes, and bundles of 256 entries under the lowest of them."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from monitor.audit.merkle import EMPTY, Hashes, join, leaf_hash, node_hash
from monitor.errors import BarographError
from probes.files import read_plain

WIDTH = 256  # hashes in a full tile, entries in a full bundle
HASH = 32
MAX_ENTRY = (1 << 16) - 1  # what the two bytes of a length can say
MAX_BUNDLE = WIDTH * (MAX_ENTRY + 2)
_STEP, _DIGITS = re.compile("x[0-9]{3}"), re.compile("[0-9]{3}")  # parts of a path
KEPT_TILES = 4096  # in memory, 8 KiB each, while proofs are made


class TileError(BarographError):
    """A tile or a bundle that is missing or is not what its name says."""


def tile_path(level: int, index: int, width: int = WIDTH) -> str:
    return _path(str(level), index, width)


def bundle_path(index: int, width: int = WIDTH) -> str:
    return _path("entries", index, width)


def kept_from(folder: Path, size: int) -> int:
    """The first record that is still there of a tree of `size`: 0, or a multiple of 256 where the oldest bundles were purged.

    Files of other names, or beyond the tree, are nobody's.
    """
    full = size // WIDTH  # bundles; what comes behind them is never purged
    if not full or os.path.exists(folder / bundle_path(0)):
        return 0
    home, found = folder / "tile" / "entries", full
    for parent, below, files in os.walk(home):
        parts = Path(parent).relative_to(home).parts
        below[:] = [name for name in below if _STEP.fullmatch(name)]
        above = "".join(part[1:] for part in parts)
        found = min([found, *(int(above + name) for name in files if _DIGITS.fullmatch(name))])
    return found * WIDTH


def pack(entries: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)


def unpack(bundle: bytes, width: int) -> list[bytes]:
    """The entries of a bundle. Raises ValueError unless there are `width` of them and nothing else."""
    entries, at, size = [], 0, len(bundle)
    while at + 1 < size:
        end = at + 2 + (bundle[at] << 8 | bundle[at + 1])
        entries.append(bundle[at + 2 : end])
        at = end
    if at != size:
        raise ValueError("it ends in the middle of an entry")
    if len(entries) != width:
        raise ValueError(f"it holds {len(entries)} entries; expected {width}")
    return entries


class Edge:
    """The right edge of a growing tree: at every level the hashes of its unfinished tile, and the entries of the unfinished bundle.

    That is all that appending needs, so memory stays flat whatever the size.
    """

    def __init__(self) -> None:
        self.size = 0
        self.levels: list[list[bytes]] = [[]]
        self.bundle: list[bytes] = []

    @classmethod
    def read(cls, folder: Path, size: int) -> Edge:
        """Raises TileError when the tiles of that size are not there."""
        edge, tiles = cls(), Tiles(folder, size)
        edge.size = size
        if size % WIDTH:
            edge.bundle = tiles.bundle(size // WIDTH)
        edge.levels = []
        while size or not edge.levels:
            level = len(edge.levels)
            edge.levels.append(tiles.tile(level, size // WIDTH)[: size % WIDTH] if size % WIDTH else [])
            size //= WIDTH
        return edge

    @property
    def root(self) -> bytes:
        """Of all entries so far."""
        below: list[bytes] = []
        for hashes in self.levels:
            whole = hashes + below
            below = [join(whole)] if whole else []
        return below[0] if below else EMPTY

    def append(self, entries: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
        """Take entries in, and give the tiles and bundles that this made full, with their paths."""
        for entry in entries:
            self.bundle.append(entry)
            self.levels[0].append(leaf_hash(entry))
            self.size += 1
            if len(self.bundle) == WIDTH:
                yield bundle_path(self.size // WIDTH - 1), pack(self.bundle)
                self.bundle = []
                yield from self._close(0)

    def unfinished(self) -> Iterator[tuple[str, bytes]]:
        """The partial tiles and the partial bundle that a checkpoint of this size needs."""
        if self.bundle:
            yield bundle_path(self.size // WIDTH, len(self.bundle)), pack(self.bundle)
        for level, hashes in enumerate(self.levels):
            if hashes:
                yield tile_path(level, self.size // WIDTH ** (level + 1), len(hashes)), b"".join(hashes)

    def _close(self, level: int) -> Iterator[tuple[str, bytes]]:
        """A level's tile is full: its root goes into the level above."""
        hashes, self.levels[level] = self.levels[level], []
        yield tile_path(level, self.size // WIDTH ** (level + 1) - 1), b"".join(hashes)
        if level + 1 == len(self.levels):
            self.levels.append([])
        self.levels[level + 1].append(join(hashes))
        if len(self.levels[level + 1]) == WIDTH:
            yield from self._close(level + 1)


class Tiles:
    """Reads the tree of `size` entries that a folder holds. Raises TileError for what is missing or of a wrong length."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.tile = lru_cache(KEPT_TILES)(self._tile)

    def bundle(self, index: int) -> list[bytes]:
        """The entries of a bundle that this tree has, fewer than 256 for its last."""
        width = min(WIDTH, self.size - index * WIDTH)
        if width < 1:
            raise TileError(f"{self.folder}: bundle {index} lies beyond the tree of {self.size}")
        path, held, raw = self._read(lambda held: bundle_path(index, held), width, MAX_BUNDLE)
        try:
            return unpack(raw, held)[:width]
        except ValueError as error:
            raise TileError(f"{path}: {error}") from None

    def entry(self, index: int) -> bytes:
        return self.bundle(index // WIDTH)[index % WIDTH]

    @property
    def at(self) -> Hashes:
        """Hashes of complete subtrees, from the tiles."""

        def hash_of(level: int, index: int) -> bytes:
            tall, rest = divmod(level, 8)
            first = index << rest
            hashes = self.tile(tall, first // WIDTH)[first % WIDTH : first % WIDTH + (1 << rest)]
            if len(hashes) != 1 << rest:
                raise TileError(f"{self.folder}: tile {tile_path(tall, first // WIDTH)} is too short for a tree of {self.size}")
            while len(hashes) > 1:
                hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
            return hashes[0]

        return hash_of

    def _tile(self, level: int, index: int) -> list[bytes]:
        width = min(WIDTH, self.size // WIDTH**level - index * WIDTH)
        if width < 1:
            raise TileError(f"{self.folder}: tile {tile_path(level, index)} lies beyond the tree of {self.size}")
        path, held, raw = self._read(lambda held: tile_path(level, index, held), width, WIDTH * HASH)
        if len(raw) != held * HASH:
            raise TileError(f"{path}: {len(raw)} bytes; expected {held * HASH}")
        return [raw[i : i + HASH] for i in range(0, width * HASH, HASH)]

    def _read(self, name: Callable[[int], str], width: int, limit: int) -> tuple[Path, int, bytes]:
        """The partial file of this tree's width, or the full one, which may have taken its place."""
        why = ""
        for held in dict.fromkeys((width, WIDTH)):
            path = self.folder / name(held)
            try:
                return path, held, read_plain(path, limit)
            except OSError as error:
                why = why or str(error.strerror)
        raise TileError(f"{self.folder / name(width)}: {why}; the tree of {self.size} entries needs it")


def _path(level: str, index: int, width: int) -> str:
    digits = f"{index:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    path = "/".join(["tile", level, *(f"x{part}" for part in parts[:-1]), parts[-1]])
    return path if width == WIDTH else f"{path}.p/{width}"

"""The write-ahead segments: where a record lies from the moment when it is acknowledged until a checkpoint covers it.

A segment's name is the index of its first record. Each record stands behind a head of 44 bytes, little-endian: four letters, the length of
the payload, its index, how many bytes of the segment were durable when it was written, a keyed hash of that with the payload, a CRC-32 of all of it. So recovery can tell a
torn tail, which nobody was promised, from damage to something that was acknowledged: behind the latter a whole record says that it was durable. And it signs
nothing that somebody else has written there: the hash's key comes from the log's private key.
"""

from __future__ import annotations

import hmac
import os
import re
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from monitor.audit.disk import Disk
from monitor.errors import BarographError
from probes.files import read_plain

HEAD = struct.Struct("<4sIQQ16sI")
MARK = b"BGW2"
HASHED, SUMMED = HEAD.size - 20, HEAD.size - 4  # bytes of the head that the keyed hash is of, and the CRC, both with the payload
MAX_RECORD = 1 << 16
MAX_SEGMENT = 1 << 30  # far more than a writer lets come together
NAME = re.compile(r"([0-9]{20})\.wal")


class WalError(BarographError):
    """A segment that lost what it had acknowledged, does not follow the one before it, or can't be brought back to whole records."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What a segment holds from its beginning on. `end`: how many of its bytes are whole records."""

    path: Path
    first: int
    records: list[bytes]
    end: int
    size: int

    @classmethod
    def read(cls, path: Path, keys: Sequence[bytes]) -> Segment:
        """`keys`: with one of which it was written; an empty one takes it whoever wrote it. Raises WalError for damage in front of something durable and for
        what was written with no such key, OSError when it can't be read."""
        raw = read_plain(path, MAX_SEGMENT)
        first = index = int(path.name[:20])
        records, at = [], 0
        while (found := _record(raw, at)) and found[0] == index:
            if b"" not in keys and not any(hmac.compare_digest(found[3], _mac(key, raw[at : at + HASHED], found[2])) for key in keys):
                raise WalError(
                    f"{path}: record {index} was not written with this log's key: somebody else wrote it, or the key was changed while records were not "
                    f"sealed. Keep the segment as evidence, and remove it from the ledger"
                )
            records.append(found[2])
            at += HEAD.size + len(found[2])
            index += 1
        behind = raw.find(MARK, at + 1)
        while behind >= 0:
            if (found := _record(raw, behind)) and found[1] > at:
                raise WalError(
                    f"{path}: record {index} at byte {at} is damaged, and it was durable before record {found[0]} was written; "
                    f"restore the segment from a copy, or move the ledger away as evidence and start a new one"
                )
            behind = raw.find(MARK, behind + 1)
        return cls(path, first, records, at, len(raw))


def segments(folder: Path) -> list[Path]:
    """In the order of their records. Files of other names are not ours."""
    try:
        return sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def unsealed(folder: Path, since: int, keys: Sequence[bytes]) -> tuple[list[bytes], int]:
    """The records from index `since` on that a writer left, and how many bytes of a torn tail stand behind them. Raises WalError, OSError."""
    found: list[bytes] = []
    torn, expected = 0, since
    for path in segments(folder):
        segment = Segment.read(path, keys)
        if segment.first > expected:
            raise WalError(
                f"{path}: begins with record {segment.first}; records from {expected} on are missing. Restore the segment before it from a copy"
            )
        found += segment.records[expected - segment.first :]
        expected = max(expected, segment.first + len(segment.records))
        torn += segment.size - segment.end
    return found, torn


def read_record(file: BinaryIO, index: int) -> bytes | None:
    """The record at the file's place, which then moves behind it. None, and no move, where no whole record of that index stands yet."""
    at = file.tell()
    head = file.read(HEAD.size)
    length = HEAD.unpack(head)[1] if len(head) == HEAD.size else 0
    found = _record(head + file.read(min(length, MAX_RECORD)), 0) if length else None
    if found is None or found[0] != index:
        file.seek(at)
        return None
    return found[2]


class Wal:
    """The segment that is written now. One thread uses it, but for `there`. Raises OSError from every method that touches the disk."""

    def __init__(self, folder: Path, disk: Disk, key: bytes) -> None:
        self.folder, self._disk, self._key = folder, disk, key
        self._file = -1
        self._size = self._durable = 0
        self._swap = threading.Lock()  # around what `there` compares
        self.path = folder

    def begin(self, index: int) -> None:
        """A new segment; the one before is left as it is. Its name is durable before anything is written into it."""
        path = self.folder / f"{index:020d}.wal"
        self._disk.make_folder(self.folder)
        try:
            file = self._disk.create(path)
        except FileExistsError:  # of a try that came no further: whatever it holds was never acknowledged
            self._disk.remove(path)
            file = self._disk.create(path)
        try:
            self._disk.sync_folder(self.folder)
        except OSError:
            os.close(file)
            raise
        with self._swap:
            self.close()
            self._file, self._size, self._durable, self.path = file, 0, 0, path

    def append(self, index: int, records: Sequence[bytes]) -> None:
        """Write records, the first of which is `index`. After an OSError nothing of them is left; WalError says that something may be."""
        frames: list[bytes] = []
        for i, record in enumerate(records):
            head = HEAD.pack(MARK, len(record), index + i, self._durable, b"", 0)[:HASHED]
            head += _mac(self._key, head, record)
            frames += (head + crc32(record, crc32(head)).to_bytes(4, "little"), record)
        data = b"".join(frames)
        try:
            self._disk.append(self._file, data)
        except OSError as error:
            try:
                self._disk.cut(self._file, self._size)
            except OSError as second:
                raise WalError(f"{self.path}: {error}, and what was written can't be cut off again: {second}") from None
            raise
        self._size += len(data)

    def sync(self) -> None:
        """Make what was appended outlive the machine's power. After an OSError nobody knows what the disk has: never try again."""
        if self._durable != self._size:
            self._disk.sync(self._file)
            self._durable = self._size

    def there(self) -> bool:
        """Whether the segment is still the file that its path names, and no shorter than it was left."""
        with self._swap:
            size = self._size  # before the look: what is being written makes it longer
            try:
                named, held = os.stat(self.path), os.fstat(self._file)
            except OSError:
                return False
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino) and held.st_size >= size

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _record(raw: bytes, at: int) -> tuple[int, int, bytes, bytes] | None:
    """Index, durable bytes before it, payload, keyed hash; None where no whole record stands."""
    if at + HEAD.size > len(raw):
        return None
    mark, length, index, durable, mac, said = HEAD.unpack_from(raw, at)
    payload = raw[at + HEAD.size : at + HEAD.size + length]
    if mark != MARK or length > MAX_RECORD or len(payload) != length or said != crc32(payload, crc32(raw[at : at + SUMMED])):
        return None
    return index, durable, payload, mac


def _mac(key: bytes, head: bytes, payload: bytes) -> bytes:
    return blake2b(head + payload, key=key, digest_size=16).digest()

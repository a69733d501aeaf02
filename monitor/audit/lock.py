"""One ledger has one writer: a lock on its folder that the kernel takes back when its holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from monitor.errors import BarographError


class LockError(BarographError):
    """Another process writes there."""


class FolderLock:
    """Held from the beginning until `release`. Raises LockError where another one holds it, OSError where it can't be made."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise LockError(f"ledger {folder} is written by another process; stop it, or set sidecar.ledger to another folder") from None

    def in_place(self) -> bool:
        """Whether the folder still is the one that was locked: nobody moved or deleted it."""
        try:
            named, held = os.stat(self._path), os.fstat(self._file)
        except OSError:
            return False
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)

    def release(self) -> None:
        os.close(self._file)

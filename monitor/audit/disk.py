"""Every call that changes the ledger's folder. One place, so that a test can let each of them fail, or lose what was not synced."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path


class SyncError(OSError):
    """The disk did not take what it was to keep. What it has is unknown from then on, and asking again may be answered with a lie."""


class Disk:
    """Raises OSError from every method; a write that came short is one too."""

    def create(self, path: Path) -> int:
        """A new file that is only ever appended to. The name is durable when its folder was synced."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def overwrite(self, path: Path) -> int:
        """A file that may be there from a try that came no further."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def make(self, folder: Path) -> None:
        folder.mkdir(0o700)

    def append(self, file: int, data: bytes) -> None:
        if (written := os.write(file, data)) != len(data):
            raise OSError(errno.ENOSPC, f"{written} of {len(data)} bytes were written")

    def sync(self, file: int) -> None:
        try:
            os.fdatasync(file)
        except OSError as error:
            raise SyncError(error.errno, f"cannot sync: {error.strerror}") from None

    def cut(self, file: int, size: int) -> None:
        os.ftruncate(file, size)

    def make_folder(self, path: Path) -> None:
        """With every folder above it that is missing, all durable."""
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                self.make(folder)
            self.sync_folder(folder.parent)

    def sync_folder(self, path: Path) -> None:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        except OSError as error:
            raise SyncError(error.errno, f"cannot sync {path}: {error.strerror}") from None
        finally:
            os.close(folder)

    def put(self, files: Mapping[Path, bytes]) -> None:
        """Whole files, durable under their names. All are written before the first is synced: the disk then has one wait, not many."""
        waiting: list[tuple[int, Path, Path]] = []
        try:
            for path, data in files.items():
                self.make_folder(path.parent)
                draft = path.with_name(path.name + ".new")
                file = self.overwrite(draft)
                waiting.append((file, draft, path))
                self.append(file, data)
            for file, draft, path in waiting:
                self.sync(file)
                self.rename(draft, path)
        finally:
            for file, _, _ in waiting:
                os.close(file)
        for folder in {path.parent for path in files}:
            self.sync_folder(folder)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

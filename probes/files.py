"""Files that a user names, opened so that none can keep its reader waiting, and written so that none is ever half there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_plain(path: Path) -> BinaryIO:
    """A regular file, to be read. Raises OSError for everything else: a pipe that nobody writes would hang an ordinary `open`."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL in its name
        raise OSError(errno.EINVAL, "no path", str(path)) from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "no plain file", str(path))
    return open(number, "rb")


def read_plain(path: Path, limit: int) -> bytes:
    """All of a regular file. Raises OSError, also for one of more than `limit` bytes."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        raw = file.read(min(size, limit) + 1)  # to ask for `limit` would make room for all of it
        if size < len(raw) <= limit:  # it grew meanwhile, or says no size, as those in /proc
            raw += file.read(limit + 1 - len(raw))
    if len(raw) > limit:
        raise OSError(errno.EFBIG, f"it is larger; expected at most {limit} bytes", str(path))
    return raw


def replace(path: Path, raw: bytes) -> None:
    """Written beside it and moved, so that a file is there whole or not at all, whatever lay in its place: a link is replaced, not followed. Raises OSError."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with beside.open("xb") as file:
        file.write(raw)
    os.replace(beside, path)

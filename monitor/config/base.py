"""What every part of the configuration is made of, and the files and folders that it names."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from monitor.errors import ConfigError
from probes import bank
from probes.files import read_plain
from rules import document

PACKS = Path(document.__file__).parent / "packs"
BANKS = Path(bank.__file__).parent / "banks"


MAX_TEXT = 1 << 20  # bytes of a configuration or a rule file


def runtime_dir() -> Path:
    """Where sockets lie: a folder that no other user can write. Whoever makes a socket there makes it by `own_folder`."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(given) / "barograph" if given and Path(given).is_dir() else Path(tempfile.gettempdir()) / f"barograph-{os.getuid()}"


def own_folder(folder: Path) -> None:
    """Make a socket's folder with mode 0700 when it is not there; refuse our own when somebody else could write it. Raises ConfigError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat(follow_symlinks=False)
    except OSError as error:
        raise ConfigError(f"folder {folder}: {error.strerror}; expected one that can be made with mode 0700") from None
    if folder == runtime_dir() and (about.st_uid != os.getuid() or about.st_mode & 0o077 or not stat.S_ISDIR(about.st_mode)):
        raise ConfigError(
            f"folder {folder} belongs to user {about.st_uid} with mode {about.st_mode & 0o7777:o}; expected one of our own with 700"
        )


def _split(value: object) -> object:
    """`host:port` as a pair, `unix:/path` as a path."""
    if isinstance(value, str) and value.startswith("unix:/"):
        return Path(value.removeprefix("unix:"))
    if not isinstance(value, str) or ":" not in value or value.startswith("unix:"):
        raise ValueError(f"'{value}' is no address; expected HOST:PORT such as 127.0.0.1:8400")
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"'{value}' is no address; expected HOST:PORT with a port from 0 to 65535")
    return host.strip("[]"), int(port)


Address = Annotated[tuple[str, int], BeforeValidator(_split)]
EngineAddress = Annotated[tuple[str, int] | Path, BeforeValidator(_split)]
Fail = Literal["closed", "open"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def read_text(path: Path) -> str:
    """A text file. Raises ConfigError when it is missing, no plain file, too large, unreadable or not UTF-8."""
    try:
        return read_file(path, MAX_TEXT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; expected a YAML text") from None


def read_file(path: Path, limit: int) -> bytes:
    """A plain file of at most `limit` bytes, never one that could keep its reader waiting. Raises ConfigError."""
    try:
        return read_plain(path, limit)
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})") from None

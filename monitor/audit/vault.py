"""What was said, kept outside the tree under a key for each subject, so that it can be destroyed while every proof still holds.

The ledger holds a commitment to it: a salted hash, which says nothing to whoever lacks the content. Salt and content lie here, sealed with AES-256-GCM under the subject's key,
which lies beside them wrapped by the vault's own key (RFC 3394). Who destroys a subject's key has destroyed all that was said under it.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from monitor.audit.disk import Disk
from monitor.errors import BarographError
from probes.files import read_plain

log = logging.getLogger("barograph.ledger")

VARIABLE = "BAROGRAPH_VAULT_KEY"
SALT, NONCE, KEY = 32, 12, 32
MAX_CONTENT = 16 << 20
NAME = re.compile("[0-9a-f]{32}")  # of a subject's folder, and of a piece of content
WRAPPED = "key"  # the name of the file with a subject's wrapped key


class VaultError(BarographError):
    """Content that is not there, was erased, or is not what the ledger committed to."""


@dataclass(frozen=True)
class Sealed:
    """What the ledger says of content. `commitment`: SHA-256 of salt and content, in hexadecimal."""

    id: str
    commitment: str
    bytes: int


def beside(ledger: Path) -> Path:
    return ledger.with_name(ledger.name + ".vault")


class Vault:
    """A folder with a folder for each subject. Subjects are named by a keyed hash, so their names are not to be guessed from the disk."""

    def __init__(self, folder: Path) -> None:
        """Its key comes from the environment (BAROGRAPH_VAULT_KEY, 32 bytes in base64), else from a file in it, which is made. Raises VaultError."""
        self.folder = folder
        self._disk = Disk()
        try:
            self._disk.make_folder(folder)
            master = self._master(folder / "secret")
        except OSError as error:
            raise VaultError(f"{folder}: {error.strerror}; expected a folder that can be written") from None
        self._naming, self._wrapping = (hmac.digest(master, use, "sha256") for use in (b"subjects", b"keys"))

    def put(self, subject: str, content: bytes) -> Sealed:
        """Seal it. Raises OSError or VaultError; then nothing is kept."""
        if len(content) > MAX_CONTENT:
            raise VaultError(f"content of {len(content)} bytes; expected at most {MAX_CONTENT}")
        home, name, salt, nonce = self._home(subject), secrets.token_hex(16), secrets.token_bytes(SALT), secrets.token_bytes(NONCE)
        with self._turn():
            self._disk.make_folder(home)
            sealed = AESGCM(self._key(home)).encrypt(nonce, salt + content, name.encode())
            self._disk.put({home / name: nonce + sealed})
        return Sealed(name, hashlib.sha256(salt + content).hexdigest(), len(content))

    def get(self, name: str, commitment: str) -> bytes:
        """The content that the ledger committed to. Raises VaultError."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise VaultError(f"'{str(name)[:64]}' names no content; expected 32 hexadecimal digits")
        home = next((each for each in self._subjects() if os.path.lexists(each / name)), None)
        if home is None:
            raise VaultError(
                f"content {name} is not in {self.folder}: it was erased or has expired, which a record says, or it was taken away"
            )
        try:
            raw = read_plain(home / name, MAX_CONTENT + 1024)
            opened = AESGCM(self._unwrapped(home)).decrypt(raw[:NONCE], raw[NONCE:], name.encode())
        except (OSError, InvalidTag, ValueError):
            raise VaultError(f"content {name} cannot be opened: its file was changed, or the vault's key is another") from None
        if hashlib.sha256(opened).hexdigest() != commitment:
            raise VaultError(f"content {name} is not what the ledger committed to")
        return opened[SALT:]

    def erase(self, subject: str, names: list[str] | None = None) -> list[str]:
        """Destroy a subject's key, salts and content. Gives the names of what there was, in `names` also when an OSError comes on the way."""
        home, names = self._home(subject), names if names is not None else []
        with self._turn():
            if not _is_folder(home):
                return names
            names += [path.name for path in home.iterdir() if NAME.fullmatch(path.name)]
            self._disk.remove(home / WRAPPED)  # from here on nobody can read the rest
            self._disk.sync_folder(home)
            shutil.rmtree(home)
            self._disk.sync_folder(self.folder)
        return names

    def expire(self, until: float) -> tuple[list[str], str]:
        """Destroy what was sealed before `until` (seconds since 1970), with the keys that nothing is left of. Gives the names, and what went wrong."""
        gone: list[str] = []
        trouble = ""
        for home in self._subjects():
            try:
                with self._turn():
                    there = [path for path in home.iterdir() if NAME.fullmatch(path.name)]
                    old = [path for path in there if path.stat(follow_symlinks=False).st_mtime < until]
                    for path in old:
                        self._disk.remove(path)
                        gone.append(path.name)
                    if len(old) == len(there):
                        shutil.rmtree(home)
            except OSError as error:  # the others go all the same
                trouble = trouble or str(error)
        return gone, trouble

    def _subjects(self) -> list[Path]:
        """Their folders, and nothing else that lies there: no link is followed."""
        return [path for path in self.folder.iterdir() if NAME.fullmatch(path.name) and _is_folder(path)]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One thread and one process at a time changes what lies here: a key is not to be destroyed between two looks at it."""
        file = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _home(self, subject: str) -> Path:
        return self.folder / hmac.digest(self._naming, subject.encode(errors="surrogatepass"), "sha256").hex()[:32]

    def _key(self, home: Path) -> bytes:
        if os.path.exists(home / WRAPPED):
            return self._unwrapped(home)
        key = secrets.token_bytes(KEY)
        self._disk.put({home / WRAPPED: aes_key_wrap(self._wrapping, key)})
        return key

    def _unwrapped(self, home: Path) -> bytes:
        try:
            return aes_key_unwrap(self._wrapping, read_plain(home / WRAPPED, 1024))
        except (InvalidUnwrap, ValueError):
            raise VaultError(f"{home / WRAPPED}: it was wrapped by another key; expected the {VARIABLE} or the secret of before") from None

    def _master(self, file: Path) -> bytes:
        if (said := os.environ.get(VARIABLE)) is not None:
            try:
                master = base64.b64decode(said, validate=True)
            except (binascii.Error, ValueError):
                master = b""
            if len(master) != KEY:
                raise VaultError(f"{VARIABLE}: expected {KEY} random bytes in base64")
            return master
        if not os.path.exists(file):
            self._disk.put({file: secrets.token_bytes(KEY)})
            log.warning(
                "made a key for what clients say and get in %s; whoever has it and the folder can read it. %s keeps it elsewhere",
                file,
                VARIABLE,
            )
        if len(master := read_plain(file, KEY)) != KEY:
            raise VaultError(f"{file}: {len(master)} bytes; expected the vault's key of {KEY}")
        return master


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat(follow_symlinks=False).st_mode)
    except OSError:
        return False

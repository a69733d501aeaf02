"""What was said, kept outside the tree under a key for each subject, so that it can be destroyed while every proof still holds.

The ledger holds a commitment to it: a salted hash, which says nothing to whoever lacks the content. Salt and content lie here, sealed with AES-256-GCM under the subject's key,
which lies beside them wrapped by the vault's own key (RFC 3394). Who destroys a subject's key has destroyed all that was said under it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import secrets
import shutil
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
        self._disk.make_folder(home)
        sealed = AESGCM(self._key(home)).encrypt(nonce, salt + content, name.encode())
        self._disk.put({home / name: nonce + sealed})
        return Sealed(name, hashlib.sha256(salt + content).hexdigest(), len(content))

    def get(self, name: str, commitment: str) -> bytes:
        """The content that the ledger committed to. Raises VaultError."""
        if not (len(name) == 32 and name.isalnum()):
            raise VaultError(f"'{name[:64]}' names no content; expected 32 hexadecimal digits")
        home = next((each for each in self._subjects() if os.path.exists(each / name)), None)
        if home is None:
            raise VaultError(
                f"content {name} is not in {self.folder}: it was erased or has expired, which a record says, or it was taken away"
            )
        try:
            raw = read_plain(home / name, MAX_CONTENT + 1024)
            opened = AESGCM(self._unwrapped(home)).decrypt(raw[:NONCE], raw[NONCE:], name.encode())
        except (OSError, InvalidTag, ValueError):
            raise VaultError(f"content {name} cannot be opened: its file was changed, or the vault's key is another") from None
        if not hmac.compare_digest(hashlib.sha256(opened).hexdigest(), commitment):
            raise VaultError(f"content {name} is not what the ledger committed to")
        return opened[SALT:]

    def erase(self, subject: str) -> list[str]:
        """Destroy a subject's key, salts and content. Gives the names of what there was. Raises OSError; what was destroyed by then stays so."""
        home = self._home(subject)
        if not home.is_dir():
            return []
        names = [path.name for path in home.iterdir() if path.name != WRAPPED]
        self._disk.remove(home / WRAPPED)  # from here on nobody can read the rest
        self._disk.sync_folder(home)
        shutil.rmtree(home)
        self._disk.sync_folder(self.folder)
        return names

    def expire(self, until: float) -> int:
        """Destroy what was sealed before `until` (seconds since 1970), with the keys that nothing is left of. Raises OSError."""
        gone = 0
        for home in self._subjects():
            left = 0
            for path in [path for path in home.iterdir() if path.name != WRAPPED]:
                if path.stat(follow_symlinks=False).st_mtime < until:
                    self._disk.remove(path)
                    gone += 1
                else:
                    left += 1
            if not left and (home / WRAPPED).stat().st_mtime < until:
                shutil.rmtree(home)
        return gone

    def _subjects(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.is_dir()]

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

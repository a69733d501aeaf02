"""The key that signs the ledger: from the environment, a file, or a program that has it elsewhere."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

from monitor.audit.disk import Disk
from monitor.audit.ledger import Ledger
from monitor.audit.note import ED25519, MAX_NOTE, NAME, LocalSigner, NoteError, ProgramSigner, PublicKey, Signer
from probes.files import read_plain

log = logging.getLogger("barograph.ledger")

VARIABLE = "BAROGRAPH_AUDIT_KEY"
MAX_KEY = 4096


def signer(file: Path, origin: str | None, ledger: Path, program: Sequence[str] = (), vkey: str | None = None) -> Signer:
    """`program` with its `vkey` goes before the variable BAROGRAPH_AUDIT_KEY, that before `file`, which is made for a ledger that does not exist yet.

    Raises NoteError.
    """
    if program:
        if vkey is None:
            raise NoteError("audit.sign_with needs audit.vkey, the public key of what the program signs with")
        return ProgramSigner(PublicKey.parse(vkey), program)
    if (said := os.environ.get(VARIABLE)) is not None:
        return LocalSigner.parse(said)
    if not os.path.exists(file) and not os.path.exists(ledger / "checkpoint"):
        return new(file, origin or f"{socket.gethostname()}/barograph")
    found = LocalSigner.parse(read(file))
    if file.stat().st_mode & 0o007:
        log.warning("%s can be read by everybody: whoever has it can write another history", file)
    return found


def beside(ledger: Path) -> Path:
    """Where a ledger's key lies when nothing else is said. Whoever has both can write another history: a real deployment keeps them apart."""
    return ledger.with_name(ledger.name + ".key")


def read(file: Path) -> str:
    """Raises NoteError."""
    try:
        return read_plain(file, MAX_KEY).decode("utf-8", "replace")
    except OSError as error:
        raise NoteError(
            f"{file}: {error.strerror}; expected the key that signs the ledger. Set audit.key, or the variable {VARIABLE}"
        ) from None


def new(file: Path, origin: str, kind: int = ED25519) -> LocalSigner:
    """A new key in a new file. Raises NoteError."""
    if not NAME.fullmatch(origin):
        raise NoteError(f"{origin[:64]!r} names no key; expected letters without spaces and plus signs, such as example.com/barograph")
    made = LocalSigner(origin, secrets.token_bytes(32), kind)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(number, f"{made.private}\n".encode())
            os.fsync(number)
        finally:
            os.close(number)
        Disk().sync_folder(file.parent)
    except OSError as error:
        raise NoteError(f"{file}: cannot make a key: {error.strerror}") from None
    log.warning("made a new key in %s; keep a copy apart from this machine, and give auditors: %s", file, made.key.vkey)
    return made


def rotate(ledger: Path, file: Path, reason: str) -> tuple[PublicKey, PublicKey, Path]:
    """Give a ledger that nobody writes a new key of the same name: a record says so, under a checkpoint that both keys signed.

    Gives the old and the new key and where that checkpoint is kept. The old private key stays beside the new one, as FILE.ID. Raises BarographError.
    """
    old = LocalSigner.parse(read(file))
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)  # of a try that came no further: nothing was signed by it alone
    made = new(fresh, old.key.name)
    kept = Ledger(ledger, [old, made])
    try:
        kept.append("key", event="rotated", old=old.key.vkey, new=made.key.vkey, reason=reason)
        kept.seal()
        both = read_plain(ledger / "checkpoint", MAX_NOTE)
    finally:
        kept.close()
    place = file.with_name(f"{file.name}.{made.key.id.hex()}.checkpoint")
    disk = Disk()
    try:
        disk.put({place: both})
        os.link(file, file.with_name(f"{file.name}.{old.key.id.hex()}"))
        disk.rename(fresh, file)
        disk.sync_folder(file.parent)
    except OSError as error:
        raise NoteError(f"{file}: the ledger is signed by both keys, but the new one is still in {fresh}: {error}") from None
    return old.key, made.key, place

"""Signed notes (c2sp.org/signed-note), the checkpoints that they carry (c2sp.org/tlog-checkpoint), and the keys of both.

A key is told as a *vkey*: `<name>+<id>+<base64 of a type byte and the public key>`; the private one lies in a file as
`PRIVATE+KEY+<name>+<id>+<base64 of a type byte and the seed>`, the form that Go's tools for transparency logs read too.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from monitor.errors import BarographError

ED25519, COSIGNATURE = (
    1,
    4,
)  # the type bytes; signatures of further types (6 is ML-DSA-44) are carried on, and verified by whoever knows them
MAX_NOTE = 256 << 10
SIGN_S = 10  # how long a program that signs may take
NAME = re.compile(r"[^\s+\x00-\x1f\x7f]{1,255}")


class NoteError(BarographError):
    """A key or a note that is none, or a signature that does not verify."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """`kind` is ED25519 for a log and COSIGNATURE for a witness; `raw` has 32 bytes."""

    name: str
    kind: int
    raw: bytes

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.raw).digest()[:4]

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([self.kind]) + self.raw).decode()}"

    @classmethod
    def parse(cls, vkey: str) -> PublicKey:
        """Raises NoteError with what a vkey looks like."""
        name, kind, raw, claimed = _split(vkey.strip().split("+", 2), vkey)
        if kind not in (ED25519, COSIGNATURE) or len(raw) != 32:
            raise NoteError(f"key {name}: type {kind} with {len(raw)} bytes; supported are Ed25519 (1) and Ed25519 cosignatures (4)")
        key = cls(name, kind, raw)
        if key.id.hex() != claimed:
            raise NoteError(f"key {name}: its id is {key.id.hex()}, not {claimed[:16]}; was it copied whole?")
        return key

    def verifies(self, text: str, signature: bytes) -> bool:
        """signature: without the key's id. A cosignature begins with its time, 8 bytes."""
        message = text.encode()
        if self.kind == COSIGNATURE:
            if len(signature) != 72:
                return False
            message = cosigned(text, cosigned_at(signature))
            signature = signature[8:]
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


class Signer(Protocol):
    """Whatever can sign as `key`: a key here, or a program that asks a token or a service for it."""

    key: PublicKey

    def sign(self, message: bytes) -> bytes:
        """64 bytes. Raises NoteError when it can't be had."""

    def secret(self, use: str) -> bytes:
        """32 bytes that nobody has who lacks the private key, and that are the same each time; nothing where the key is elsewhere."""


class LocalSigner:
    """A private key in this process."""

    def __init__(self, name: str, seed: bytes, kind: int = ED25519) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self._seed = seed
        self.key = PublicKey(name, kind, self._private.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> LocalSigner:
        """Raises NoteError with what a private key looks like, and nothing of the key."""
        if not text.startswith("PRIVATE+KEY+"):
            raise NoteError("no private key; expected PRIVATE+KEY+<name>+<id>+<key>, as `barograph audit key --new` makes one")
        name, kind, seed, claimed = _split(text.strip().split("+", 4)[2:], "the private key")
        if len(seed) != 32 or kind not in (ED25519, COSIGNATURE):
            raise NoteError(f"private key of {name}: type {kind} with {len(seed)} bytes; supported are Ed25519 keys of 32 bytes")
        signer = cls(name, seed, kind)
        if signer.key.id.hex() != claimed:
            raise NoteError(f"private key of {name}: its id is {signer.key.id.hex()}, not {claimed[:16]}; was it copied whole?")
        return signer

    @property
    def private(self) -> str:
        key = self.key
        return f"PRIVATE+KEY+{key.name}+{key.id.hex()}+{base64.b64encode(bytes([key.kind]) + self._seed).decode()}"

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def secret(self, use: str) -> bytes:
        return hmac.digest(self._seed, f"barograph {use}".encode(), "sha256")


class ProgramSigner:
    """A program of the operator's that signs: it reads the message and writes 64 bytes, raw or in base64. So a PKCS#11 token or a cloud's KMS keeps the key."""

    def __init__(self, key: PublicKey, program: Sequence[str]) -> None:
        self.key = key
        self._program = list(program)

    def sign(self, message: bytes) -> bytes:
        try:
            done = subprocess.run(self._program, input=message, capture_output=True, timeout=SIGN_S, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise NoteError(f"audit.sign_with: {self._program[0]} did not sign: {error}") from None
        signature = done.stdout
        if len(signature) != 64:
            try:
                signature = base64.b64decode(signature.strip(), validate=True)
            except binascii.Error:
                signature = b""
        if len(signature) != 64 or not self.key.verifies(message.decode(), signature):
            raise NoteError(f"audit.sign_with: what {self._program[0]} wrote is no signature by {self.key.name}+{self.key.id.hex()}")
        return signature

    def secret(self, use: str) -> bytes:
        return b""


@dataclass(frozen=True, slots=True)
class Signature:
    name: str
    id: bytes
    value: bytes

    @property
    def line(self) -> str:
        return f"— {self.name} {base64.b64encode(self.id + self.value).decode()}\n"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How large a log is and what its root is, as somebody signed it."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def unverified(cls, note: bytes) -> Checkpoint:
        """What a signed note says, whoever signed it. Raises NoteError."""
        return cls.parse(parse(note)[0])

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Raises NoteError. Further lines, which the format allows, are not kept."""
        lines = text.split("\n")
        try:
            origin, size, digest = lines[:3]
            root = base64.b64decode(digest, validate=True)
        except (ValueError, binascii.Error):
            raise NoteError("no checkpoint; expected three lines: origin, size and root hash") from None
        if not origin or not re.fullmatch(r"0|[1-9][0-9]{0,18}", size) or len(root) != 32:
            raise NoteError(f"no checkpoint: origin '{origin[:64]}', size '{size[:24]}' and a hash of {len(root)} bytes")
        return cls(origin, int(size), root)


def signed(text: str, signers: Iterable[Signer]) -> bytes:
    """A note. Raises NoteError when a signer fails."""
    lines = "".join(Signature(signer.key.name, signer.key.id, signer.sign(text.encode())).line for signer in signers)
    return f"{text}\n{lines}".encode()


def parse(note: bytes) -> tuple[str, list[Signature]]:
    """The text of a note and whatever stands under it, unverified. Raises NoteError."""
    if len(note) > MAX_NOTE:
        raise NoteError(f"a note of {len(note)} bytes; expected at most {MAX_NOTE}")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise NoteError("no signed note: it is not UTF-8") from None
    text, blank, below = whole.rpartition("\n\n")
    if not blank or not below.endswith("\n") or any(ord(letter) < 32 and letter != "\n" for letter in whole):
        raise NoteError("no signed note; expected a text, an empty line and signatures")
    signatures = []
    for line in below[:-1].split("\n"):
        parts = line.split(" ")
        try:
            dash, name, value = parts
            raw = base64.b64decode(value, validate=True)
        except (ValueError, binascii.Error):
            dash, name, raw = "", "", b""
        if dash != "—" or not NAME.fullmatch(name) or len(raw) < 5:
            raise NoteError(f"no signature line: '{line[:80]}'")
        signatures.append(Signature(name, raw[:4], raw[4:]))
    return text + "\n", signatures


def opened(note: bytes, keys: Sequence[PublicKey]) -> tuple[str, list[PublicKey]]:
    """The text and who of `keys` signed it. Raises NoteError when none did, or a signature by one of them is wrong."""
    text, signatures = parse(note)
    found = []
    for signature in signatures:
        for key in keys:
            if (key.name, key.id) != (signature.name, signature.id) or key in found:
                continue
            if not key.verifies(text, signature.value):
                raise NoteError(f"the signature by {key.name}+{key.id.hex()} does not verify: the text or the signature was changed")
            found.append(key)
    if not found:
        by = ", ".join(f"{each.name}+{each.id.hex()}" for each in signatures)
        raise NoteError(f"signed by {by}, expected one of: {', '.join(f'{key.name}+{key.id.hex()}' for key in keys)}")
    return text, found


def cosigned(text: str, at: int) -> bytes:
    """What a witness signs of a checkpoint (c2sp.org/tlog-cosignature, version 1)."""
    return f"cosignature/v1\ntime {at}\n{text}".encode()


def cosigned_at(signature: bytes) -> int:
    """When a witness says that it signed, in seconds since 1970."""
    at: int = struct.unpack(">Q", signature[:8])[0]
    return at


def _split(parts: list[str], what: str) -> tuple[str, int, bytes, str]:
    try:
        name, claimed, coded = parts
        raw = base64.b64decode(coded, validate=True)
        kind, rest = raw[0], raw[1:]
    except (ValueError, IndexError, binascii.Error):
        raise NoteError(f"{what[:120]}: no key; expected <name>+<8 hex digits>+<base64>") from None
    if not NAME.fullmatch(name):
        raise NoteError(f"{name[:64]!r} names no key; expected letters without spaces and plus signs, such as example.com/barograph")
    return name, kind, rest, claimed

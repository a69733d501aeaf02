"""A witness of other people's logs (c2sp.org/tlog-witness): it cosigns a checkpoint only when that goes on from the last one which it cosigned.

So who keeps a log can neither roll it back nor show two histories without a witness's help. Run it where the log's keeper has no hand.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from monitor.audit import merkle, note
from monitor.audit.disk import Disk
from monitor.audit.lock import FolderLock
from monitor.audit.merkle import EMPTY
from monitor.audit.note import Checkpoint, NoteError, PublicKey, Signature, Signer
from probes.files import read_plain

MAX_PROOF = 63
MAX_BODY = note.MAX_NOTE + MAX_PROOF * 64
TEXT, SIZE = "text/plain; charset=utf-8", "text/x.tlog.size"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str
    kind: str = TEXT


class Witness:
    """One newest checkpoint for each known log, in a folder that one process uses. `signer` has a key of the type COSIGNATURE."""

    def __init__(self, folder: Path, signer: Signer, logs: Sequence[PublicKey], disk: Disk | None = None) -> None:
        """Raises LockError, OSError."""
        self._folder, self._signer, self._logs, self._disk = folder, signer, tuple(logs), disk or Disk()
        self._disk.make_folder(folder)
        self._lock = FolderLock(folder)
        self._turn = threading.Lock()  # comparing with the last one and keeping the new one is one step

    def add(self, body: bytes) -> Answer:
        """What `POST /add-checkpoint` answers."""
        head, blank, signed = body.partition(b"\n\n")
        lines = head.decode("utf-8", "replace").split("\n")
        old = re.fullmatch(r"old (0|[1-9][0-9]{0,18})", lines[0])
        try:
            path = [base64.b64decode(line, validate=True) for line in lines[1:]]
            checkpoint = Checkpoint.unverified(signed)
        except (binascii.Error, NoteError) as error:
            return Answer(400, f"{error}\n")
        if not blank or old is None or len(path) > MAX_PROOF or any(len(each) != 32 for each in path):
            return Answer(400, "expected 'old SIZE', at most 63 hashes in base64, an empty line and a checkpoint\n")
        if not (keys := [key for key in self._logs if key.name == checkpoint.origin]):
            return Answer(404, f"the log {checkpoint.origin[:200]} is not known here\n")
        try:
            note.opened(signed, keys)
        except NoteError as error:
            return Answer(403, f"{error}\n")
        with self._turn:
            return self._decide(int(old[1]), path, checkpoint)

    def _decide(self, old: int, path: list[bytes], checkpoint: Checkpoint) -> Answer:
        last = self.last(checkpoint.origin)
        if old > checkpoint.size:
            return Answer(400, f"the old size {old} is larger than that of the checkpoint, {checkpoint.size}\n")
        if old != last.size or (old == checkpoint.size and last.size and last.root != checkpoint.root):
            return Answer(409, f"{last.size}\n", SIZE)
        if not merkle.consistent(old, checkpoint.size, last.root, checkpoint.root, path):
            return Answer(422, f"the proof does not show that the log of {checkpoint.size} goes on from that of {old}\n")
        self._disk.put({self._place(checkpoint.origin): checkpoint.text.encode()})
        at = int(time.time())
        signature = struct.pack(">Q", at) + self._signer.sign(note.cosigned(checkpoint.text, at))
        return Answer(200, Signature(self._signer.key.name, self._signer.key.id, signature).line)

    def last(self, origin: str) -> Checkpoint:
        """The newest checkpoint of a log that was cosigned here. Raises NoteError when what is kept is damaged."""
        try:
            return Checkpoint.parse(read_plain(self._place(origin), note.MAX_NOTE).decode())
        except FileNotFoundError:
            return Checkpoint(origin, 0, EMPTY)

    def close(self) -> None:
        self._lock.release()

    def _place(self, origin: str) -> Path:
        return self._folder / sha256(origin.encode()).hexdigest()

"""The log's side of witnessing: the newest checkpoint goes to each witness, and what they sign is kept beside it, in `witnessed`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from monitor.audit import merkle, note
from monitor.audit.disk import Disk
from monitor.audit.note import Checkpoint, NoteError, PublicKey
from monitor.audit.tiles import TileError, Tiles
from probes.files import read_plain

WAIT_S = 5.0
MAX_ANSWER = 64 << 10


@dataclass(slots=True)
class Seat:
    """A witness, as the log knows it. `size`: what it cosigned last; `trouble`: why it did not cosign this time."""

    url: str
    key: PublicKey
    size: int = 0
    trouble: str = ""


class Witnesses:
    """Asks them in turn, in a thread that may wait. `quorum`: so many signatures make a checkpoint a witnessed one."""

    def __init__(self, folder: Path, seats: Sequence[tuple[str, str]], quorum: int | None = None, disk: Disk | None = None) -> None:
        """seats: the URL and the vkey of each. Raises NoteError."""
        self._folder, self._disk = folder, disk or Disk()
        self.seats = [Seat(url.rstrip("/"), PublicKey.parse(vkey)) for url, vkey in seats]
        for seat in self.seats:
            if seat.key.kind != note.COSIGNATURE:
                raise NoteError(f"witness {seat.url}: {seat.key.name} is no cosigner's key (type 4)")
        self.quorum = len(self.seats) if quorum is None else quorum
        self.conflict = ""
        """What a witness holds that this log does not go on from: it was rolled back, or forked. It stands until the process ends."""

    def cosign(self) -> bool:
        """Whether the newest checkpoint has its quorum now. Raises OSError when it can't be kept."""
        signed = read_plain(self._folder / "checkpoint", note.MAX_NOTE)
        checkpoint = Checkpoint.unverified(signed)
        found = [line for seat in self.seats if (line := self._ask(seat, signed, checkpoint))]
        if len(found) < self.quorum:
            return False
        self._disk.put({self._folder / "witnessed": signed + "".join(found).encode()})
        return True

    @property
    def trouble(self) -> str:
        return self.conflict or "; ".join(f"{seat.url}: {seat.trouble}" for seat in self.seats if seat.trouble)

    def _ask(self, seat: Seat, signed: bytes, checkpoint: Checkpoint) -> str:
        """A signature line, or nothing and `trouble`. A witness that knows another size than we thought says so, once."""
        seat.trouble = ""
        try:
            for _ in range(2):
                answer = self._post(seat, signed, checkpoint)
                if answer.status_code == 200:
                    line = self._signature(seat, answer.text, checkpoint)
                    seat.size = checkpoint.size
                    return line
                known = answer.text.strip()
                if answer.status_code != 409 or not known.isdigit() or len(known) > 19:
                    break
                if int(known) > checkpoint.size or int(known) == seat.size:
                    self.conflict = (
                        f"{seat.key.name} has cosigned {known} records of {checkpoint.origin}, from which these {checkpoint.size} do not go on: "
                        "the ledger was rolled back or forked"
                    )
                    break
                seat.size = int(known)
            if answer.status_code == 422:
                self.conflict = f"{seat.key.name}: this ledger is no continuation of what it cosigned: it was rolled back or forked"
            seat.trouble = f"answered {answer.status_code}: {answer.text[:200].strip()}"
        except (httpx.HTTPError, NoteError, TileError, ValueError) as error:
            seat.trouble = f"{type(error).__name__}: {error}"
        return ""

    def _post(self, seat: Seat, signed: bytes, checkpoint: Checkpoint) -> httpx.Response:
        path = merkle.consistency(seat.size, checkpoint.size, Tiles(self._folder, checkpoint.size).at)
        proof = "".join(f"{base64.b64encode(digest).decode()}\n" for digest in path)
        body = f"old {seat.size}\n{proof}\n".encode() + signed
        with (
            httpx.Client(timeout=WAIT_S, trust_env=False) as client,
            client.stream("POST", f"{seat.url}/add-checkpoint", content=body) as answer,
        ):
            said = b""
            for some in answer.iter_bytes():
                said += some
                if len(said) > MAX_ANSWER:
                    raise ValueError(f"an answer of more than {MAX_ANSWER} bytes")
            return httpx.Response(answer.status_code, content=said)

    def _signature(self, seat: Seat, said: str, checkpoint: Checkpoint) -> str:
        """Its line, verified. Raises NoteError."""
        note.opened(f"{checkpoint.text}\n{said}".encode(), [seat.key])
        _, signatures = note.parse(f"{checkpoint.text}\n{said}".encode())
        return next(each.line for each in signatures if (each.name, each.id) == (seat.key.name, seat.key.id))

"""Legal holds: while one stands, nothing is taken out of the ledger or of what lies beside it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from monitor.audit.disk import Disk
from monitor.errors import BarographError
from probes.files import read_plain

MAX_FILE = 1 << 20
MOST = 1000
MAX_NAME = 128


class HoldError(BarographError):
    """A hold that can't be put or taken back; nothing is changed."""


class Hold(msgspec.Struct, frozen=True):
    """Who holds, why, and since when (seconds since 1970)."""

    by: str
    reason: str
    at: float


class Holds:
    """Kept in the file `<ledger>.holds`. One that can't be read may have held anything, so it counts as a hold."""

    def __init__(self, ledger: Path) -> None:
        self.file = ledger.with_name(ledger.name + ".holds")
        self._freeze = ledger.with_name(ledger.name + ".freeze")  # of an incident: it blocks changes of rules too

    def standing(self) -> dict[str, Hold]:
        """By name. Raises HoldError for a file that can't be read."""
        if not os.path.lexists(self.file):
            return {}
        try:
            return msgspec.json.decode(read_plain(self.file, MAX_FILE), type=dict[str, Hold])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HoldError(
                f"{self.file} cannot be read ({error}), and may name a hold; mend it, or remove it if you answer for that"
            ) from None

    def obstacle(self) -> str:
        """Why nothing may be taken out; empty when it may."""
        try:
            held = self.standing()
        except HoldError as error:
            return str(error)
        if held:
            name, hold = next(iter(held.items()))
            more = f", and {len(held) - 1} more" if len(held) > 1 else ""
            return f"the hold '{name}' of {hold.by} stands: {hold.reason}{more}"
        return "an incident is frozen; thaw it first" if os.path.lexists(self._freeze) else ""

    def put(self, name: str, by: str, reason: str) -> None:
        held = self.standing()
        if not name.strip() or len(name) > MAX_NAME:
            raise HoldError(f"a hold needs a name of at most {MAX_NAME} characters, such as case-2026-17")
        if name in held:
            raise HoldError(f"the hold '{name}' stands already: by {held[name].by}: {held[name].reason}")
        if len(held) >= MOST:
            raise HoldError(f"{MOST} holds stand, the most that are kept")
        self._write({**held, name: Hold(by, reason, time.time())})

    def take_back(self, name: str) -> Hold:
        held = self.standing()
        if name not in held:
            raise HoldError(f"no hold '{name}' stands; there are: {', '.join(held) or 'none'}")
        self._write({each: hold for each, hold in held.items() if each != name})
        return held[name]

    def freeze(self, by: str, reason: str) -> None:
        """Block changes of rules, and all that a hold blocks, until somebody thaws. A freeze that stands stays as it is."""
        if not os.path.lexists(self._freeze):
            try:
                Disk().put({self._freeze: f"{by}: {reason}".encode()})
            except OSError as error:
                raise HoldError(f"cannot freeze: {self._freeze}: {error.strerror}; expected a folder that can be written") from None

    def _write(self, held: dict[str, Hold]) -> None:
        said = msgspec.json.encode(held)
        if len(said) > MAX_FILE:
            raise HoldError(f"the holds are longer than {MAX_FILE} bytes together; give shorter reasons, or take some back")
        try:
            Disk().put({self.file: said})
        except OSError as error:
            raise HoldError(f"{self.file}: {error.strerror}; expected a folder that can be written") from None

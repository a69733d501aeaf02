"""What people do to the ledger itself: hold it, purge it, erase content, look into it. Every act has a person and a reason, and is a record."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import msgspec

from monitor.audit import retention, vault
from monitor.audit.holds import Holds
from monitor.audit.ledger import Ledger
from monitor.audit.reader import Reader, ReadError
from monitor.audit.retention import DAY_S, Retention
from monitor.audit.tiles import TileError
from monitor.audit.vault import Vault
from monitor.errors import BarographError

MAX_REASON = 500
MAX_SAID = 4096  # characters of anything that a person says
NAMED = 1000  # names of erased content in one record
ART_73_DAYS = {"widespread or critical infrastructure": 2, "death": 10, "any other": 15}
NOTES = frozenset({"queried", "reported", "viewed"})  # somebody looked; nothing was changed
ADMINS = frozenset({"release", "purge", "erase"})  # acts that take something away


NOTHING: Mapping[str, Any] = {}


class CustodyError(BarographError):
    """An act that is refused; nothing is changed but what the message says."""


class Custody:
    """Acts on one ledger that this process writes. `archive`: whether only what a record says that an archive has may be purged."""

    def __init__(self, ledger: Ledger, kept: Retention, archive: bool = False) -> None:
        self.ledger = ledger
        self.holds = Holds(ledger.path)
        self._kept = kept
        self._archive = archive
        self._turn = threading.Lock()  # acts come from several threads, and each reads before it writes
        self._acts: dict[str, Callable[[Mapping[str, Any], str, str], dict[str, Any]]] = {
            "hold": self._hold, "release": self._release, "purge": self._purge, "erase": self._erase, "incident": self._incident,
            "note": self._note,
        }  # fmt: skip

    def act(self, name: str, by: str, reason: str, about: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
        """Do it, in a thread that may wait for the disk. Raises CustodyError and other BarographErrors when it is refused."""
        if not isinstance(name, str) or name not in self._acts:
            raise CustodyError(f"'{str(name)[:64]}' is no act; expected one of {', '.join(self._acts)}")
        if not isinstance(reason, str) or not any(letter.isalnum() for letter in reason) or len(reason) > MAX_REASON:
            raise CustodyError(f"'{name}' needs a reason of at most {MAX_REASON} characters that a reader of the ledger understands")
        try:
            with self._turn:
                done = self._acts[name](about, by, reason.strip())
        except (OSError, TileError, ReadError, msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise CustodyError(f"{name}: {error}") from None
        return {"done": name, **done, "recorded": self.ledger.flush()}

    def tidy(self) -> None:
        """Once a day: purge what the retention lets go. An obstacle is no fault."""
        content = self._kept.content_days is not None and vault.beside(self.ledger.path).is_dir()
        if (content or self._kept.days is not None) and not self.holds.obstacle():
            self.act("purge", "retention", "older than the configured retention")

    def _record(self, event: str, by: str, reason: str, **more: Any) -> int:
        return self.ledger.append("custody", event=event, by=by, reason=reason, **more)

    def _hold(self, about: Mapping[str, Any], by: str, reason: str) -> dict[str, Any]:
        name = _said(about, "name")
        self.holds.put(name, by, reason)
        self._record("held", by, reason, name=name)
        return {"holds": list(self.holds.standing())}

    def _release(self, about: Mapping[str, Any], by: str, reason: str) -> dict[str, Any]:
        name = _said(about, "name")
        if name not in self.holds.standing() and name in self._past()[0]:
            self._record("released", by, reason, name=name)  # one that the file of holds has lost
        else:
            was = self.holds.take_back(name)
            self._record("released", by, reason, name=name, held_by=was.by, since=was.at)
        return {"holds": list(self.holds.standing())}

    def _purge(self, about: Mapping[str, Any], by: str, reason: str) -> dict[str, Any]:
        """The record of it is sealed before anything goes."""
        purged, copied = self._unheld("purge")
        if self._kept.objection:
            raise CustodyError(f"purge: {self._kept.objection}")
        done: dict[str, Any] = {"records": 0, "content": 0}
        if self._kept.content_days is not None and (home := vault.beside(self.ledger.path)).is_dir():
            gone, trouble = Vault(home).expire(time.time() - self._kept.content_days * DAY_S)
            done["content"] = len(gone)
            for first in range(0, len(gone), NAMED):
                self._record("expired", by, reason, content=gone[first : first + NAMED], days=self._kept.content_days)
            if trouble:
                self._record("trouble", by, f"content that is over could not all be destroyed: {trouble}"[:MAX_REASON])
        if self._kept.days is None:
            return done
        self.ledger.seal()
        folder, until = self.ledger.path, time.time() - self._kept.days * DAY_S
        first, before = retention.old(folder, until, copied if self._archive else None)
        if first > purged:
            raise CustodyError(
                f"purge: records {purged} to {first - 1} are missing, and no record says that they were purged; nothing is removed from a ledger that was changed"
            )
        if before > first:
            self._record("purged", by, reason, first=first, before=before, until=until, days=self._kept.days, basis=self._kept.basis)
            self.ledger.seal()
            retention.remove(folder, first, before, self.ledger.disk)
        return {**done, "records": before - first}

    def _erase(self, about: Mapping[str, Any], by: str, reason: str) -> dict[str, Any]:
        """The intent is durable first; afterwards a record names what there was, and says nothing of whose it was."""
        self._unheld("erase")
        subject = _said(about, "subject")
        if not (home := vault.beside(self.ledger.path)).is_dir():
            raise CustodyError(f"there is no content: {home} does not exist")
        kept = Vault(home)
        self._record("erasing", by, reason)
        if not self.ledger.flush():
            raise CustodyError(f"nothing was erased: the ledger takes no record ({self.ledger.failed})")
        names: list[str] = []
        try:
            kept.erase(subject, names)
        finally:
            self._name_erased(names, by, reason)
        return {"content": len(names)}

    def _name_erased(self, names: list[str], by: str, reason: str) -> None:
        for first in range(0, max(1, len(names)), NAMED):
            self._record("erased", by, reason, content=names[first : first + NAMED])

    def _incident(self, about: Mapping[str, Any], by: str, reason: str) -> dict[str, Any]:
        """Somebody became aware of one: the clocks of Art. 73 run, and nothing about its cause is to change."""
        verdict, aware = about.get("verdict"), about.get("aware_at")
        freeze = about.get("freeze", True)
        if not _is_number(verdict, self.ledger.newest) or not _is_number(aware, time.time()) or not isinstance(verdict, int):
            raise CustodyError("an incident has the number of a verdict, and aware_at, a time in the past in seconds since 1970")
        if not isinstance(freeze, bool):
            raise CustodyError("freeze is true or false")
        if freeze:
            self.holds.freeze(by, f"incident at record {verdict}: {reason}")
        number = self.ledger.append(
            "incident", event="opened", by=by, reason=reason, verdict=verdict, aware_at=aware, frozen=freeze, report_by=deadlines(aware)
        )  # fmt: skip
        return {"incident": number, "report_by": deadlines(aware)}

    def _note(self, about: Mapping[str, Any], by: str, reason: str) -> dict[str, Any]:
        event = _said(about, "event")
        if event not in NOTES:
            raise CustodyError(f"'{event[:64]}' is no note; expected one of {', '.join(sorted(NOTES))}")
        self._record(event, by, reason, said=_said(about, "said"))
        return {}

    def _unheld(self, act: str) -> tuple[int, int]:
        """Up to where was purged, and archived. Raises CustodyError where a hold stands."""
        standing, purged, copied = self._past()
        if obstacle := self.holds.obstacle() or next(iter(standing.values()), ""):
            raise CustodyError(f"{act} is refused: {obstacle}")
        return purged, copied

    def _past(self) -> tuple[dict[str, str], int, int]:
        """What the ledger itself says: the holds that stand, whatever has become of their file; up to where was purged, and up to where an archive has it.

        The record of the last purge is always there: only the next one may remove it, and leaves its own.
        """
        standing: dict[str, str] = {}
        purged = copied = 0
        self.ledger.flush()
        reader = Reader(self.ledger.path)
        try:
            while some := reader.take():
                for entry in some:
                    if b'"kind":"custody"' not in entry:
                        continue
                    record = msgspec.json.decode(entry)
                    if record["event"] == "held":
                        standing[record["name"]] = (
                            f"the hold '{record['name']}' of {record['by']} stands by record {record['seq']}: {record['reason']}"
                        )
                    elif record["event"] == "released":
                        standing.pop(record["name"], None)
                    elif record["event"] == "purged":
                        purged = record["before"]
                    elif record["event"] == "archived":
                        copied = record["before"]
        finally:
            reader.close()
        return standing, purged, copied


def deadlines(aware: float) -> dict[str, float]:
    """When the report of a serious incident is due at the latest, in seconds since 1970 (Art. 73(2) to (4) of Regulation (EU) 2024/1689)."""
    return {name: aware + days * DAY_S for name, days in ART_73_DAYS.items()}


def _is_number(value: Any, most: float) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _said(about: Mapping[str, Any], name: str) -> str:
    value = about.get(name)
    if not isinstance(value, str) or not value or len(value) > MAX_SAID:
        raise CustodyError(f"expected {name}, a text of at most {MAX_SAID} characters")
    return value

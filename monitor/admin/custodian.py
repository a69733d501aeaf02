"""The ledger in people's hands: opened as the configuration says, acted on over the admin address, copied and tidied from time to time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor.admin.access import Role
from monitor.audit import keys
from monitor.audit.archive import Archive, archived, news
from monitor.audit.custody import ADMINS, NOTES, Custody
from monitor.audit.ledger import Ledger
from monitor.audit.retention import DAY_S
from monitor.config import ArchiveConfig, Config
from monitor.errors import BarographError
from monitor.http import openai
from monitor.http.openai import OpenAIError
from monitor.sinks.prometheus import Metrics

log = logging.getLogger("barograph.ledger")

MAX_BODY = 64 << 10
LOOK_S = 1.0


def open_ledger(config: Config) -> Ledger:
    """As its only writer. Raises LockError where another process writes it, and other BarographErrors."""
    audit, path = config.audit, config.sidecar.ledger
    signer = keys.signer(audit.key or keys.beside(path), audit.origin, path, audit.sign_with, audit.vkey)
    return Ledger(path, [signer], audit.durability, audit.checkpoint_s)


def custody_of(config: Config, ledger: Ledger) -> Custody:
    return Custody(ledger, config.audit.retention.plain, archive=config.audit.archive is not None)


def custody_routes(custody: Custody, settle: Callable[[], None] = lambda: None) -> list[Route]:
    """`settle` waits for content that is on its way to the vault. Whether somebody may change anything at all is the guard's business (guard.py); which act is whose is said here."""

    async def act(request: Request) -> Response:
        person = request.state.person
        try:
            payload = await openai.read_json(request, MAX_BODY)
        except OpenAIError as error:
            return JSONResponse({"error": str(error)}, error.status)
        name, reason = payload.pop("act", ""), payload.pop("reason", "")
        note = name == "note" and isinstance(payload.get("event"), str) and payload["event"] in NOTES
        name = name if isinstance(name, str) else ""
        if not (note or person.role.commands) or (name in ADMINS and person.role is not Role.ADMIN):
            return JSONResponse(
                {"error": f"the token of {person.name} has role {person.role.value}, which may not {name[:64] or 'act'}"}, 403
            )
        try:
            if name == "erase":
                await asyncio.to_thread(settle)
            return JSONResponse(await asyncio.to_thread(custody.act, name, person.name, reason, payload))
        except BarographError as error:
            return JSONResponse({"error": str(error)}, 409)

    return [Route("/audit", act, methods=["POST"])]


async def keep(config: Config, custody: Custody, metrics: Metrics) -> None:
    """Copy what is sealed to the archive, and once a day let go what the retention lets go. What fails is said, counted, recorded once, and tried again."""
    copies = None if config.audit.archive is None else _Copies(config.audit.archive, custody, metrics)
    trouble = {"archive": "", "retention": ""}
    copied = tidied = 0.0
    told = ""
    while True:
        await asyncio.sleep(LOOK_S)
        now = time.monotonic()
        if copies is not None and (not copied or now - copied >= copies.archive.every_s):
            copied = now
            trouble["archive"] = await _tried(copies.make)
        if not tidied or now - tidied >= DAY_S:
            tidied = now
            trouble["retention"] = await _tried(custody.tidy)
        if (said := "; ".join(filter(None, trouble.values()))) != told:
            told = said
            log.log(logging.ERROR if told else logging.INFO, "archive and retention: %s", told or "well again")
            custody.ledger.append("custody", event="trouble" if told else "well", by="sidecar", reason=told or "well again")
        metrics.archive_failed.set(bool(told))


async def _tried(work: Callable[[], None]) -> str:
    """What went wrong, or nothing."""
    try:
        await asyncio.to_thread(work)
    except (BarographError, OSError) as error:
        return str(error)
    return ""


class _Copies:
    """Copies what is new to the archive, and records that it did."""

    def __init__(self, archive: ArchiveConfig, custody: Custody, metrics: Metrics) -> None:
        self.archive = archive
        self._ledger, self._metrics = custody.ledger, metrics

    def make(self) -> None:
        archive, path = self.archive, self._ledger.path
        if news(path):
            before, size = Archive(archive.place).copy(path)
            to = f"{archive.endpoint}/{archive.bucket}/{archive.prefix}".rstrip("/")
            self._ledger.append("custody", event="archived", by="sidecar", reason="audit.archive", first=before, before=size, to=to)
        self._metrics.archived.set(archived(path))

"""What was asked and answered, for requests whose level is `content`: sealed in the vault beside the ledger, which gets a commitment to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from monitor.audit import vault
from monitor.audit.ledger import Ledger
from monitor.audit.vault import Vault, VaultError

log = logging.getLogger("barograph.gateway")

MAX_REPLY = 1 << 20  # bytes of a reply that are kept
MAX_WAITING = 64 << 20  # bytes that wait for the disk; what comes then is not kept, and a record says so
SETTLE_S = 30.0
SUBJECTS = ("safety_identifier", "user")  # where OpenAI's parameters name a person


class Content:
    """Of one request. What the client gets is noted as it leaves."""

    def __init__(self, contents: Contents, request: str, subject: str, asked: bytes) -> None:
        self._contents = contents
        self._about = request, subject
        self._asked = asked
        self._reply = bytearray()
        self._cut = False

    def add(self, part: bytes) -> None:
        self._cut = self._cut or len(self._reply) + len(part) > MAX_REPLY
        self._reply += part[: MAX_REPLY - len(self._reply)]

    def end(self) -> None:
        self._contents.keep(*self._about, self._asked, bytes(self._reply), self._cut)


def subject_of(tenant: str, name: str) -> str:
    """Two tenants' subjects of one name are two."""
    return f"{tenant}\0{name}"


class Contents:
    """Seals beside the event loop, in turn."""

    def __init__(self, ledger: Ledger, header: str | None) -> None:
        """`header`: the one that names the subject: whose content it is. Raises VaultError."""
        self._ledger = ledger
        self._header = header
        self._vault = Vault(vault.beside(ledger.path))
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vault")

    def of(self, request: str, tenant: str, headers: Mapping[str, str], payload: Mapping[str, Any], body: bytes) -> Content:
        """The subject is what the header says, else what the parameters name, else the request alone."""
        named = [headers.get(self._header, "")] if self._header else []
        named += [value for name in SUBJECTS if isinstance(value := payload.get(name), str)]
        return Content(self, request, subject_of(tenant, next(filter(None, named), request)), body)

    def keep(self, request: str, subject: str, asked: bytes, reply: bytes, cut: bool) -> None:
        size = len(asked) + len(reply)
        if self._waiting + size > MAX_WAITING:
            self._ledger.append("content", event="dropped", request=request, bytes=size, why="the disk is slower than what comes")
            return
        self._waiting += size
        self._thread.submit(self._seal, request, subject, asked, reply, cut)

    def settle(self) -> None:
        """Wait, in a thread that may, until what has come so far is sealed: an erasure is to find it."""
        self._thread.submit(lambda: None).result(SETTLE_S)

    def close(self) -> None:
        self._thread.shutdown()

    def _seal(self, request: str, subject: str, asked: bytes, reply: bytes, cut: bool) -> None:
        try:
            said = {"request": asked.decode("utf-8", "replace"), "reply": reply.decode("utf-8", "replace")}
            sealed = self._vault.put(subject, json.dumps(said).encode())
            self._ledger.append(
                "content", event="kept", request=request, content=sealed.id, commitment=sealed.commitment, bytes=sealed.bytes, cut=cut
            )
        except (OSError, VaultError) as error:
            log.error("content is not kept: %s", error)
            self._ledger.append("content", event="dropped", request=request, bytes=len(asked) + len(reply), why=str(error)[:300])
        finally:
            self._waiting -= len(asked) + len(reply)

"""Who holds which token, and what that lets them do. The file has hashes only, and is read anew when it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from monitor.config import read_text
from monitor.errors import BarographError
from monitor.pipeline.rulefiles import State, state
from rules.document import DocumentError, parse

log = logging.getLogger("barograph.access")

TOKEN = "BAROGRAPH_ADMIN_TOKEN"  # one admin's, for a sidecar without a file
LOOK_S = 1.0


class Role(Enum):
    """viewer: reads. auditor: reads, and the ledger's evidence. operator: reads and commands. admin: all, rules files and thaws too."""

    VIEWER = "viewer"
    AUDITOR = "auditor"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def commands(self) -> bool:
        return self in (Role.OPERATOR, Role.ADMIN)


class Token(BaseModel):
    """`sha256`: of the token, in hexadecimal. A token is 32 random bytes or more, so a plain hash is enough."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    role: Literal["viewer", "auditor", "operator", "admin"]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    until: AwareDatetime | None = None


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[Token, ...] = Field(max_length=1000)

    @field_validator("tokens")
    @classmethod
    def _differ(cls, tokens: tuple[Token, ...]) -> tuple[Token, ...]:
        if len({token.sha256 for token in tokens}) < len(tokens):
            raise ValueError("one hash stands twice; expected a token of its own for each name and role")
        return tokens


class Person(BaseModel):
    """Whoever a token belongs to."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: Role


class Access:
    """Tokens of a file, and the one of the environment."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises DocumentError or ConfigError for a file that cannot be read; a later bad one leaves the tokens before it in force."""
        self._path = path
        self._seen: State = (0, 0, 0)
        self._looked = 0.0
        self._tokens: tuple[Token, ...] = ()
        self.failed = ""
        if path is not None:
            self._seen, self._tokens = state(path), self._read(path)

    @property
    def any(self) -> bool:
        return bool(self._tokens or os.environ.get(TOKEN))

    def who(self, authorization: str) -> Person | None:
        """Whose bearer token a header carries. Every known one is compared, whichever it is."""
        self._look()
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            return None
        secret = given.strip().encode("latin-1", "replace")
        hashed, found = hashlib.sha256(secret).hexdigest(), None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, hashed) and (token.until is None or token.until > datetime.now(token.until.tzinfo)):
                found = Person(name=token.name, role=Role(token.role))
        if (single := os.environ.get(TOKEN)) and hmac.compare_digest(secret, os.fsencode(single)):
            found = found or Person(name="admin", role=Role.ADMIN)
        return found

    def _read(self, path: Path) -> tuple[Token, ...]:
        return parse(read_text(path), _File, str(path)).tokens

    def _look(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._looked < LOOK_S:
            return
        self._looked = now
        if (seen := state(self._path)) == self._seen:
            return
        self._seen = seen
        try:
            self._tokens, self.failed = self._read(self._path), ""
            log.info("tokens read anew from %s: %d", self._path, len(self._tokens))
        except (BarographError, DocumentError) as error:
            self.failed = f"tokens not read anew, those before stay in force: {error}"
            log.error("%s", self.failed)

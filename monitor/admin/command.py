"""A command: what a person or a policy engine tells the sidecar to do, with who, why and a name by which it is done once."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from monitor.errors import BarographError
from rules.schema import TenantLimit

Verb = Literal["halt", "stop", "resume", "throttle", "lift", "arm", "disarm", "release", "freeze", "thaw"]
# What each verb is about: exactly one of these is named, or nothing where there is nothing to name.
ABOUT: dict[str, tuple[str, ...]] = {
    "halt": ("stream",), "stop": ("all", "tenant", "model", "stream"), "resume": ("all", "tenant", "model"), "throttle": ("tenant",),
    "lift": ("tenant",), "arm": ("rule",), "disarm": ("rule",), "release": ("rule",), "freeze": (), "thaw": (),
}  # fmt: skip
TARGETS = ("all", "tenant", "model", "stream", "rule")


class CommandError(BarographError):
    """A command that is not carried out; nothing is changed."""


class Command(BaseModel):
    """`issued_at`, `expires_at`: seconds since 1970; over Kafka the first is a must. `release`: a rule gets back the mode of its file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
    verb: Verb
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    issuer: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    all: Literal[True] | None = None
    tenant: Annotated[str, Field(max_length=256)] | None = None
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    stream: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    rule: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    limits: TenantLimit | None = None
    issued_at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)] | None = None
    expires_at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _is_about_one_thing(self) -> Command:
        if not self.reason.strip():
            raise ValueError("a command needs a reason; expected one that a reader of the ledger understands")
        about, named = ABOUT[self.verb], [name for name in TARGETS if getattr(self, name) is not None]
        if about and (len(named) != 1 or named[0] not in about):
            raise ValueError(f"{self.verb} is about {' or '.join(about)}; got {', '.join(named) or 'nothing'}")
        if not about and named:
            raise ValueError(f"{self.verb} is about nothing in particular; got {', '.join(named)}")
        if (self.verb == "throttle") != (self.limits is not None):
            raise ValueError("limits belong to throttle, which needs them: {requests_per_minute, concurrency}")
        return self

    @classmethod
    def read(cls, payload: Any) -> Command:
        """Raises CommandError with one line."""
        try:
            return cls.model_validate(payload)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))[:100]
            message = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                message = f"unknown key; known are: {', '.join(cls.model_fields)}"
            raise CommandError(f"{where}: {message}" if where else message) from None

    @property
    def about(self) -> tuple[str, str]:
        """What it is about: a kind and a name."""
        for kind in TARGETS:
            if (name := getattr(self, kind)) is not None:
                return kind, "" if kind == "all" else name
        return "", ""

    def digest(self, issuer: str) -> str:
        """Two commands with one id must be one command."""
        said = json.dumps([issuer, self.model_dump(mode="json", exclude={"issuer"})], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

"""How the ledger is kept, how long, and who signs it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from monitor.audit.archive import Place
from monitor.audit.levels import Level, LevelRule, Levels
from monitor.audit.retention import FLOOR_DAYS, Retention
from monitor.config.base import Frozen

LevelName = Literal["none", "metadata", "scores", "content"]


class WitnessConfig(Frozen):
    """A witness of the ledger (c2sp.org/tlog-witness), run by somebody else."""

    url: str = Field(pattern=r"^https?://\S{1,500}$", description="where it is reached")
    vkey: str = Field(description="its public key")


class LevelConfig(Frozen):
    """How much is kept of some requests: of one of these tenants, models and routes; what is left out matches all."""

    level: LevelName = Field(description="how much")
    tenants: tuple[str, ...] = Field((), description="of these tenants")
    models: tuple[str, ...] = Field((), description="for these models")
    routes: tuple[str, ...] = Field((), description="on these paths")


class RetentionConfig(Frozen):
    """How long things are kept. Once a day what is older goes, unless a hold or a freeze stands."""

    days: float | None = Field(None, gt=0, description="records; without it they are kept for good")
    content_days: float | None = Field(30, gt=0, description="content")
    basis: str = Field("", max_length=500, description="the law that lets records go before six months; the ledger keeps it")

    @model_validator(mode="after")
    def _keeps_six_months(self) -> RetentionConfig:
        if objection := self.plain.objection:
            raise ValueError(objection)
        return self

    @property
    def plain(self) -> Retention:
        return Retention(self.days, self.content_days, self.basis)


class ArchiveConfig(Frozen):
    """Where the sealed ledger is copied to: S3-compatible storage. Credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else the machine's role."""

    endpoint: str = Field(pattern=r"^https?://[^\s/]{1,250}$", description="the storage, such as https://s3.example")
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="there")
    prefix: str = Field("", max_length=500, pattern=r"^[A-Za-z0-9._/-]*$", description="before each object's name")
    lock: Literal["compliance", "governance", "none"] = Field("governance", description="the object lock that each object gets")
    days: float = Field(FLOOR_DAYS, gt=0, description="how long it is locked")
    every_s: float = Field(3600, ge=1, le=86_400, description="how often the sidecar copies what is new")

    @property
    def place(self) -> Place:
        return Place(self.endpoint, self.bucket, self.prefix, self.lock, self.days)


class AuditConfig(Frozen):
    """How the ledger is kept, and who signs it."""

    origin: str | None = Field(
        None, pattern=r"^[^\s+]{1,200}$", description="the log's name, in a key that is made; by default HOST/barograph"
    )
    key: Path | None = Field(None, description="the file of the private key; by default LEDGER.key, made with a new ledger")
    sign_with: tuple[str, ...] = Field((), description="a program that signs instead: it reads a message and writes 64 bytes")
    vkey: str | None = Field(None, description="the public key of what sign_with signs with")
    durability: Literal["sync", "group", "async"] = Field(
        "group",
        description="sync: no token leaves before what led to it is durable. group: nothing is acted on before. async: nobody waits",
    )
    checkpoint_s: float = Field(10, gt=0, le=3600, description="how long a record may wait for a signed checkpoint that covers it")
    checkpoints: Path | None = Field(
        None, description="a file to which each new checkpoint is appended: on another disk, or one that only grows"
    )
    witnesses: tuple[WitnessConfig, ...] = Field((), max_length=16, description="who cosigns checkpoints")
    quorum: int | None = Field(None, ge=0, description="so many of them make a checkpoint a witnessed one; by default all")
    level: LevelName = Field("metadata", description="how much is kept of a request: none, metadata, scores (every token's), content")
    policy: tuple[LevelConfig, ...] = Field((), max_length=100, description="levels of some requests; the first that matches counts")
    subject_header: str | None = Field(None, description="the header that says whose content it is, for `audit erase`")
    retention: RetentionConfig = Field(RetentionConfig(), description="how long things are kept")
    archive: ArchiveConfig | None = Field(None, description="where sealed records are copied to; only what is there is purged then")
    heartbeat_s: float = Field(60, ge=1, le=3600, description="when nothing happens, so often a record says so")

    @property
    def levels(self) -> Levels:
        rules = (LevelRule(Level[rule.level.upper()], rule.tenants, rule.models, rule.routes) for rule in self.policy)
        return Levels(Level[self.level.upper()], tuple(rules))

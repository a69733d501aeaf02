"""The configuration: one YAML file, frozen, unknown keys refused. Secrets come from the environment only."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, model_validator

from monitor import models
from monitor.audit.manifest import Trust, note_of
from monitor.audit.note import NoteError, PublicKey
from monitor.config.audit import AuditConfig
from monitor.config.base import BANKS, PACKS, Frozen, read_text, runtime_dir
from monitor.config.engine import EngineConfig, TapConfig
from monitor.config.gateway import GatewayConfig
from monitor.config.sidecar import SidecarConfig
from monitor.errors import ConfigError
from probes import bank
from rules import document


class TrustConfig(Frozen):
    """Who may make banks and rules. What is installed with the program needs no signature."""

    keys: tuple[str, ...] = Field(
        (), max_length=32, description="public keys (vkeys) whose signatures count, as `barograph trust key` prints them"
    )
    require_signed: bool = Field(False, description="refuse a bank or rules that none of keys has signed; also --require-signed")

    @model_validator(mode="after")
    def _fits_together(self) -> TrustConfig:
        try:
            found = self.plain
        except NoteError as error:
            raise ValueError(str(error)) from None
        if self.require_signed and not found.keys:
            raise ValueError("require_signed without keys; expected the public keys of those who may sign")
        return self

    @property
    def plain(self) -> Trust:
        return Trust(tuple(PublicKey.parse(key) for key in self.keys), self.require_signed, (BANKS, PACKS))


class Config(Frozen):
    """The whole file."""

    socket: Path = Field(
        default_factory=lambda: runtime_dir() / "tap.sock",
        description="where taps send scores; by default tap.sock in $XDG_RUNTIME_DIR/barograph, else in /tmp/barograph-UID",
    )
    rules: Path = Field(PACKS / "default.yaml", description="a rule file, or a shipped pack by name")
    engine: EngineConfig = Field(default_factory=EngineConfig)
    tap: TapConfig = TapConfig()
    gateway: GatewayConfig = Field(default_factory=GatewayConfig)
    sidecar: SidecarConfig = SidecarConfig()
    audit: AuditConfig = Field(default_factory=AuditConfig)
    trust: TrustConfig = TrustConfig()

    @classmethod
    def load(cls, path: Path | None) -> Config:
        """Read a file; without one, the defaults. Raises ConfigError with file, line and the nearest known key."""
        if path is None:
            return cls()
        return document.parse(read_text(path), cls, str(path))

    def load_bank(self) -> bank.Bank:
        """The bank with the probes that are live. Raises BankError, ConfigError, or TrustError for one that nobody vouches for who should."""
        return self.vouched_bank()[0]

    def vouched_bank(self) -> tuple[bank.Bank, str]:
        """The same, and the name of the key that signed it; empty where none had to."""
        folder, trust = Path(os.path.realpath(self.bank_folder())), self.trust.plain
        found = bank.Bank.load(folder)
        signer = "" if trust.owns(folder) else trust.check(note_of(folder), found.files)
        return found.select(self.tap.probes), signer

    def model_name(self) -> str:
        return models.served_name(self.engine.model)

    def bank_folder(self) -> Path:
        if self.tap.bank is not None:
            return self.tap.bank
        shipped = BANKS / models.served_name(self.engine.model).lower()
        if not shipped.is_dir():
            known = ", ".join(sorted(folder.name for folder in BANKS.iterdir() if folder.is_dir()))
            raise ConfigError(
                f"no bank is shipped for model '{self.engine.model}' (there are: {known}); "
                f"fit one with: barograph probes fit --model {self.engine.model} --out DIR, and name it as tap.bank or --bank DIR"
            )
        return shipped

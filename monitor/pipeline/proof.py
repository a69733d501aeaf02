"""The engine's part of a bank's passport: on what else than it was calibrated on its scores were shown to be the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from monitor.config import MAX_TEXT, read_file
from monitor.errors import ConfigError
from probes.passport import Passport

FORMAT = 1


class Finding(BaseModel):
    """One check and what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    ok: bool
    text: str


class Proof(BaseModel):
    """What `barograph verify-tap` found on one machine. Named as `tap.verified`, it keeps thresholds from going stale there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    bank: str
    passport: Passport
    engine: str
    machine: str
    time: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return bool(self.findings) and all(finding.ok for finding in self.findings)

    def covers(self, bank: str, running: Passport) -> bool:
        """Whether it holds for a tap with that bank on exactly that."""
        return self.ok and self.bank == bank and self.passport == running

    def save(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> tuple[Proof, str]:
        """The proof and its file's sha256. Raises ConfigError."""
        try:
            raw = read_file(path, MAX_TEXT)
            proof = cls.model_validate_json(raw)
        except ConfigError as error:
            raise ConfigError(f"{error}; expected what barograph verify-tap wrote") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise ConfigError(f"{path}: {where}: {first['msg']}; expected what barograph verify-tap wrote") from None
        if proof.format != FORMAT:
            raise ConfigError(f"{path}: format {proof.format}; this version reads format {FORMAT}")
        if not proof.ok:
            failed = next((finding.what for finding in proof.findings if not finding.ok), "no findings")
            raise ConfigError(f"{path}: the tap did not pass '{failed}' there; expected a file in which every check passed")
        return proof, hashlib.sha256(raw).hexdigest()

"""Where verdicts, scores and spans are sent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from monitor.config.base import Frozen

Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]


class CommandsConfig(Frozen):
    """Commands over Kafka. Each message is signed by its issuer; whoever is not named here commands nothing."""

    topic: Topic = Field("barograph.commands", description="where they are read")
    outcomes_topic: Topic = Field("barograph.outcomes", description="where what came of each is said")
    issuers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")], Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]] = Field(
        min_length=1, max_length=100, description="policy engines by name, each with its Ed25519 public key: 32 bytes in base64"
    )
    max_age_s: float = Field(60.0, gt=0, le=3600, description="a command that was issued longer ago is refused")


class ScoresConfig(Frozen):
    """Every judged token's scores, as they come: best effort. What a broker is too slow for is dropped and counted."""

    topic: Topic = Field("barograph.scores", description="where they go")
    every_s: float = Field(1.0, ge=0.05, le=60, description="a message for each stream so often")
    form: Literal["arrays", "tokens"] = Field(
        "arrays", description="arrays: a message holds all tokens since the last; tokens: a message each"
    )
    waiting: int = Field(
        20_000, ge=100, le=1_000_000, description="messages that may wait for the broker's answer; what comes then is dropped"
    )


class KafkaConfig(Frozen):
    """Verdicts to Kafka. The password is read from BAROGRAPH_KAFKA_PASSWORD, that of the key file from BAROGRAPH_KAFKA_KEY_PASSWORD."""

    MOVED: ClassVar = {
        "scores_topic": "expected audit_topic for every record of the ledger, or scores: {topic: …} for every token's scores"
    }

    bootstrap: str = Field(min_length=1, description="HOST:PORT of brokers, with commas between them")
    topic: Topic = Field("barograph.verdicts", description="verdicts, failures, pushes, re-routes and throttled tenants")
    audit_topic: Topic | None = Field(None, description="every record of the ledger, such as barograph.audit")
    scores: ScoresConfig | None = Field(None, description="the scores of every token; without it none are sent")
    checkpoints_topic: Topic | None = Field(None, description="where the ledger's signed checkpoints go")
    commands: CommandsConfig | None = Field(None, description="take commands from policy engines; without it none are read")
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field("PLAINTEXT", description="as Kafka's security.protocol")
    username: str | None = Field(None, description="for SASL")
    mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field("SCRAM-SHA-512", description="of SASL")
    ca_file: Path | None = Field(None, description="who may vouch for a broker, as PEM; by default whom the machine trusts")
    cert_file: Path | None = Field(None, description="our own certificate, for brokers that ask for one")
    key_file: Path | None = Field(None, description="its private key")

    @model_validator(mode="after")
    def _fits_together(self) -> KafkaConfig:
        if (self.username is not None) != self.security.startswith("SASL"):
            raise ValueError(
                f"security {self.security} {'needs a' if self.username is None else 'has no'} username; expected both of SASL or neither"
            )
        tls = [name for name in ("ca_file", "cert_file", "key_file") if getattr(self, name) is not None]
        if tls and not self.security.endswith("SSL"):
            raise ValueError(f"{', '.join(tls)} without TLS; expected security SSL or SASL_SSL, got {self.security}")
        return self


class OtelConfig(Frozen):
    """Spans over OTLP (HTTP), and if asked for metrics and logs. Headers for the collector are read from OTEL_EXPORTER_OTLP_HEADERS."""

    endpoint: str = Field(pattern=r"^https?://[^\s?#]{1,500}$", description="of a collector, such as http://127.0.0.1:4318")
    service: str = Field("barograph", min_length=1, max_length=200, description="service.name of what is sent")
    sample: float = Field(1.0, ge=0, le=1, description="the share of traces that begin here; one that a client began is as it says")
    timeout_s: float = Field(5.0, gt=0, le=60, description="of one sending")
    metrics: bool = Field(False, description="send what /metrics shows too")
    metrics_every_s: float = Field(30.0, ge=0.1, le=3600, description="how often")
    logs: bool = Field(False, description="send the lines of the sidecar's log too")

"""The sidecar's own listener and what it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from monitor.config.base import Address, Frozen
from monitor.config.sinks import KafkaConfig, OtelConfig
from monitor.http.near import Near
from monitor.http.tls import TlsConfig


class PageConfig(Frozen):
    """The web page on the admin address."""

    texts: int = Field(
        0, ge=0, le=1024, description="of so many replies the text is kept in memory, for the page; 0: of none, and positions are shown"
    )
    near: bool = Field(
        False,
        description="whoever reaches loopback without a token sees those texts too: for a machine with one user; else operators and auditors do",
    )


class SidecarConfig(Frozen):
    """The sidecar's own listener: metrics, health and the live view."""

    MOVED: ClassVar = {"record_scores": "expected audit: {level: scores}"}

    admin: Address = Field(("127.0.0.1", 8401), description="where operators and Prometheus reach it")
    tls: TlsConfig | None = Field(None, description="serve HTTPS there; with client_ca_file only to clients that show a certificate")
    admin_hosts: tuple[str, ...] = Field(
        (), description="further names under which the admin address is reached, as of a Kubernetes service"
    )
    admin_open: bool = Field(False, description="changes on the admin address need no token: for a machine with one user and no browser")
    access: Path | None = Field(None, description="a YAML file of bearer tokens: name, role and sha256 of each; read anew when it changes")
    ledger: Path = Field(Path("barograph-ledger"), description="the folder of the audit ledger")
    kafka: KafkaConfig | None = Field(None, description="verdicts, scores and audit to Kafka")
    otel: OtelConfig | None = Field(None, description="a span for each generation")
    on_stale_thresholds: Literal["shadow", "armed"] = Field(
        "shadow", description="what becomes of rules where an engine is not the one that the bank was calibrated on"
    )
    self_check: Literal["required", "off"] = Field(
        "required", description="whether a tap must prove itself on the running engine before its scores count"
    )
    canary_every_s: float | None = Field(None, ge=60, description="send the bank's canaries so often; by default only on demand")
    page: PageConfig = Field(PageConfig(), description="the web page there")
    drift_tokens: int = Field(5000, ge=100, description="half-life of the running score distribution that is compared with the card's")

    @property
    def near(self) -> Near:
        return Near(self.admin, self.tls)

"""What clients talk to, and what may happen to a reply there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from monitor.config.base import Address, Fail, Frozen, runtime_dir
from monitor.http.near import Near
from monitor.http.tls import TlsConfig

UPSTREAM = r"^(https?://[^\s/?#@]+|unix:/\S+)$"


class Lag(Frozen):
    """Tokens may leave before they are judged, but no more than `lag` of them."""

    lag: int = Field(ge=1, le=4096, description="how many")


class TargetConfig(Frozen):
    """Where rules may re-route replies to: an engine, or the gateway of another sidecar, which judges by its own bank."""

    upstream: str = Field(pattern=UPSTREAM, description="http://HOST:PORT or unix:/PATH")
    model: str | None = Field(None, min_length=1, max_length=200, description="the name of the model there; by default the client's")
    key_env: str | None = Field(
        None, pattern=r"^[A-Z_][A-Z0-9_]{0,63}$", description="the environment variable with its key; a client's key never goes there"
    )


class RateConfig(Frozen):
    """How fast requests may come in all, by tenant or by address. What comes faster gets 429 before its body is read."""

    requests_per_s: float = Field(gt=0, le=1e6, description="in the long run")
    burst: int = Field(20, ge=1, le=1_000_000, description="how many may come at once")
    by: Literal["all", "tenant", "address"] = Field(
        "all", description="who shares the rate; tenant: by gateway.tenant_header, which your own front end must set"
    )


class GatewayConfig(Frozen):
    """What clients talk to."""

    listen: Address = Field(("127.0.0.1", 8400), description="where clients reach it")
    tls: TlsConfig | None = Field(None, description="serve HTTPS; with client_ca_file only to clients that show a certificate")
    rate: RateConfig | None = Field(None, description="how fast requests may come; by default as they like, up to max_requests at a time")
    upstream: str = Field(
        default_factory=lambda: f"unix:{runtime_dir() / 'engine.sock'}",
        pattern=UPSTREAM,
        description="the engine: http://HOST:PORT or unix:/PATH; its key, if it wants one, is read from BAROGRAPH_UPSTREAM_KEY",
    )
    wrap: bool = Field(
        False,
        description="the upstream has no tap: the engine process reads its text with a small model, and rules judge that (grade: text)",
    )
    targets: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")], TargetConfig] = Field(
        {}, max_length=32, description="where rules may re-route replies to, by the name that rules use"
    )
    hold: Annotated[Literal["strict", "off"] | Lag, BeforeValidator(lambda value: "off" if value is False else value)] = Field(
        "strict", description="strict: no token leaves unjudged; {lag: n}: at most n do; off: nothing waits, halts come when they come"
    )
    tool_calls: Literal["whole", "stream"] = Field(
        "whole", description="whole: a call leaves when all of it is judged, so a halt leaves no half call; stream: piece by piece"
    )
    judge_timeout_s: float = Field(5.0, gt=0, le=600, description="how long a chunk waits for its scores")
    on_missing_score: Fail = Field(
        "closed", description="a score that is late or lost; closed: the reply ends with an error, open: it goes on, counted and recorded"
    )
    on_nan_score: Fail = Field("closed", description="a score that is not a finite number")
    on_wrong_count: Fail = Field("closed", description="text without newly counted tokens")
    on_no_tap: Fail = Field("closed", description="no tap that proved itself when a request comes")
    on_ledger_failure: Fail = Field("closed", description="the ledger cannot be written")
    upstream_idle_s: float = Field(300.0, gt=0, le=86_400, description="an engine that sends nothing for so long has failed")
    keepalive_s: float = Field(15.0, gt=0, le=3600, description="a waiting event stream gets a comment so often")
    client_stall_s: float = Field(30.0, gt=0, le=3600, description="a client that reads nothing for so long is dropped")
    grace_s: float = Field(20.0, ge=0, le=3600, description="how long running replies may go on after SIGTERM")
    max_body_bytes: int = Field(4 << 20, ge=1024, description="of one request")
    max_reply_bytes: int = Field(64 << 20, ge=1024, description="of a reply that is held whole until it is judged")
    max_bodies_bytes: int = Field(256 << 20, ge=1024, description="of all bodies that are being read at one time")
    max_requests: int = Field(512, ge=1, description="that run at one time")
    allow_routes: tuple[str, ...] = Field((), description="further paths of the engine that are passed through, unjudged, by name")
    forward_headers: tuple[str, ...] = Field((), description="further headers of clients that the engine gets")
    return_headers: tuple[str, ...] = Field((), description="further headers of the engine that clients get")
    tenant_header: str | None = Field(None, description="the header in which your own front end names the tenant; never trust a client's")
    conversation_header: str | None = Field(None, description="the header that is the same for all requests of a conversation")
    match_headers: tuple[str, ...] = Field((), description="headers that rules may select by")
    tenants: tuple[str, ...] = Field((), max_length=50, description="tenants that are named in metrics; the others are counted as 'other'")
    expose_scores: bool = Field(True, description="send scores to clients that ask with the header X-Barograph-Scores: 1")

    @model_validator(mode="after")
    def _fits_together(self) -> GatewayConfig:
        if self.rate is not None and self.rate.by == "tenant" and self.tenant_header is None:
            raise ValueError("rate.by is tenant, and no tenant_header says who that is; expected both, or by: address")
        return self

    @property
    def near(self) -> Near:
        return Near(self.listen, self.tls)

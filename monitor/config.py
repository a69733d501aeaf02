"""The configuration: one YAML file, frozen, unknown keys refused. Secrets come from the environment only."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from monitor import models
from monitor.audit.archive import Place
from monitor.audit.levels import Level, LevelRule, Levels
from monitor.audit.manifest import Trust, note_of
from monitor.audit.note import NoteError, PublicKey
from monitor.audit.retention import FLOOR_DAYS, Retention
from monitor.errors import ConfigError
from monitor.http.near import Near
from monitor.http.tls import TlsConfig
from probes import bank
from probes.files import read_plain
from rules import document

PACKS = Path(document.__file__).parent / "packs"
BANKS = Path(bank.__file__).parent / "banks"

MAX_TEXT = 1 << 20  # bytes of a configuration or a rule file


def runtime_dir() -> Path:
    """Where sockets lie: a folder that no other user can write. Whoever makes a socket there makes it by `own_folder`."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(given) / "barograph" if given and Path(given).is_dir() else Path(tempfile.gettempdir()) / f"barograph-{os.getuid()}"


def own_folder(folder: Path) -> None:
    """Make a socket's folder with mode 0700 when it is not there; refuse our own when somebody else could write it. Raises ConfigError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat(follow_symlinks=False)
    except OSError as error:
        raise ConfigError(f"folder {folder}: {error.strerror}; expected one that can be made with mode 0700") from None
    if folder == runtime_dir() and (about.st_uid != os.getuid() or about.st_mode & 0o077 or not stat.S_ISDIR(about.st_mode)):
        raise ConfigError(
            f"folder {folder} belongs to user {about.st_uid} with mode {about.st_mode & 0o7777:o}; expected one of our own with 700"
        )


def _split(value: object) -> object:
    """`host:port` as a pair, `unix:/path` as a path."""
    if isinstance(value, str) and value.startswith("unix:/"):
        return Path(value.removeprefix("unix:"))
    if not isinstance(value, str) or ":" not in value or value.startswith("unix:"):
        raise ValueError(f"'{value}' is no address; expected HOST:PORT such as 127.0.0.1:8400")
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"'{value}' is no address; expected HOST:PORT with a port from 0 to 65535")
    return host.strip("[]"), int(port)


Address = Annotated[tuple[str, int], BeforeValidator(_split)]
EngineAddress = Annotated[tuple[str, int] | Path, BeforeValidator(_split)]
Fail = Literal["closed", "open"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineConfig(_Frozen):
    """The embedded engine."""

    listen: EngineAddress = Field(
        default_factory=lambda: runtime_dir() / "engine.sock",
        description="unix:/PATH, which nobody reaches around the gateway, or HOST:PORT",
    )
    model: str = models.BUNDLED
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_streams: int = Field(32, ge=1, le=512, description="generations at the same time")
    kv_tokens: int = Field(32_768, ge=256, description="tokens that the key-value cache holds on CPU")
    threads: int | None = Field(None, ge=1, description="torch threads; by default as many as cores")


class SteerConfig(_Frozen):
    """What rules may steer along, and how hard at most. Without it nothing is ever pushed."""

    probes: tuple[str, ...] = Field(min_length=1, max_length=16, description="probes whose card says causal: true")
    max_dose: float = Field(0.1, gt=0, le=0.2, description="a share of the residual's norm, either way")
    max_tokens: int = Field(256, ge=1, le=4096, description="of one push")


class TapConfig(_Frozen):
    """Scoring inside the engine."""

    enabled: bool = True
    mode: Literal["compiled", "traced"] = Field(
        "compiled", description="on vLLM: inside the compiled graph, or by NNsight's tracing on an eager model"
    )
    bank: Path | None = Field(None, description="a bank's folder; by default the one shipped for the model")
    probes: Literal["alarm", "all"] | tuple[str, ...] = Field(
        "alarm", description="which probes are live: 'alarm' (safety, valence, arousal), 'all' (the 171 emotions too), or names"
    )
    steer: SteerConfig | None = Field(None, description="let rules push replies along probes; off unless it is here")
    verified: Path | None = Field(None, description="what verify-tap wrote about an engine that the bank was not calibrated on")


class Lag(_Frozen):
    """Tokens may leave before they are judged, but no more than `lag` of them."""

    lag: int = Field(ge=1, le=4096)


UPSTREAM = r"^(https?://[^\s/?#@]+|unix:/\S+)$"


class TargetConfig(_Frozen):
    """Where rules may re-route replies to: an engine, or the gateway of another sidecar, which judges by its own bank."""

    upstream: str = Field(pattern=UPSTREAM, description="http://HOST:PORT or unix:/PATH")
    model: str | None = Field(None, min_length=1, max_length=200, description="the name of the model there; by default the client's")
    key_env: str | None = Field(
        None, pattern=r"^[A-Z_][A-Z0-9_]{0,63}$", description="the environment variable with its key; a client's key never goes there"
    )


class RateConfig(_Frozen):
    """How fast requests may come in all, by tenant or by address. What comes faster gets 429 before its body is read."""

    requests_per_s: float = Field(gt=0, le=1e6)
    burst: int = Field(20, ge=1, le=1_000_000, description="how many may come at once")
    by: Literal["all", "tenant", "address"] = Field(
        "all", description="who shares the rate; tenant: by gateway.tenant_header, which your own front end must set"
    )


class GatewayConfig(_Frozen):
    """What clients talk to."""

    listen: Address = ("127.0.0.1", 8400)
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
    on_missing_score: Fail = "closed"
    on_nan_score: Fail = "closed"
    on_wrong_count: Fail = "closed"
    on_no_tap: Fail = "closed"
    on_ledger_failure: Fail = "closed"
    upstream_idle_s: float = Field(300.0, gt=0, le=86_400, description="an engine that sends nothing for so long has failed")
    keepalive_s: float = Field(15.0, gt=0, le=3600, description="a waiting event stream gets a comment so often")
    client_stall_s: float = Field(30.0, gt=0, le=3600, description="a client that reads nothing for so long is dropped")
    grace_s: float = Field(20.0, ge=0, le=3600, description="how long running replies may go on after SIGTERM")
    max_body_bytes: int = Field(4 << 20, ge=1024)
    max_reply_bytes: int = Field(64 << 20, ge=1024, description="of a reply that is held whole until it is judged")
    max_bodies_bytes: int = Field(256 << 20, ge=1024, description="of all bodies that are being read at one time")
    max_requests: int = Field(512, ge=1)
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


Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]


class CommandsConfig(_Frozen):
    """Commands over Kafka. Each message is signed by its issuer; whoever is not named here commands nothing."""

    topic: Topic = "barograph.commands"
    outcomes_topic: Topic = "barograph.outcomes"
    issuers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")], Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]] = Field(
        min_length=1, max_length=100, description="policy engines by name, each with its Ed25519 public key: 32 bytes in base64"
    )
    max_age_s: float = Field(60.0, gt=0, le=3600, description="a command that was issued longer ago is refused")


class ScoresConfig(_Frozen):
    """Every judged token's scores, as they come: best effort. What a broker is too slow for is dropped and counted."""

    topic: Topic = "barograph.scores"
    every_s: float = Field(1.0, ge=0.05, le=60, description="a message for each stream so often")
    form: Literal["arrays", "tokens"] = Field(
        "arrays", description="arrays: a message holds all tokens since the last; tokens: a message each"
    )
    waiting: int = Field(
        20_000, ge=100, le=1_000_000, description="messages that may wait for the broker's answer; what comes then is dropped"
    )


class KafkaConfig(_Frozen):
    """Verdicts to Kafka. The password is read from BAROGRAPH_KAFKA_PASSWORD, that of the key file from BAROGRAPH_KAFKA_KEY_PASSWORD."""

    bootstrap: str = Field(min_length=1, description="HOST:PORT of brokers, with commas between them")
    topic: Topic = Field("barograph.verdicts", description="verdicts, failures, pushes, re-routes and throttled tenants")
    audit_topic: Topic | None = Field(None, description="every record of the ledger, such as barograph.audit")
    scores: ScoresConfig | None = Field(None, description="the scores of every token; without it none are sent")
    checkpoints_topic: Topic | None = Field(None, description="where the ledger's signed checkpoints go")
    commands: CommandsConfig | None = Field(None, description="take commands from policy engines; without it none are read")
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    username: str | None = None
    mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
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


class OtelConfig(_Frozen):
    """Spans over OTLP (HTTP), and if asked for metrics and logs. Headers for the collector are read from OTEL_EXPORTER_OTLP_HEADERS."""

    endpoint: str = Field(pattern=r"^https?://[^\s?#]{1,500}$", description="of a collector, such as http://127.0.0.1:4318")
    service: str = Field("barograph", min_length=1, max_length=200)
    sample: float = Field(1.0, ge=0, le=1, description="the share of traces that begin here; one that a client began is as it says")
    timeout_s: float = Field(5.0, gt=0, le=60)
    metrics: bool = Field(False, description="send what /metrics shows too")
    metrics_every_s: float = Field(30.0, ge=0.1, le=3600)
    logs: bool = Field(False, description="send the lines of the sidecar's log too")


class PageConfig(_Frozen):
    """The web page on the admin address."""

    texts: int = Field(
        0, ge=0, le=1024, description="of so many replies the text is kept in memory, for the page; 0: of none, and positions are shown"
    )
    near: bool = Field(
        False,
        description="whoever reaches loopback without a token sees those texts too: for a machine with one user; else operators and auditors do",
    )


class SidecarConfig(_Frozen):
    """The sidecar's own listener: metrics, health and the live view."""

    admin: Address = ("127.0.0.1", 8401)
    tls: TlsConfig | None = Field(None, description="serve HTTPS there; with client_ca_file only to clients that show a certificate")
    admin_hosts: tuple[str, ...] = Field(
        (), description="further names under which the admin address is reached, as of a Kubernetes service"
    )
    admin_open: bool = Field(False, description="changes on the admin address need no token: for a machine with one user and no browser")
    access: Path | None = Field(None, description="a YAML file of bearer tokens: name, role and sha256 of each; read anew when it changes")
    ledger: Path = Field(Path("barograph-ledger"), description="the folder of the audit ledger")
    kafka: KafkaConfig | None = None
    otel: OtelConfig | None = Field(None, description="a span for each generation")
    on_stale_thresholds: Literal["shadow", "armed"] = Field(
        "shadow", description="what becomes of rules where an engine is not the one that the bank was calibrated on"
    )
    self_check: Literal["required", "off"] = Field(
        "required", description="whether a tap must prove itself on the running engine before its scores count"
    )
    canary_every_s: float | None = Field(None, ge=60, description="send the bank's canaries so often; by default only on demand")
    page: PageConfig = PageConfig()
    drift_tokens: int = Field(5000, ge=100, description="half-life of the running score distribution that is compared with the card's")

    @property
    def near(self) -> Near:
        return Near(self.admin, self.tls)


class WitnessConfig(_Frozen):
    """A witness of the ledger (c2sp.org/tlog-witness), run by somebody else."""

    url: str = Field(pattern=r"^https?://\S{1,500}$")
    vkey: str


LevelName = Literal["none", "metadata", "scores", "content"]


class LevelConfig(_Frozen):
    """How much is kept of some requests: of one of these tenants, models and routes; what is left out matches all."""

    level: LevelName
    tenants: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


class RetentionConfig(_Frozen):
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


class ArchiveConfig(_Frozen):
    """Where the sealed ledger is copied to: S3-compatible storage. Credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else the machine's role."""

    endpoint: str = Field(pattern=r"^https?://[^\s/]{1,250}$")
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    prefix: str = Field("", max_length=500, pattern=r"^[A-Za-z0-9._/-]*$")
    lock: Literal["compliance", "governance", "none"] = Field("governance", description="the object lock that each object gets")
    days: float = Field(FLOOR_DAYS, gt=0, description="how long it is locked")
    every_s: float = Field(3600, ge=1, le=86_400, description="how often the sidecar copies what is new")

    @property
    def place(self) -> Place:
        return Place(self.endpoint, self.bucket, self.prefix, self.lock, self.days)


class AuditConfig(_Frozen):
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
    retention: RetentionConfig = RetentionConfig()
    archive: ArchiveConfig | None = Field(None, description="where sealed records are copied to; only what is there is purged then")
    heartbeat_s: float = Field(60, ge=1, le=3600, description="when nothing happens, so often a record says so")

    @property
    def levels(self) -> Levels:
        rules = (LevelRule(Level[rule.level.upper()], rule.tenants, rule.models, rule.routes) for rule in self.policy)
        return Levels(Level[self.level.upper()], tuple(rules))


class TrustConfig(_Frozen):
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


class Config(_Frozen):
    """The whole file."""

    socket: Path = Field(default_factory=lambda: runtime_dir() / "tap.sock")
    rules: Path = PACKS / "default.yaml"
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
        folder = self.bank_folder()
        found = bank.Bank.load(folder)
        signer = self.trust.plain.check(folder, note_of(folder), found.files)
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


def read_text(path: Path) -> str:
    """A text file. Raises ConfigError when it is missing, no plain file, too large, unreadable or not UTF-8."""
    try:
        return read_file(path, MAX_TEXT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; expected a YAML text") from None


def read_file(path: Path, limit: int) -> bytes:
    """A plain file of at most `limit` bytes, never one that could keep its reader waiting. Raises ConfigError."""
    try:
        return read_plain(path, limit)
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})") from None

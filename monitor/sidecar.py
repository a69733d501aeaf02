"""The sidecar process: reads the wiring top to bottom. It never loads torch."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import logging
import signal
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector

from monitor import __version__
from monitor.admin import canary
from monitor.admin.access import Access
from monitor.admin.app import admin_app
from monitor.admin.commander import Commander
from monitor.admin.custodian import custody_of, keep, open_ledger
from monitor.admin.live import shown
from monitor.admin.mailbox import Mailbox
from monitor.admin.tasks import Tasks
from monitor.audit.ledger import Ledger
from monitor.audit.levels import Level
from monitor.audit.unfinished import unfinished
from monitor.audit.witnesses import Witnesses
from monitor.config import AuditConfig, Config
from monitor.gateway.contents import Contents
from monitor.gateway.gateway import Gateway
from monitor.gateway.texts import Texts
from monitor.gateway.trial import Trial
from monitor.gateway.wrapper import Reader
from monitor.http.serving import Servers
from monitor.http.tls import Tls
from monitor.pipeline import rulefiles
from monitor.pipeline.orders import Orders
from monitor.pipeline.pipeline import Parts, Pipeline
from monitor.pipeline.proof import Proof
from monitor.pipeline.receiver import Receiver
from monitor.pipeline.rulebook import Rulebook, RuleError
from monitor.pipeline.tracks import Tracks
from monitor.sinks.kafka import KafkaPublisher
from monitor.sinks.otel import Tracing
from monitor.sinks.prometheus import Metrics
from monitor.sinks.scores import ScoreFeed
from monitor.sinks.telemetry import Telemetry
from probes.drift import Drift

log = logging.getLogger("barograph.sidecar")

AGAIN_S = 10  # until witnesses that did not cosign are asked again


async def run(config: Config) -> None:
    """Serve until told to stop. What starts last stops first."""
    bank, bank_signer = config.vouched_bank()
    proof, proof_sha256 = Proof.load(config.tap.verified) if config.tap.verified else (None, "")
    access = Access(config.sidecar.access)
    servers = Servers()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    drift = Drift(bank, config.sidecar.drift_tokens)
    metrics = Metrics(registry, bank.names, drift)
    ledger = open_ledger(config)
    custody = custody_of(config, ledger)
    orders = Orders(config.sidecar.ledger.with_name(config.sidecar.ledger.name + ".orders"))
    rulebook = Rulebook(config.rules, rulefiles.facts(bank), ledger, rulefiles.abilities(config), orders, config.trust.plain)
    kafka = KafkaPublisher(config.sidecar.kafka, ledger, metrics) if config.sidecar.kafka else None
    feed = None
    if config.sidecar.kafka is not None and config.sidecar.kafka.scores is not None:
        feed = ScoreFeed(config.sidecar.kafka, config.sidecar.kafka.scores, bank.names, ledger.checkpoint.origin, metrics)
    tracks = Tracks(bank.names, config.gateway.tenants, shown)
    pipeline = Pipeline(Parts(
        bank, rulebook.engine, ledger, metrics, drift, config.sidecar, frozenset(config.gateway.tenants), proof, config.audit.levels,
        kafka.notify if kafka else lambda: None, (tracks.frame, *((feed.follow,) if feed else ())),
    ))  # fmt: skip
    rulebook.serve(pipeline)
    tracks.serve(pipeline)
    receiver = Receiver(config.socket, pipeline)
    otel = config.sidecar.otel
    tracing = Tracing(otel, metrics) if otel is not None else None
    telemetry = Telemetry(otel, metrics, asyncio.get_running_loop()) if otel is not None and (otel.metrics or otel.logs) else None
    contents = Contents(ledger, config.audit.subject_header) if config.audit.levels.highest >= Level.CONTENT else None
    texts = Texts(config.sidecar.page.texts) if config.sidecar.page.texts else None
    gateway = Gateway(
        config.gateway, pipeline, orders, Reader(config.engine.listen) if config.gateway.wrap else None, contents, tracing, texts
    )
    tls = {name: Tls(files) for name, files in (("gateway", config.gateway.tls), ("admin", config.sidecar.tls)) if files is not None}
    contexts = {name: each.context for name, each in tls.items()}
    for name, each in tls.items():
        metrics.certificates.labels(name).set_function(functools.partial(getattr, each, "expires"))
    servers.serve(gateway, servers.bind("gateway", config.gateway.listen), gateway.drain, contexts.get("gateway"))
    tasks = Tasks(metrics)
    commander = Commander(gateway, rulebook, config.sidecar.ledger.with_name(config.sidecar.ledger.name + ".commands"))
    admin = admin_app(
        gateway,
        commander,
        registry,
        rulebook,
        receiver,
        tasks,
        access,
        config.sidecar,
        custody,
        contents.settle if contents else lambda: None,
        tracks,
        lambda: "; ".join(each.failed for each in tls.values() if each.failed),
    )
    servers.serve(admin, servers.bind("admin", config.sidecar.admin), tls=contexts.get("admin"))
    receiver.start()
    for begin in unfinished(ledger.path):  # of a sidecar that died: every generation has an end
        ledger.append("stream", event="lost", stream=begin["stream"], source=begin.get("source", ""), why="the sidecar ended while it ran")
    ledger.append(
        "sidecar",
        event="start",
        version=__version__,
        config=hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        model=config.model_name(),
        bank=bank.digest,
        bank_arrays=bank.card.arrays_sha256,
        bank_card=bank.card_sha256,
        bank_signed_by=bank_signer,
        corpus=bank.card.corpus_sha256,
        proof=proof_sha256,
        rules=rulebook.engine.digest,
        modes={rule.rule: rule.mode for rule in rulebook.engine.rules},
        failure_modes=_failure_modes(config),
    )
    if feed is not None:
        feed.start()
    mailbox = None
    if kafka is not None and config.sidecar.kafka is not None:
        kafka.start()
        if config.sidecar.kafka.commands is not None:
            mailbox = Mailbox(config.sidecar.kafka, config.sidecar.kafka.commands, commander, metrics)
            mailbox.start()
    tasks.keep("ledger", lambda: _tend(ledger, pipeline, config.audit))
    tasks.keep("archive and retention", lambda: keep(config, custody, metrics))
    if config.audit.witnesses:
        witnesses = Witnesses(ledger.path, [(each.url, each.vkey) for each in config.audit.witnesses], config.audit.quorum)
        tasks.keep("witnesses", lambda: _witness(ledger, witnesses, metrics))
    tasks.keep("rules", rulebook.watch)
    tasks.keep("taps", receiver.watch)
    for name, each in tls.items():
        tasks.keep(f"certificate of {name}", each.watch)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: tasks.once("reload", lambda: _reload(rulebook)))
    if config.sidecar.canary_every_s is not None:
        tasks.keep("canaries", lambda: canary.watch(config, bank, metrics))
    try:
        async with gateway.started():
            tasks.keep("throttles", gateway.throttles.watch)
            tasks.keep("targets", gateway.engine.targets.watch)
            tasks.keep("engine", Trial(gateway.engine, pipeline).watch)
            await servers.run()
    finally:
        tasks.close()
        if mailbox is not None:
            await asyncio.to_thread(mailbox.close)
        receiver.close()
        if contents is not None:
            await asyncio.to_thread(contents.close)
        ledger.append("sidecar", event="stop", version=__version__, bank=bank.digest, rules=rulebook.engine.digest)
        await asyncio.to_thread(ledger.close)  # first of all: whoever hangs after this costs no record
        await asyncio.gather(*(asyncio.to_thread(sink.close) for sink in (tracing, telemetry, feed, kafka) if sink is not None))


async def _reload(rulebook: Rulebook) -> None:
    with contextlib.suppress(RuleError):  # said, counted and recorded
        await rulebook.reload_beside("SIGHUP")


async def _tend(ledger: Ledger, pipeline: Pipeline, audit: AuditConfig) -> None:
    """Once a second a look at the ledger; and when nothing else was recorded for a while, a sign of life: silence is to be seen."""
    counted, newest, since, copied = 0, ledger.newest, time.monotonic(), ledger.checkpoint.size
    while True:
        await asyncio.sleep(1)
        ledger.look()
        if newest != ledger.newest:
            newest, since = ledger.newest, time.monotonic()
        elif time.monotonic() - since >= audit.heartbeat_s:
            ledger.append("heartbeat", taps=len(pipeline.sources), streams=len(pipeline.streams.by_slot), lost=ledger.failed)
        if audit.checkpoints is not None and ledger.checkpoint.size != copied:
            copied = ledger.checkpoint.size
            await asyncio.to_thread(_copy, ledger, audit.checkpoints)
        pipeline.metrics.records.inc(ledger.records - counted)
        counted = ledger.records


def _copy(ledger: Ledger, file: Path) -> None:
    """The newest checkpoint, behind those of before and an empty line. A file that takes none is said once for each."""
    try:
        with file.open("ab") as copies:
            copies.write((ledger.path / "checkpoint").read_bytes() + b"\n")
    except OSError as error:
        log.error("audit.checkpoints: %s: %s", file, error)


async def _witness(ledger: Ledger, witnesses: Witnesses, metrics: Metrics) -> None:
    """Each new checkpoint is shown to the witnesses; those that cannot be reached are asked again. What they object to is recorded once."""
    size, told = -1, ""
    while True:
        await asyncio.sleep(1)
        if ledger.checkpoint.size == size and not witnesses.trouble:
            continue
        size = ledger.checkpoint.size
        await asyncio.to_thread(witnesses.cosign)
        ledger.objection = witnesses.conflict
        metrics.unwitnessed.set(sum(bool(seat.trouble) for seat in witnesses.seats))
        if witnesses.trouble != told:
            told = witnesses.trouble
            log.log(logging.ERROR if told else logging.INFO, "witnesses: %s", told or "all cosign")
            ledger.append("witness", event="conflict" if witnesses.conflict else "trouble" if told else "well", why=told)
        if witnesses.trouble:
            await asyncio.sleep(AGAIN_S)


def _failure_modes(config: Config) -> dict[str, str]:
    modes: dict[str, str] = json.loads(
        config.gateway.model_dump_json(include={"hold", "on_missing_score", "on_nan_score", "on_no_tap", "on_ledger_failure"})
    )
    return modes

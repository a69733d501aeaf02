"""The sidecar process: reads the wiring top to bottom. It never loads torch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor import canary, openai, rulefiles
from monitor.audit.ledger import Ledger
from monitor.config import Config
from monitor.drift import Drift
from monitor.gateway.gateway import Gateway
from monitor.pipeline import Pipeline
from monitor.proof import Proof
from monitor.receiver import Receiver
from monitor.responses import EventStream
from monitor.rulebook import Rulebook, RuleError
from monitor.ruleroutes import rule_routes
from monitor.serving import Servers
from monitor.sinks.kafka import KafkaPublisher
from monitor.sinks.prometheus import Metrics
from monitor.streams import StreamTable

log = logging.getLogger("barograph.sidecar")

WATCH_S = 0.2


async def run(config: Config) -> None:
    """Serve until told to stop. What starts last stops first."""
    bank = config.load_bank()
    proof, proof_sha256 = Proof.load(config.tap.verified) if config.tap.verified else (None, "")
    servers = Servers()
    registry = CollectorRegistry()
    drift = Drift(bank, config.sidecar.drift_tokens)
    metrics = Metrics(registry, bank.names, drift)
    ledger = Ledger(config.sidecar.ledger)
    rulebook = Rulebook(config.rules, rulefiles.facts(bank), ledger)
    kafka = KafkaPublisher(config.sidecar.kafka, ledger.path, metrics) if config.sidecar.kafka else None
    wake = kafka.notify if kafka else lambda: None
    pipeline = Pipeline(
        bank, rulebook.engine, StreamTable(len(bank.names)), ledger, metrics, drift, wake, proof, config.sidecar, config.gateway.tenants
    )
    rulebook.serve(pipeline)
    receiver = Receiver(config.socket, pipeline)
    gateway = Gateway(config.gateway, pipeline)
    servers.serve(gateway.app, servers.bind("gateway", config.gateway.listen))
    servers.serve(admin_app(pipeline, registry, rulebook, config.sidecar.admin[0]), servers.bind("admin", config.sidecar.admin))
    receiver.start()
    ledger.append(
        "sidecar",
        event="start",
        bank=bank.digest,
        bank_arrays=bank.card.arrays_sha256,
        bank_card=bank.card_sha256,
        corpus=bank.card.corpus_sha256,
        proof=proof_sha256,
        rules=rulebook.engine.digest,
        modes={rule.rule: rule.mode for rule in rulebook.engine.rules},
        failure_modes=_failure_modes(config),
    )
    if kafka is not None:
        kafka.start()
    tasks = [asyncio.create_task(_sync(ledger, metrics)), asyncio.create_task(rulebook.watch())]
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, rulebook)
    if config.sidecar.canary_every_s is not None:
        tasks.append(asyncio.create_task(canary.watch(config, bank, metrics)))
    try:
        await servers.run()
    finally:
        for task in tasks:
            task.cancel()
        receiver.close()
        ledger.append("sidecar", event="stop")
        ledger.close()
        if kafka is not None:
            await asyncio.to_thread(kafka.close)


def _reload(rulebook: Rulebook) -> None:
    with contextlib.suppress(RuleError):  # said, counted and recorded
        rulebook.reload("SIGHUP")


def admin_app(pipeline: Pipeline, registry: CollectorRegistry, rulebook: Rulebook, host: str) -> Starlette:
    """Metrics, health, the live view, and what changes the rules."""

    async def health(request: Request) -> Response:
        taps = [
            {"model": source.hello.model, "engine": source.hello.engine, "failed": source.failed, "stale": source.stale}
            for source in pipeline.sources
        ]
        healthy = pipeline.scoring and not pipeline.ledger.failed
        body = {
            "status": "ok" if healthy else "degraded",
            "taps": taps,
            "ledger": pipeline.ledger.failed or "ok",
            "probes": pipeline.bank.names,
            "rules": len(pipeline.rules.rules),
            "rules_in_shadow": [source.hello.model for source in pipeline.sources if pipeline.shadowed(source)],
        }
        return JSONResponse(body, 200 if healthy else 503)

    async def live(request: Request) -> Response:
        """Alive means only that the process answers."""
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def watch(request: Request) -> Response:
        return EventStream(_snapshots(pipeline))

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/live", live),
            Route("/watch", watch),
            Route("/metrics", metrics),
            *rule_routes(rulebook, host),
        ]
    )


async def _snapshots(pipeline: Pipeline) -> AsyncGenerator[bytes]:
    """The running streams and their last scores, a few times a second. No text and no client data."""
    while True:
        yield openai.event(snapshot(pipeline))
        await asyncio.sleep(WATCH_S)


def snapshot(pipeline: Pipeline) -> dict[str, Any]:
    table = pipeline.streams
    running = []
    for slot, stream in list(table.by_slot.items()):
        tokens = int(table.judged[slot])
        recent = np.nan_to_num(table.recent(slot, max(0, tokens - 48), tokens), nan=0.0).round(2)
        verdicts = [
            {
                "rule": verdict.rule.rule,
                "action": verdict.action.name.lower(),
                "mode": verdict.mode,
                "position": verdict.position,
            }
            for verdict in stream.verdicts
            if not verdict.ended
        ]
        running.append(
            {
                "stream": stream.name,
                "started": stream.started,
                "tokens": tokens,
                "ended": bool(table.ended[slot]),
                "gap": bool(table.gap[slot]),
                "scores": recent.T.tolist(),
                "verdicts": verdicts,
            }
        )
    return {"probes": pipeline.bank.names, "taps": len(pipeline.sources), "streams": running}


async def _sync(ledger: Ledger, metrics: Metrics) -> None:
    counted = 0
    while True:
        await asyncio.sleep(1)
        await asyncio.to_thread(ledger.sync)
        metrics.records.inc(ledger.records - counted)
        counted = ledger.records


def _failure_modes(config: Config) -> dict[str, str]:
    modes: dict[str, str] = json.loads(
        config.gateway.model_dump_json(include={"hold", "on_missing_score", "on_nan_score", "on_no_tap", "on_ledger_failure"})
    )
    return modes

"""The sidecar process: reads the wiring top to bottom. It never loads torch."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor import canary, openai
from monitor.audit.ledger import Ledger
from monitor.config import Config, read_text
from monitor.drift import Drift
from monitor.gateway.gateway import Gateway
from monitor.pipeline import Pipeline
from monitor.proof import Proof
from monitor.receiver import Receiver
from monitor.responses import EventStream
from monitor.serving import Servers
from monitor.sinks.kafka import KafkaPublisher
from monitor.sinks.prometheus import Metrics
from monitor.streams import StreamTable
from rules.engine import RuleEngine

log = logging.getLogger("barograph.sidecar")

WATCH_S = 0.2


async def run(config: Config) -> None:
    """Serve until told to stop. What starts last stops first."""
    bank = config.load_bank()
    rules = RuleEngine.from_text(read_text(config.rules), bank.names, str(config.rules), bank.unproven)
    proof, proof_sha256 = Proof.load(config.tap.verified) if config.tap.verified else (None, "")
    servers = Servers()
    registry = CollectorRegistry()
    drift = Drift(bank, config.sidecar.drift_tokens)
    metrics = Metrics(registry, bank.names, drift)
    ledger = Ledger(config.sidecar.ledger)
    kafka = KafkaPublisher(config.sidecar.kafka, ledger.path, metrics) if config.sidecar.kafka else None
    wake = kafka.notify if kafka else lambda: None
    pipeline = Pipeline(bank, rules, StreamTable(len(bank.names)), ledger, metrics, drift, wake, proof)
    receiver = Receiver(config.socket, pipeline)
    gateway = Gateway(config.gateway, pipeline)
    servers.serve(gateway.app, servers.bind("gateway", config.gateway.listen))
    servers.serve(admin_app(pipeline, registry), servers.bind("admin", config.sidecar.admin))
    receiver.start()
    ledger.append(
        "sidecar",
        event="start",
        bank=bank.digest,
        bank_arrays=bank.card.arrays_sha256,
        bank_card=bank.card_sha256,
        corpus=bank.card.corpus_sha256,
        proof=proof_sha256,
        rules=rules.digest,
        modes={rule.rule: rule.mode for rule in rules.rules},
        failure_modes=_failure_modes(config),
    )
    if kafka is not None:
        kafka.start()
    tasks = [asyncio.create_task(_sync(ledger, metrics))]
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


def admin_app(pipeline: Pipeline, registry: CollectorRegistry) -> Starlette:
    """Metrics, health, and the live view."""

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

    return Starlette(routes=[Route("/health", health), Route("/live", live), Route("/watch", watch), Route("/metrics", metrics)])


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
                "action": verdict.rule.action.name.lower(),
                "mode": "shadow" if verdict.shadow else "armed",
                "position": verdict.position,
            }
            for verdict in stream.verdicts
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

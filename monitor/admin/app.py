"""What operators reach: health, metrics, the live view, and what changes the rules."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor.admin.live import snapshots
from monitor.admin.rules import rule_routes
from monitor.http.responses import EventStream
from monitor.pipeline.pipeline import Pipeline
from monitor.pipeline.rulebook import Rulebook


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
        return EventStream(snapshots(pipeline))

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/live", live),
            Route("/watch", watch),
            Route("/metrics", metrics),
            *rule_routes(rulebook, host),
        ]
    )

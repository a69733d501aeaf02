"""What operators reach: health, metrics, the live view, what changes the rules, and the page."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor.admin import live as live_view
from monitor.admin.access import Access
from monitor.admin.commander import Commander
from monitor.admin.commands import command_routes
from monitor.admin.custodian import custody_routes
from monitor.admin.exposition import Exposition
from monitor.admin.guard import Guard, is_loopback
from monitor.admin.health import health_of
from monitor.admin.live import Views
from monitor.admin.page import Page
from monitor.admin.rules import rule_routes
from monitor.admin.tasks import Tasks
from monitor.audit.custody import Custody
from monitor.config import SidecarConfig
from monitor.gateway.gateway import Gateway
from monitor.http.responses import EventStream
from monitor.pipeline.receiver import Receiver
from monitor.pipeline.rulebook import Rulebook
from monitor.pipeline.tracks import Tracks

MAX_ACCEPT = 1000  # characters of a header that is read


def admin_app(
    gateway: Gateway, commander: Commander, registry: CollectorRegistry, rulebook: Rulebook, receiver: Receiver, tasks: Tasks, access: Access,
    config: SidecarConfig, custody: Custody,
    settle: Callable[[], None] = lambda: None, tracks: Tracks | None = None, certificates: Callable[[], str] = lambda: "",
) -> Starlette:  # fmt: skip
    """Metrics, health, the live view, commands, what changes the rules, and the page. `tracks`: what the page shows; it must follow the pipeline.

    `certificates`: why renewed ones were not taken.
    """
    pipeline = gateway.pipeline
    if tracks is None:
        tracks = Tracks(pipeline.bank.names)
        tracks.serve(pipeline)

    async def health(request: Request) -> Response:
        body = health_of(pipeline, receiver, tasks, access, gateway.orders, certificates())
        status = 503 if body["reasons"] else 200
        return JSONResponse(body if request.state.person is not None else {"status": body["status"]}, status)

    async def live(request: Request) -> Response:
        """Alive means only that the process answers."""
        return JSONResponse({"status": "ok"})

    async def idle(request: Request) -> Response:
        """Whether an engine can be stopped without cutting a reply."""
        return JSONResponse({"status": "busy" if gateway.replies else "idle"}, 503 if gateway.replies else 200)

    async def metrics(request: Request) -> Response:
        text, content_type = await exposition.text(request.headers.get("accept", "")[:MAX_ACCEPT])
        return Response(text, headers={"content-type": content_type})

    async def watch(request: Request) -> Response:
        if views.full:
            return JSONResponse({"error": f"too many look on already; expected at most {live_view.MAX_VIEWS}"}, 503)
        return EventStream(views.snapshots())

    exposition = Exposition(registry)
    views = Views(pipeline)
    hosts = (*config.admin_hosts, config.admin[0])
    return Starlette(
        routes=[
            Route("/health", health),
            Route("/live", live),
            Route("/idle", idle),
            Route("/watch", watch),
            Route("/metrics", metrics),
            *rule_routes(rulebook),
            *command_routes(commander, gateway),
            *custody_routes(custody, settle),
            *Page(gateway, tracks, views, config.page).routes(),
        ],
        middleware=[
            Middleware(
                Guard,
                hosts,
                access,
                is_loopback(config.admin[0]),
                config.admin_open,
                lambda why: pipeline.metrics.admin_refused.labels(why).inc(),
            )
        ],
    )

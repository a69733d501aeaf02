"""The gateway: the engine's API for clients, with every produced token judged before it leaves."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, get_args

import aiohttp
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from monitor.audit.levels import Level
from monitor.audit.pseudonyms import Pseudonyms, beside
from monitor.config import GatewayConfig
from monitor.gateway.asked import Asked, Unreadable, refused_by_engine_only
from monitor.gateway.contents import Contents
from monitor.gateway.dialect import error_body
from monitor.gateway.failures import Condition, decision
from monitor.gateway.hold import Hold
from monitor.gateway.judging import Engine, Judging
from monitor.gateway.rate import Rate
from monitor.gateway.reply import Limits, Reply
from monitor.gateway.routes import PASSED, Route, encoded, normalised, refusal, route_of
from monitor.gateway.target import Targets
from monitor.gateway.texts import Texts
from monitor.gateway.throttle import Throttles
from monitor.gateway.upstream import MAX_ERROR, Refused, Upstream
from monitor.gateway.wrapper import Reader, followed
from monitor.http import jsons, openai
from monitor.http.openai import Budget, OpenAIError, Unparsed, overloaded, unavailable
from monitor.pipeline.orders import Orders
from monitor.pipeline.pipeline import Pipeline
from monitor.pipeline.streams import Stream
from monitor.sinks.otel import Tracing

log = logging.getLogger("barograph.gateway")


class Gateway:
    """All paths of the engine, as an ASGI application. Used inside `started`."""

    def __init__(
        self,
        config: GatewayConfig,
        pipeline: Pipeline,
        orders: Orders | None = None,
        reader: Reader | None = None,
        contents: Contents | None = None,
        tracing: Tracing | None = None,
        texts: Texts | None = None,
    ) -> None:
        """`orders`: what people and policy engines have stopped and throttled; by default nothing, in a file beside the ledger.

        `reader`: who reads what an engine without a tap says. `contents`: where what is said is kept, for requests whose level asks for it. `tracing`: who makes spans of replies.
        `texts`: where what leaves is kept for the page, of requests whose level lets anything be kept.
        """
        self.config = config
        self.pipeline = pipeline
        self.metrics = pipeline.metrics
        ledger = pipeline.ledger
        self.orders = orders if orders is not None else Orders(ledger.path.with_name(ledger.path.name + ".orders"))
        self._contents = contents
        self._tracing = tracing
        self.texts = texts
        self.pseudonyms = Pseudonyms(beside(ledger.path))
        self.throttles = Throttles(pipeline.streams, self.orders, ledger)
        self.engine = Engine(Upstream(config), {}, {}, Targets(config, pipeline.streams), reader)
        pipeline.on_throttle = self.throttles.verdict
        self.metrics.stops.set_function(lambda: sum(order.verb == "stop" for order in self.orders) + bool(self.orders.broken))
        for condition in get_args(Condition):  # their series begin at 0, so that the first one is seen as an increase
            self.metrics.decisions.labels(condition, decision(config, condition))
        for tenant in (*config.tenants, "other"):
            self.metrics.tenants_throttled.labels(tenant).set_function(functools.partial(self.throttles.count, tenant, config.tenants))
        self.replies: set[Reply[Judging]] = set()
        self._stopping = False
        self._bodies = Budget(config.max_bodies_bytes)
        self._rate = Rate(config.rate, config.tenant_header) if config.rate is not None else None
        self._limits = Limits(config.client_stall_s, config.keepalive_s, self.metrics.stalled.inc)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application: one handler for all paths and methods, so that no router stands in a token's way."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")
        response = await self.handle(Request(scope, receive))
        await response(scope, receive, send)

    @asynccontextmanager
    async def started(self) -> AsyncIterator[None]:
        """Connections to the engine can be made inside."""
        async with self.engine.upstream.started(), self.engine.targets.started(), AsyncExitStack() as stack:
            if self.engine.reader is not None:
                await stack.enter_async_context(self.engine.reader.started())
            yield

    async def handle(self, request: Request) -> Response:
        """One request of any kind. Replies that are judged count themselves when they end."""
        path = ""
        try:
            path = normalised(request.scope.get("raw_path") or request.url.path.encode())
            response = await self._answer(request, path)
        except OpenAIError as error:
            response = self._refused(path, error)
        except Refused as refused:
            response = refused.response
        except Exception:
            log.exception("a request failed by a fault of ours")
            fault = OpenAIError(500, "the gateway failed on this request; its log says why", kind="server_error", code="internal")
            response = self._refused(path, fault)
        if not isinstance(response, Reply):
            self._count(path, response.status_code)
        return response

    async def _answer(self, request: Request, path: str) -> Response:
        route = route_of(path, self.config.allow_routes)
        if self._rate is not None and request.method == "POST":
            await self._rate.admit(request)
        if route is Route.JUDGED and request.method == "POST":
            return await self._generate(request, path)
        if route is Route.PASSED:
            return await self._pass(request, path)
        if route is Route.JUDGED:
            return await self._other_method(request, path)
        raise refusal(path, request.method)

    async def _generate(self, request: Request, path: str) -> Response:
        if self._stopping:
            raise _stopping()
        body = await self._body(request)
        try:
            asked = Asked.read(path, openai.json_object(body), self.engine.reasons(path))
        except (Unreadable, Unparsed) as error:
            await self.engine.upstream.offer(path, request, body)
            raise error if isinstance(error, OpenAIError) else refused_by_engine_only() from None
        if not isinstance(asked.payload.get("stream"), bool | None):
            await self.engine.upstream.offer(path, request, body)  # some engines take `1` for true, others refuse it
        if self.engine.reader is not None:
            asked = followed(asked)
        about, conversation = self._about(request, asked.payload)
        opened = await self._admit(about["tenant"], about["model"])
        request_id = f"{openai.new_request_id()}{min(asked.each, 0xFFFF):04x}"  # the tap numbers the choices of several prompts by it
        ticket = self.pipeline.streams.expect(request_id, about, conversation)
        hold = Hold(self.config, self.pipeline.streams, ticket, self.pipeline.ledger, self.metrics)
        hold.opened += opened
        work = Judging(asked, request, self.engine, self.pipeline, hold, ticket)
        work.on_end = self._ended
        shown = request.headers.get(openai.REQUEST_ID_HEADER, "")[:256]
        work.client = self.pseudonyms.of("request", shown) if shown else ""
        if self._contents is not None and work.level >= Level.CONTENT:
            work.content = self._contents.of(request_id, about["tenant"], request.headers, asked.payload, body)
        if self.texts is not None and work.level > Level.NONE:
            work.tell(self.texts)
        if self._tracing is not None:
            work.trace = self._tracing.begin(request.headers, path, about["model"])
            ticket.trace = work.trace.id
        reply = Reply(work, {openai.REQUEST_ID_HEADER: shown or request_id}, self._limits)
        self.replies.add(reply)
        return reply

    async def _pass(self, request: Request, path: str) -> Response:
        """Bytes both ways. What the engine is told is bounded, what it says is not: it makes no text there."""
        body = await self._body(request) if request.method not in ("GET", "HEAD", "OPTIONS") else None
        query = request.scope["query_string"].decode("latin-1")
        upstream = self.engine.upstream
        asking = upstream.ask(request.method, encoded(path), upstream.headers(request.headers), body, query, self.config.upstream_idle_s)
        response = await asking.__aenter__()

        async def packets() -> AsyncIterator[bytes]:
            try:
                async for packet in response.content.iter_any():
                    yield packet
            except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                log.warning("the engine broke off an answer of %s (%s)", path, type(error).__name__)
                raise
            finally:
                await asking.__aexit__(None, None, None)

        if 300 <= response.status < 400:
            await asking.__aexit__(None, None, None)
            raise OpenAIError(
                502, f"the engine answered with status {response.status}, which is not followed", kind="server_error", code="upstream_error"
            )
        headers = upstream.returned(response.headers)
        return StreamingResponse(packets(), response.status, headers)

    async def _other_method(self, request: Request, path: str) -> Response:
        """A judged route asked otherwise than by POST: the engine's refusal, or its preflight answer. Nothing generated passes."""
        upstream = self.engine.upstream
        asking = upstream.ask(request.method, encoded(path), upstream.headers(request.headers), None, "", self.config.upstream_idle_s)
        async with asking as response:
            if response.status >= 400 or request.method in ("OPTIONS", "HEAD"):
                return Response(await response.content.read(MAX_ERROR), response.status, upstream.returned(response.headers))
        raise OpenAIError(405, f"{request.method} {path}: expected POST")

    async def _body(self, request: Request) -> bytes:
        return await openai.read_body(request, self.config.max_body_bytes, self._bodies)

    async def _admit(self, tenant: str, model: str) -> list[Any]:
        """Whether one more request may run. Returns the conditions that are open for it; raises OpenAIError when it may not."""
        if stopped := self.orders.stopped(tenant, model):
            raise stopped_by(stopped)
        if len(self.pipeline.streams.tickets) >= self.config.max_requests:
            raise overloaded(f"{self.config.max_requests} requests are running, the limit of this gateway")
        await self.throttles.admit(tenant, lambda: sum(reply.work.about["tenant"] == tenant for reply in self.replies))
        if self.pipeline.scoring:
            return []
        setting = self.config.on_no_tap
        self.metrics.decisions.labels("no_tap", setting).inc()
        self.pipeline.ledger.append("failure", condition="no_tap", why="no tap is connected", decision=setting)
        if setting == "closed":
            raise unavailable(
                "no tap that has proved itself is connected, so replies could not be judged; start the engine, or set gateway.on_no_tap",
                "no_tap",
            )
        return ["no_tap"]

    def _about(self, request: Request, payload: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """What rules may select by, and the conversation's pseudonym: what clients send is not kept."""
        config, given = self.config, request.headers
        about = {
            "model": str(payload.get("model", ""))[:256],
            "tenant": given.get(config.tenant_header, "")[:256] if config.tenant_header else "",
            "route": request.url.path,
            "header": {name.lower(): given[name][:256] for name in config.match_headers if name in given},
        }
        conversation = given.get(config.conversation_header, "") if config.conversation_header else ""
        return about, self.pseudonyms.of("conversation", f"{about['tenant']}\0{conversation}") if conversation else ""

    def _refused(self, path: str, error: OpenAIError) -> Response:
        return Response(jsons.encode(error_body(path, error)), error.status, error.headers, "application/json")

    def _ended(self, work: Judging, reply: Reply[Judging]) -> None:
        self.replies.discard(reply)
        self.metrics.judged.labels(work.how()).inc()
        if reply.outcome.startswith("upstream_"):
            self.metrics.upstream.labels(reply.outcome).inc()
        self._count(work.route, reply.status_code)

    def _count(self, path: str, status: int) -> None:
        known = path in PASSED or route_of(path, ()) is Route.JUDGED
        self.metrics.requests.labels(path.removeprefix("/v1/").removeprefix("/") if known else "other", str(status)).inc()

    def stop(self, concerned: Callable[[Judging], bool], why: str) -> list[Stream]:
        """End the replies that are concerned. Returns their streams that the engine runs."""
        replies = [reply for reply in self.replies if concerned(reply.work)]
        running = [stream for reply in replies for stream in reply.work.running]
        for reply in replies:
            reply.stop(stopped_by(why))
        return running

    async def drain(self) -> None:
        """Refuse what comes from now on, and give what runs `grace_s` to end; then it ends with an error that says so."""
        self._stopping = True
        deadline = asyncio.get_running_loop().time() + self.config.grace_s
        while self.replies and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        for reply in list(self.replies):
            reply.stop(_stopping())
        while self.replies and asyncio.get_running_loop().time() < deadline + 2:
            await asyncio.sleep(0.02)


def stopped_by(why: str) -> OpenAIError:
    return unavailable(f"stopped for {why}", "stopped")


def _stopping() -> OpenAIError:
    return unavailable("the sidecar is stopping; send the request again", "stopping")

"""The gateway: the OpenAI API for clients, with every produced token judged before it leaves."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monitor.config import GatewayConfig
from monitor.gateway.assembly import Assembly
from monitor.gateway.hold import Hold
from monitor.gateway.relay import Relay
from monitor.http import openai
from monitor.http.openai import OpenAIError, unavailable
from monitor.http.responses import EventStream, unless_gone
from monitor.pipeline.pipeline import Pipeline
from monitor.pipeline.streams import Ticket

SCORES_HEADER = "x-barograph-scores"
# Whatever may generate passes through the hold; nothing else is passed on.
GENERATING = ("/v1/chat/completions", "/v1/completions")
READING = ("/v1/models", "/v1/models/{name:path}")


class Gateway:
    """The routes. `app` is the ASGI application."""

    def __init__(self, config: GatewayConfig, pipeline: Pipeline) -> None:
        self.config = config
        self.pipeline = pipeline
        self.metrics = pipeline.metrics
        self._session: aiohttp.ClientSession | None = None
        self.app = Starlette(
            routes=[
                *(Route(path, self.generate, methods=["POST"]) for path in GENERATING),
                *(Route(path, self.read) for path in READING),
            ],
            exception_handlers={HTTPException: self._unknown},
            lifespan=self._lifespan,
        )

    async def generate(self, request: Request) -> Response:
        endpoint = request.url.path.removeprefix("/v1/")
        try:
            payload = await openai.read_json(request, self.config.max_body_bytes)
            response = await self._generate(request, payload, endpoint)
        except OpenAIError as error:
            response = error.response()
        self.metrics.requests.labels(endpoint, str(response.status_code)).inc()
        return response

    async def read(self, request: Request) -> Response:
        try:
            async with self._upstream("GET", request.url.path, request, None) as upstream:
                return Response(await upstream.read(), upstream.status, media_type=upstream.content_type)
        except OpenAIError as error:
            return error.response()

    async def _generate(self, request: Request, payload: dict[str, Any], endpoint: str) -> Response:
        if not self.pipeline.scoring:
            self._no_tap()
        streams = self.pipeline.streams
        if len(streams.tickets) >= self.config.max_requests:
            raise OpenAIError(
                429,
                f"{self.config.max_requests} requests are running, the limit of this gateway; try again later",
                kind="rate_limit_error",
                code="too_many_requests",
            )
        streaming, usage = _wishes(payload)
        headers = {openai.REQUEST_ID_HEADER: openai.new_request_id()}
        ticket = streams.expect(headers[openai.REQUEST_ID_HEADER], *self._about(request, payload))
        chunks = self._chunks(request, payload, ticket, usage or not streaming)
        if not streaming:
            return await unless_gone(request, self._whole(chunks, headers))
        # The first chunk decides the status: an error before it is a proper HTTP error.
        try:
            first = await anext(chunks, None)
        except BaseException:
            await chunks.aclose()
            raise
        return EventStream(self._stream(first, chunks), headers, self.config.client_stall_s, self.metrics.stalled.inc)

    def _about(self, request: Request, payload: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """What rules may select by, and the conversation's key: a hash, since what clients send is not kept."""
        config, given = self.config, request.headers
        about = {
            "model": str(payload.get("model", ""))[:256],
            "tenant": given.get(config.tenant_header, "")[:256] if config.tenant_header else "",
            "route": request.url.path,
            "header": {name.lower(): given[name][:256] for name in config.match_headers if name in given},
        }
        conversation = given.get(config.conversation_header, "") if config.conversation_header else ""
        named = f"{about['tenant']}\0{conversation}".encode()
        return about, hashlib.blake2b(named, digest_size=12).hexdigest() if conversation else ""

    async def _chunks(self, request: Request, payload: dict[str, Any], ticket: Ticket, usage: bool) -> AsyncGenerator[dict[str, Any]]:
        body = {**payload, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        pipeline = self.pipeline
        hold = Hold(self.config, pipeline.streams, ticket, pipeline.ledger, self.metrics)
        scores = self.config.expose_scores and request.headers.get(SCORES_HEADER) == "1"
        try:
            async with self._upstream("POST", request.url.path, request, body, ticket.request) as upstream:
                if upstream.status != 200:
                    raise await _upstream_error(upstream)
                relay = Relay(upstream, hold, pipeline.streams, ticket, pipeline.bank.names, scores, usage)
                async with aclosing(relay.chunks()) as chunks:
                    async for chunk in chunks:
                        yield chunk
        finally:
            pipeline.streams.forget(ticket)

    async def _stream(self, first: dict[str, Any] | None, chunks: AsyncGenerator[dict[str, Any]]) -> AsyncGenerator[bytes]:
        async with aclosing(chunks):
            try:
                if first is not None:
                    yield openai.event(first)
                async for chunk in chunks:
                    yield openai.event(chunk)
            except OpenAIError as error:
                yield error.event()
                return
            yield openai.DONE

    async def _whole(self, chunks: AsyncGenerator[dict[str, Any]], headers: dict[str, str]) -> Response:
        assembly = Assembly()
        async with aclosing(chunks):
            async for chunk in chunks:
                assembly.add(chunk)
        return openai.json_response(assembly.whole(), headers)

    @asynccontextmanager
    async def _upstream(
        self, method: str, path: str, request: Request, body: Any, request_id: str = ""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None
        headers = {openai.REQUEST_ID_HEADER: request_id} if request_id else {}
        if "authorization" in request.headers:
            headers["authorization"] = request.headers["authorization"]
        try:
            response = await self._session.request(method, self.config.upstream + path, json=body, headers=headers)
        except (aiohttp.ClientError, TimeoutError):
            raise OpenAIError(
                502, f"the engine at {self.config.upstream} does not answer", kind="server_error", code="upstream_unreachable"
            ) from None
        try:
            yield response
        finally:
            response.close()

    def _no_tap(self) -> None:
        setting = self.config.on_no_tap
        self.metrics.decisions.labels("no_tap", setting).inc()
        self.pipeline.ledger.append("failure", condition="no_tap", why="no tap is connected", decision=setting)
        if setting == "closed":
            raise unavailable("no tap is connected, so replies could not be judged; start the engine, or set gateway.on_no_tap", "no_tap")

    async def _unknown(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        supported = ", ".join((*GENERATING, READING[0]))
        return OpenAIError(
            error.status_code, f"{error.detail}: {request.method} {request.url.path}; this gateway serves: {supported}"
        ).response()

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0), auto_decompress=False) as session:
            self._session = session
            yield


def _wishes(payload: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the client wants a stream, and usage at its end. The engine checks the rest of the body."""
    stream, options = payload.get("stream"), payload.get("stream_options")
    if stream not in (None, True, False):
        raise openai.bad("'stream': expected true or false", "stream")
    if options is not None and not (stream and isinstance(options, dict) and set(options) <= {"include_usage", "continuous_usage_stats"}):
        raise openai.bad("'stream_options': expected an object with include_usage, together with 'stream': true", "stream_options")
    return bool(stream), bool((options or {}).get("include_usage"))


async def _upstream_error(upstream: aiohttp.ClientResponse) -> OpenAIError:
    try:
        error = (await upstream.json(content_type=None))["error"]
        return OpenAIError(
            upstream.status, str(error["message"]), kind=str(error.get("type")), param=error.get("param"), code=error.get("code")
        )
    except (ValueError, KeyError, TypeError, AttributeError, aiohttp.ClientError):
        return OpenAIError(502, f"the engine answered with status {upstream.status}", kind="server_error", code="upstream_error")

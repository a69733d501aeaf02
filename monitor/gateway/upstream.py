"""The engine, as the gateway reaches it."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from yarl import URL

from monitor.config import GatewayConfig
from monitor.gateway.dialect import error_body
from monitor.gateway.relay import upstream_error
from monitor.gateway.routes import encoded
from monitor.http import jsons
from monitor.http.openai import REQUEST_ID_HEADER, OpenAIError, unavailable

KEY = "BAROGRAPH_UPSTREAM_KEY"  # sent to the engine in place of the client's authorization

# Headers that travel. Everything else stays where it is; a deployment may name more.
UP = frozenset({
    "accept", "accept-language", "authorization", "anthropic-beta", "anthropic-version", "content-type", "openai-beta", "openai-organization",
    "openai-project", "traceparent", "tracestate", "user-agent", "x-api-key", "access-control-request-headers", "access-control-request-method",
})  # fmt: skip
BACK = frozenset({
    "access-control-allow-headers", "access-control-allow-methods", "access-control-allow-origin", "access-control-max-age", "allow",
    "cache-control", "content-type", "openai-organization", "openai-processing-ms", "openai-version", "retry-after", "request-id", "www-authenticate",
})  # fmt: skip
BACK_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")

IDLE_S = 4.0  # a connection is given up before the engine gives it up: vLLM and uvicorn do after 5 s
OFFER_S = 2.0  # in which an engine refuses what it refuses
MAX_ERROR = 1 << 20  # bytes of an error's body


class Refused(Exception):
    """The engine refused a request; `response` says so to the client with the engine's own status."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Upstream:
    """Connections to one engine. Its host is fixed by the configuration: no path and no redirect leads elsewhere."""

    def __init__(self, config: GatewayConfig, address: str | None = None) -> None:
        """`address`: of an engine other than `gateway.upstream`."""
        self.config = config
        self.address = address or config.upstream
        unix = self.address.removeprefix("unix:") if self.address.startswith("unix:") else None
        self._base = "http://engine" if unix else self.address
        self._unix = unix
        self._up = UP | {name.lower() for name in config.forward_headers}
        self._back = BACK | {name.lower() for name in config.return_headers}
        self._pooled: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def started(self) -> AsyncIterator[None]:
        async with self._session(False) as self._pooled, self._session(True) as self._fresh:
            try:
                yield
            finally:
                self._pooled = self._fresh = None

    def headers(self, given: Headers, request_id: str = "") -> dict[str, str]:
        """What the engine is told of a client's headers. Host, cookies and hop-by-hop headers never travel."""
        headers = {name: value for name, value in given.items() if name in self._up}
        if key := os.environ.get(KEY):
            headers["authorization"] = f"Bearer {key}"
        if request_id:
            headers[REQUEST_ID_HEADER] = request_id
        return headers

    def returned(self, given: Mapping[str, str]) -> dict[str, str]:
        """What the client is told of the engine's headers."""
        return {
            name.lower(): value for name, value in given.items() if name.lower() in self._back or name.lower().startswith(BACK_PREFIXES)
        }

    @asynccontextmanager
    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: Any = None, query: str = "", idle_s: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; leaving the block closes it, so the engine stops working on it. `path` is encoded. Raises OpenAIError.

        A pooled connection that the engine closes just as the request goes out has answered nothing, so the request is sent again on a
        new one.
        """
        url = URL(f"{self._base}{path}{'?' + query if query else ''}", encoded=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=idle_s)
        response = None
        for session in (self._pooled, self._fresh):
            if session is None:
                raise unavailable("the gateway is starting or stopping; send the request again", "stopping")
            try:
                response = await session.request(
                    method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False, skip_auto_headers=("content-type", "user-agent")
                )  # fmt: skip
                break
            except aiohttp.ClientConnectorError:
                break
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError):
                continue
            except TimeoutError:
                raise OpenAIError(504, "the engine sent nothing for too long", kind="server_error", code="upstream_timeout") from None
            except (aiohttp.ClientError, ValueError) as error:
                raise upstream_error(f"the engine's answer is no HTTP ({type(error).__name__})") from None
        if response is None:
            raise OpenAIError(
                502, f"the engine at {self.address} does not answer", kind="server_error", code="upstream_unreachable"
            )  # fmt: skip
        try:
            yield response
        finally:
            response.close()

    async def offer(self, path: str, request: Request, body: bytes) -> None:
        """Give the engine what only it can refuse in its own words. Raises Refused when it does; nothing else of its answer is used."""
        query = request.scope["query_string"].decode("latin-1")
        try:
            async with self.ask("POST", encoded(path), self.headers(request.headers), body, query, OFFER_S) as response:
                if response.status >= 400:
                    raise await self.refusal(response, path)
        except OpenAIError as error:
            if error.status != 504:  # an engine that is still at it has not refused
                raise

    async def refusal(self, response: aiohttp.ClientResponse, route: str) -> Refused:
        """The engine's answer of a status other than 2xx, for a client of `route`: its own body where that is an error as clients know it."""
        if response.status < 400:
            raise upstream_error(f"the engine answered with status {response.status}, which is not followed")
        body = bytearray()
        try:
            async for packet in response.content.iter_any():
                body += packet
                if len(body) > MAX_ERROR:
                    break
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            pass  # what came of it says enough
        headers = self.returned(response.headers)
        try:
            said = jsons.decode(bytes(body))
        except ValueError:
            said = bytes(body[:1000]).decode("utf-8", "replace").strip()
        error = said.get("error") if isinstance(said, dict) else None
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            return Refused(Response(bytes(body), response.status, headers))
        headers.pop("content-type", None)
        converted = OpenAIError(response.status, _message(said, response.status), code="upstream_error" if response.status >= 500 else None)
        return Refused(Response(jsons.encode(error_body(route, converted)), response.status, headers, "application/json"))

    def _session(self, close: bool) -> aiohttp.ClientSession:
        kind: Any = functools.partial(aiohttp.UnixConnector, self._unix) if self._unix else aiohttp.TCPConnector
        connector = kind(limit=0, force_close=True) if close else kind(limit=0, keepalive_timeout=IDLE_S)
        # Bodies come unpacked whatever the engine sends; asking for none saves both sides the work.
        return aiohttp.ClientSession(
            connector=connector, auto_decompress=True, headers={"accept-encoding": "identity"}, cookie_jar=aiohttp.DummyCookieJar()
        )


async def read_all(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body. Raises OpenAIError when it is larger than `limit` bytes, and what aiohttp raises."""
    body = bytearray()
    async for packet in response.content.iter_any():
        body += packet
        if len(body) > limit:
            raise upstream_error(f"the engine's reply is larger than {limit} bytes, gateway.max_reply_bytes")
    return bytes(body)


def _message(said: Any, status: int) -> str:
    """What an error in some other format says: `{"error": "…"}`, FastAPI's detail, an older engine's `{"object": "error", "message": …}`."""
    if isinstance(said, dict):
        detail = said.get("detail")
        if isinstance(detail, list):
            return "; ".join(_one_detail(each) for each in detail[:8])[:1000]
        said = next((each for each in (said.get("error"), said.get("message"), detail) if isinstance(each, str)), "")
    return said[:1000] if isinstance(said, str) and said else f"the engine answered with status {status}"


def _one_detail(each: Any) -> str:
    if not isinstance(each, dict):
        return str(each)
    where = ".".join(map(str, _list(each.get("loc"))))
    return f"{where}: {each.get('msg', '')}" if where else str(each.get("msg", ""))


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else ()

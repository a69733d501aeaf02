"""The OpenAI API's shapes, shared by engine and gateway: errors, server-sent events, ids."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from monitor.http import jsons

BODY_S = 30.0  # in which a client must have sent its body

REQUEST_ID_HEADER = "x-request-id"
DONE = b"data: [DONE]\n\n"

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class OpenAIError(Exception):
    """An error as OpenAI's clients expect it."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None,
        retry_after: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.headers = {"retry-after": str(retry_after)} if status in (429, 503) else {}  # seconds
        self.in_stream = False  # an engine said it as an event, so a client that streams gets it as one
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self, headers: dict[str, str] | None = None) -> Response:
        return Response(jsons.encode(self.body), self.status, headers, "application/json")

    def event(self) -> bytes:
        return event(self.body)


class Unparsed(OpenAIError):
    """The body is no JSON object in UTF-8."""

    def __init__(self, message: str) -> None:
        super().__init__(400, f"{message}; expected an object of JSON in UTF-8")


class Budget:
    """What all bodies that are being read may hold together."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def take(self, size: int) -> None:
        """Raises OpenAIError when there is no room."""
        if size > self._left:
            raise overloaded("the bodies that are being read fill the room for them")
        self._left -= size

    def give(self, size: int) -> None:
        self._left += size


def overloaded(why: str) -> OpenAIError:
    return OpenAIError(429, f"{why}; try again later", kind="rate_limit_error", code="too_many_requests")


def bad(message: str, param: str | None = None, code: str | None = None) -> OpenAIError:
    return OpenAIError(400, message, param=param, code=code)


def unavailable(message: str, code: str) -> OpenAIError:
    return OpenAIError(503, message, kind="service_unavailable", code=code)


def event(payload: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + jsons.encode(payload) + b"\n\n"


def json_response(payload: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(jsons.encode(payload), 200, headers, "application/json")


def new_request_id() -> str:
    return secrets.token_hex(12)


def valid_request_id(value: str) -> bool:
    return _REQUEST_ID.fullmatch(value) is not None


async def read_body(request: Request, limit: int, budget: Budget | None = None) -> bytes:
    """The whole body, of at most `limit` bytes, within BODY_S. Raises OpenAIError."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                if len(body) + len(part) > limit:
                    raise _too_large(limit)
                if budget is not None:
                    budget.take(len(part))
                body += part
    except ClientDisconnect:
        raise bad("the client went away before the body was complete") from None
    except TimeoutError:
        raise OpenAIError(408, f"the body was not complete after {BODY_S:.0f} s", code="request_timeout") from None
    finally:
        if budget is not None:
            budget.give(len(body))
    return bytes(body)


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """The body as a JSON object of at most `limit` bytes, by the letter of the standard. Raises OpenAIError."""
    return json_object(await read_body(request, limit), jsons.decode_strictly)


def json_object(body: bytes, decode: Callable[[bytes], Any] = jsons.decode) -> dict[str, Any]:
    """Raises Unparsed."""
    try:
        payload = decode(body)
    except UnicodeDecodeError as error:
        raise Unparsed(f"the body is not UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise Unparsed(f"the body is not JSON ({error})") from None
    if not isinstance(payload, dict):
        raise Unparsed(f"the body is a JSON {type(payload).__name__}")
    return payload


async def http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in OpenAI's format."""
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "Internal error")
    return OpenAIError(status, f"{detail}: {request.method} {request.url.path}").response()


def _too_large(limit: int) -> OpenAIError:
    return OpenAIError(413, f"the body is larger than {limit} bytes, the limit of this server", code="request_too_large")

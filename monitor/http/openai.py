"""The OpenAI API's shapes, shared by engine and gateway: errors, server-sent events, ids."""

from __future__ import annotations

import re
import secrets
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

REQUEST_ID_HEADER = "x-request-id"
DONE = b"data: [DONE]\n\n"

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_json = msgspec.json.Encoder()


class OpenAIError(Exception):
    """An error as OpenAI's clients expect it."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self, headers: dict[str, str] | None = None) -> Response:
        return Response(_json.encode(self.body), self.status, headers, "application/json")

    def event(self) -> bytes:
        return event(self.body)


def bad(message: str, param: str | None = None, code: str | None = None) -> OpenAIError:
    return OpenAIError(400, message, param=param, code=code)


def unavailable(message: str, code: str) -> OpenAIError:
    return OpenAIError(503, message, kind="service_unavailable", code=code)


def event(payload: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + _json.encode(payload) + b"\n\n"


def json_response(payload: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(_json.encode(payload), 200, headers, "application/json")


def new_request_id() -> str:
    return secrets.token_hex(12)


def valid_request_id(value: str) -> bool:
    return _REQUEST_ID.fullmatch(value) is not None


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """The body as a JSON object of at most `limit` bytes. Raises OpenAIError."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise bad("the client went away before the body was complete") from None
    try:
        payload = msgspec.json.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise bad(f"the body is not UTF-8 (byte {error.start}); expected a JSON object in UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad(f"the body is not JSON ({error}); expected a JSON object") from None
    if not isinstance(payload, dict):
        raise bad(f"the body is a JSON {type(payload).__name__}; expected an object")
    return payload


async def http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in OpenAI's format."""
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "Internal error")
    return OpenAIError(status, f"{detail}: {request.method} {request.url.path}").response()


def _too_large(limit: int) -> OpenAIError:
    return OpenAIError(413, f"the body is larger than {limit} bytes, the limit of this server", code="request_too_large")

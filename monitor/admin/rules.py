"""The admin API of the rules: what is in force, reload, freeze, and Alertmanager's webhook."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor.http import openai
from monitor.http.openai import OpenAIError
from monitor.pipeline.rulebook import Rulebook, RuleError

TOKEN = "BAROGRAPH_ADMIN_TOKEN"
MAX_BODY = 1 << 20


def rule_routes(rulebook: Rulebook, host: str) -> list[Route]:
    """Changes need the bearer token of BAROGRAPH_ADMIN_TOKEN; without one they are taken only where `host` is loopback."""
    local = _is_loopback(host)

    def changing(change: Callable[[dict[str, Any]], dict[str, Any]], body: bool = False) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            if refused := _refused(request, local):
                return refused
            try:
                payload = await openai.read_json(request, MAX_BODY) if body else {}
                return JSONResponse(change(payload))
            except OpenAIError as error:
                return error.response()
            except RuleError as error:
                return JSONResponse({"error": str(error), "digest": rulebook.engine.digest, "frozen": rulebook.frozen}, 409)

        return handle

    async def rules(request: Request) -> Response:
        return JSONResponse(rulebook.describe())

    def freeze(payload: dict[str, Any]) -> dict[str, Any]:
        rulebook.freeze(str(payload.get("reason", ""))[:500])
        return {"frozen": rulebook.frozen}

    def thaw(payload: dict[str, Any]) -> dict[str, Any]:
        rulebook.thaw()
        return {"frozen": rulebook.frozen}

    return [
        Route("/rules", rules),
        Route("/rules/reload", changing(lambda _: {"digest": rulebook.reload("api")}), methods=["POST"]),
        Route("/rules/freeze", changing(freeze, body=True), methods=["POST"]),
        Route("/rules/thaw", changing(thaw), methods=["POST"]),
        Route("/alertmanager", changing(lambda payload: {"modes": rulebook.alerts(payload)}, body=True), methods=["POST"]),
    ]


def _refused(request: Request, local: bool) -> Response | None:
    wanted = os.environ.get(TOKEN, "")
    if not wanted:
        return None if local else JSONResponse({"error": f"the admin address is no loopback, so changes need {TOKEN} to be set"}, 403)
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if hmac.compare_digest(given.encode(), wanted.encode()):
        return None
    return JSONResponse({"error": f"expected the bearer token of {TOKEN}"}, 401)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

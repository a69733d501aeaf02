"""The admin API of the rules: what is in force, reload, freeze, and Alertmanager's webhook."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor.http import openai
from monitor.http.openai import OpenAIError
from monitor.pipeline.rulebook import Rulebook, RuleError

MAX_BODY = 1 << 20


def rule_routes(rulebook: Rulebook) -> list[Route]:
    """Who may change something is the guard's business (guard.py)."""

    def changing(
        change: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]], body: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            try:
                payload = await openai.read_json(request, MAX_BODY) if body else {}
                return JSONResponse(await change(payload))
            except OpenAIError as error:
                return error.response()
            except RuleError as error:
                return JSONResponse({"error": str(error), "digest": rulebook.engine.digest, "frozen": rulebook.frozen}, 409)

        return handle

    async def rules(request: Request) -> Response:
        return JSONResponse(rulebook.describe())

    async def reload(payload: dict[str, Any]) -> dict[str, Any]:
        return {"digest": await rulebook.reload_beside("api")}

    async def alerts(payload: dict[str, Any]) -> dict[str, Any]:
        return {"modes": rulebook.alerts(payload)}

    async def freeze(payload: dict[str, Any]) -> dict[str, Any]:
        rulebook.freeze(str(payload.get("reason", ""))[:500])
        return {"frozen": rulebook.frozen}

    async def thaw(payload: dict[str, Any]) -> dict[str, Any]:
        rulebook.thaw()
        return {"frozen": rulebook.frozen}

    return [
        Route("/rules", rules),
        Route("/rules/reload", changing(reload), methods=["POST"]),
        Route("/rules/freeze", changing(freeze, body=True), methods=["POST"]),
        Route("/rules/thaw", changing(thaw), methods=["POST"]),
        Route("/alertmanager", changing(alerts, body=True), methods=["POST"]),
    ]

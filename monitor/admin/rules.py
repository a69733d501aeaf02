"""The admin API of the rules: what is in force, reload, freeze, and Alertmanager's webhook."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor.http import openai
from monitor.http.openai import OpenAIError, bad
from monitor.pipeline.rulebook import Rulebook, RuleError

MAX_BODY = 1 << 20
MAX_REASON = 500


def rule_routes(rulebook: Rulebook) -> list[Route]:
    """Who may change something is the guard's business (guard.py)."""

    def changing(change: Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]]) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            try:
                payload = await openai.read_json(request, MAX_BODY)
                return JSONResponse(await change(payload, request.state.person.name))
            except OpenAIError as error:
                return error.response()
            except RuleError as error:
                return JSONResponse({"error": str(error), "digest": rulebook.engine.digest, "frozen": rulebook.frozen}, 409)

        return handle

    async def rules(request: Request) -> Response:
        return JSONResponse(rulebook.describe())

    async def reload(payload: dict[str, Any], by: str) -> dict[str, Any]:
        return {"digest": await rulebook.reload_beside(by, _reason(payload))}

    async def alerts(payload: dict[str, Any], by: str) -> dict[str, Any]:
        return {"modes": rulebook.alerts(payload)}

    async def freeze(payload: dict[str, Any], by: str) -> dict[str, Any]:
        rulebook.freeze(_reason(payload), by)
        return {"frozen": rulebook.frozen}

    async def thaw(payload: dict[str, Any], by: str) -> dict[str, Any]:
        rulebook.thaw(_reason(payload), by)
        return {"frozen": rulebook.frozen}

    return [
        Route("/rules", rules),
        Route("/rules/reload", changing(reload), methods=["POST"]),
        Route("/rules/freeze", changing(freeze), methods=["POST"]),
        Route("/rules/thaw", changing(thaw), methods=["POST"]),
        Route("/alertmanager", changing(alerts), methods=["POST"]),
    ]


def _reason(payload: dict[str, Any]) -> str:
    """Why a person does it. Raises OpenAIError without one."""
    reason = payload.get("reason")
    if not isinstance(reason, str) or not 0 < len(reason.strip()) <= MAX_REASON:
        raise bad(f'a change of rules needs a reason; expected {{"reason": TEXT}} with at most {MAX_REASON} characters', "reason")
    return reason.strip()

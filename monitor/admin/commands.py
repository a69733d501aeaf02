"""The admin API of commands: give one, see what stands, and the document that describes it all to programs."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor import __version__
from monitor.admin.access import Role
from monitor.admin.command import Command, CommandError
from monitor.admin.commander import Commander
from monitor.gateway.gateway import Gateway
from monitor.http import openai
from monitor.http.openai import OpenAIError

MAX_BODY = 64 << 10
READABLE = {
    "/health": "whether the sidecar can judge, with reasons when it cannot", "/live": "whether the process answers",
    "/idle": "200 when no reply runs, else 503",
    "/metrics": "Prometheus's metrics", "/watch": "the running streams, as server-sent events", "/rules": "the rules in force",
    "/orders": "the stops, throttles and modes that stand, and the targets of re-routes",
    "/": "leads to the page", "/page": "the web page", "/page/files/{name}": "its files", "/page/about": "the probes, and who asks", "/page/state": "figures of what was judged",
    "/page/live": "streams and verdicts as they come, as server-sent events", "/page/streams/{name}": "one stream's scores and signals",
    "/page/verdicts/{number}": "one verdict, with its stream",
}  # fmt: skip
CHANGING = {
    "/rules/reload": "read the rule files anew (admin)", "/rules/freeze": "block reloads", "/rules/thaw": "allow reloads again (admin)",
    "/alertmanager": "Alertmanager's webhook", "/audit": "an act on the ledger: hold, release, purge, erase, or the note of a look into it",
    "/page/chat": "a chat through the gateway; from loopback without a token",
}  # fmt: skip


def command_routes(commander: Commander, gateway: Gateway) -> list[Route]:
    """Who may ask is the guard's business (guard.py)."""

    async def command(request: Request) -> Response:
        person = request.state.person
        try:
            payload = await openai.read_json(request, MAX_BODY)
        except OpenAIError as error:
            return JSONResponse({"error": str(commander.refuse("", person.name, "api", str(error)))}, error.status)
        payload.setdefault("id", f"api-{secrets.token_hex(8)}")
        try:
            try:
                given = Command.read(payload)
            except CommandError as error:
                raise commander.refuse(str(payload["id"]), person.name, "api", str(error)) from None
            if given.issuer not in (None, person.name):
                raise commander.refuse(
                    given.id, person.name, "api", f"its issuer is {given.issuer}, its token that of {person.name}", given
                )
            if given.verb == "thaw" and person.role is not Role.ADMIN:
                raise commander.refuse(
                    given.id, person.name, "api", f"{person.name} has the role {person.role.value}; thaw is an admin's", given
                )
            return JSONResponse(await commander.carry_out(given, person.name, "api"))
        except CommandError as error:
            return JSONResponse({"id": str(payload["id"])[:128], "outcome": "refused", "error": str(error)}, 409)

    async def orders(request: Request) -> Response:
        return JSONResponse(
            {
                "orders": [order.model_dump(mode="json", exclude_none=True) for order in gateway.orders],
                "broken": gateway.orders.broken,
                "throttled": gateway.throttles.describe(),
                "targets": gateway.engine.targets.describe(),
            }
        )

    async def document(request: Request) -> Response:
        return JSONResponse(openapi())

    return [Route("/commands", command, methods=["POST"]), Route("/orders", orders), Route("/openapi.json", document)]


def openapi() -> dict[str, Any]:
    """The admin API in OpenAPI 3.1."""
    answer = {"description": "JSON", "content": {"application/json": {"schema": {"type": "object"}}}}
    problems = {"401": answer, "403": answer, "409": {**answer, "description": "refused; nothing is changed"}}
    schema = Command.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = schema.pop("$defs", {})
    schema["required"] = [name for name in schema["required"] if name != "id"]  # the API makes one when none is given
    paths: dict[str, Any] = {path: {"get": {"summary": text, "responses": {"200": answer}}} for path, text in READABLE.items()}
    paths |= {path: {"post": {"summary": text, "responses": {"200": answer, **problems}}} for path, text in CHANGING.items()}
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Command"}}}}
    paths["/commands"] = {"post": {"summary": "give a command", "requestBody": body, "responses": {"200": answer, **problems}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Barograph's admin API", "version": __version__},
        "components": {"schemas": {"Command": schema, **parts}, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
        "paths": paths,
    }

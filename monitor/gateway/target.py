"""A target of re-routes: an engine beside the first, or the gateway of another sidecar."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import aiohttp
from starlette.datastructures import Headers

from monitor.config import GatewayConfig, TargetConfig
from monitor.gateway.asked import CHAT
from monitor.gateway.upstream import Refused, Upstream, read_all
from monitor.http import jsons, openai
from monitor.http.openai import REQUEST_ID_HEADER, OpenAIError
from monitor.pipeline.streams import StreamTable

log = logging.getLogger("barograph.gateway")

REROUTED = "x-barograph-rerouted"  # on a request that was re-routed once: whoever gets it does not re-route it again
JUDGED = "x-barograph"
LOOK_S, SOON_S = 30.0, 2.0  # between two looks: when all is well, and while something is missing
TAP_S = 0.3
MAX_REPLY = 1 << 20
PROMPT = "Name the months of the year."
PREFIX = "January, February,"
# Headers of a client that a target gets. Its authorization never travels: the target's key is the configuration's.
TRAVEL = frozenset({"accept-language", "traceparent", "tracestate", "user-agent"})

Judged = Literal["here", "there", "nowhere"]


class Target:
    """What is known of one target. `judged`: by whom its tokens are; `continues`: whether it was seen to go on from a prefix."""

    def __init__(self, name: str, config: TargetConfig, gateway: GatewayConfig) -> None:
        self.name = name
        self.config = config
        self.upstream = Upstream(gateway, config.upstream)
        self.judged: Judged = "nowhere"
        self.continues = False
        self.state = "not looked at yet"
        self._travel = TRAVEL | {each.lower() for each in (gateway.tenant_header, gateway.conversation_header) if each}

    def headers(self, given: Mapping[str, str], request_id: str) -> dict[str, str]:
        headers = {name: value for name, value in given.items() if name in self._travel}
        headers |= {"content-type": "application/json", REQUEST_ID_HEADER: request_id, REROUTED: "1"}
        if self.config.key_env and (key := os.environ.get(self.config.key_env)):
            headers["authorization"] = f"Bearer {key}"
        return headers

    async def look(self, streams: StreamTable) -> None:
        """Ask it two small things: who judges it, and whether it goes on from a prefix. Never raises for anything that a target does."""
        before = self.state
        try:
            self.state = await self._look(streams)
        except OpenAIError as error:
            self.state = str(error)
        except Refused as refused:
            self.state = f"it refuses a trial with status {refused.response.status_code}"
        if self.state != before:
            level = logging.INFO if self.state == "ok" else logging.WARNING
            log.log(level, "target %s: %s (judged %s, continues: %s)", self.name, self.state, self.judged, self.continues)

    async def _look(self, streams: StreamTable) -> str:
        model = self.config.model
        if model is None:
            listed = (await self._ask("GET", "/v1/models", None, streams))[0].get("data")
            names = [each.get("id") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
            if not names:
                return "it lists no model"
            model = names[0]
        user, prefix = {"role": "user", "content": PROMPT}, {"role": "assistant", "content": PREFIX}
        body = {"model": model, "max_tokens": 1, "temperature": 0}
        _, self.judged = await self._ask("POST", CHAT, {**body, "messages": [user]}, streams)
        try:
            going_on = {"continue_final_message": True, "add_generation_prompt": False}
            open_, _ = await self._ask("POST", CHAT, {**body, "messages": [user, prefix], **going_on}, streams)
            closed, _ = await self._ask("POST", CHAT, {**body, "messages": [user, prefix]}, streams)
            # A prefix that is gone on from has no end of turn and no head of a new one behind it: its prompt is shorter.
            self.continues = 0 < _prompt_tokens(open_) < _prompt_tokens(closed)
        except Refused:
            self.continues = False
        return "ok"

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None, streams: StreamTable) -> tuple[dict[str, Any], Judged]:
        ticket = streams.expect(f"trial-{openai.new_request_id()}", trial=True)
        raw = None if body is None else jsons.encode(body)
        try:
            async with self.upstream.ask(
                method, path, self.headers(Headers(), ticket.request), raw, idle_s=self.upstream.config.upstream_idle_s
            ) as response:
                if response.status != 200:
                    raise await self.upstream.refusal(response, path)
                reply = jsons.decode(await read_all(response, MAX_REPLY))
                there = judged_there(response.headers)
            if body is not None and not ticket.tapped and not there:
                await asyncio.sleep(TAP_S)  # a tap of ours may be a moment behind
        except (ValueError, aiohttp.ClientError, ConnectionError, TimeoutError):
            reply = None
        finally:
            streams.forget(ticket)
        if not isinstance(reply, dict):
            raise OpenAIError(502, f"{method} {path} gave no JSON object")
        return reply, "here" if ticket.tapped else "there" if there else "nowhere"


class Targets:
    """All targets of a gateway, by name."""

    def __init__(self, config: GatewayConfig, streams: StreamTable) -> None:
        self._targets = {name: Target(name, each, config) for name, each in config.targets.items()}
        self._streams = streams

    def __getitem__(self, name: str) -> Target:
        return self._targets[name]

    def get(self, name: str) -> Target | None:
        return self._targets.get(name)

    @asynccontextmanager
    async def started(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for target in self._targets.values():
                await stack.enter_async_context(target.upstream.started())
            yield

    async def watch(self) -> None:
        """Look at every target at the start and now and then."""
        while True:
            await asyncio.gather(*(target.look(self._streams) for target in self._targets.values()))
            well = all(target.state == "ok" for target in self._targets.values())
            await asyncio.sleep(LOOK_S if well else SOON_S)

    def describe(self) -> dict[str, dict[str, Any]]:
        return {name: {"state": each.state, "judged": each.judged, "continues": each.continues} for name, each in self._targets.items()}


def judged_there(headers: Mapping[str, str]) -> bool:
    """Whether a reply says that another sidecar's gateway judges it."""
    return headers.get(JUDGED, "").partition(":")[0] in ("judged", "lagged")


def _prompt_tokens(reply: dict[str, Any]) -> int:
    usage = reply.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0

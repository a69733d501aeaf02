"""Whether the engine serves, how its plain replies look, and a few tokens by which its tap can prove itself."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
from starlette.datastructures import Headers

from monitor.gateway.asked import CHAT, COMPLETIONS
from monitor.gateway.judging import Engine
from monitor.gateway.upstream import Refused, read_all
from monitor.http import jsons, openai
from monitor.http.openai import OpenAIError
from monitor.pipeline.pipeline import Pipeline

log = logging.getLogger("barograph.gateway")

PROMPT = "The train to the coast leaves every hour from the second platform, and"
TOKENS = 8
SERVES = "ok"
SOON_S, LATER_S = 0.5, 5.0  # between two looks: while something is missing, and when all is well
RAREST_S = 30.0  # between trials that prove nothing
MAX_REPLY = 1 << 20


class Trial:
    """Looks at the engine for as long as the sidecar runs, and says in `Pipeline.engine_state` what it found.

    An engine that has just come up is asked two small things. Nobody is judged by them: they teach how its replies look when they are
    not streamed, and a tap that has not proved itself gets tokens to do it with. One that is wrapped is asked nothing: it may cost money,
    and the reader proves itself.
    """

    def __init__(self, engine: Engine, pipeline: Pipeline) -> None:
        self._engine = engine
        self._pipeline = pipeline
        self._wait = SOON_S
        self._next = 0.0

    async def watch(self) -> None:
        while True:
            await self.look()
            well = self._pipeline.engine_state == SERVES and not self._pipeline.unproved
            await asyncio.sleep(LATER_S if well else SOON_S)

    async def look(self) -> None:
        """One look. Never raises for anything that an engine does."""
        pipeline, now = self._pipeline, asyncio.get_running_loop().time()
        before = pipeline.engine_state
        try:
            state = await self._health()
            fresh = before != SERVES
            if state == SERVES and self._engine.reader is None and (fresh or (pipeline.unproved and now >= self._next)):
                state = await self._ask()
                self._wait = SOON_S if fresh else min(2 * self._wait, RAREST_S)
                self._next = now + self._wait
        except OpenAIError as error:
            state = str(error)
        except Refused as refused:
            state = f"the engine refuses a trial with status {refused.response.status_code}"
        if state != before:
            log.log(logging.INFO if state == SERVES else logging.WARNING, "engine: %s", state)
        pipeline.engine_state = state

    async def _health(self) -> str:
        upstream = self._engine.upstream
        async with upstream.ask("GET", "/health", upstream.headers(Headers()), idle_s=LATER_S) as response:
            return SERVES if response.status < 500 else f"the engine says of its health: status {response.status}"

    async def _ask(self) -> str:
        """Learn the shapes of replies; on the way the tap sees tokens."""
        models = await self._json("GET", "/v1/models", None)
        names = [each.get("id") for each in models.get("data") or () if isinstance(each, dict)]
        if not names:
            return "the engine lists no model"
        asked: dict[str, Any] = {"model": names[0], "max_tokens": TOKENS, "temperature": 0}
        self._learn(COMPLETIONS, await self._json("POST", COMPLETIONS, {**asked, "prompt": PROMPT}))
        try:
            self._learn(CHAT, await self._json("POST", CHAT, {**asked, "max_tokens": 1, "messages": [{"role": "user", "content": PROMPT}]}))
        except Refused:
            pass  # a model without a chat template
        return SERVES

    def _learn(self, route: str, reply: dict[str, Any]) -> None:
        self._engine.shapes[route] = reply
        if reply.get("system_fingerprint") is not None:
            self._engine.facts["system_fingerprint"] = reply["system_fingerprint"]

    async def _json(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """What the engine answers. Raises OpenAIError, or Refused for a status of its own."""
        upstream, streams = self._engine.upstream, self._pipeline.streams
        ticket = streams.expect(f"trial-{openai.new_request_id()}", trial=True)
        headers = {**upstream.headers(Headers(), ticket.request), "content-type": "application/json"}
        raw = None if body is None else jsons.encode(body)
        try:
            async with upstream.ask(method, path, headers, raw, idle_s=upstream.config.upstream_idle_s) as response:
                if response.status != 200:
                    raise await upstream.refusal(response, path)
                reply = jsons.decode(await read_all(response, MAX_REPLY))
        except (ValueError, aiohttp.ClientError, ConnectionError, TimeoutError):
            reply = None
        finally:
            streams.forget(ticket)
        if not isinstance(reply, dict):
            raise OpenAIError(502, f"{method} {path} of the engine gave no JSON object")
        return reply

"""The engine process of a sidecar that wraps somebody else's model: reads what that model says. Only the gateway asks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor import wire
from monitor.engine.reading import ReadingError, Readings
from monitor.engine.trial import PROMPT, states_of
from monitor.http import openai
from monitor.http.openai import OpenAIError
from monitor.tap.check import TWO_RUNS, judge

TRIAL = "trial-of-the-reader"
SAID = " the last one goes at nine in the evening."


class ReadingServer:
    """The routes: `/begin`, `/read` and `/end` a reply. `app` is the ASGI application."""

    def __init__(self, readings: Readings, max_body: int) -> None:
        self.readings = readings
        self.max_body = max_body
        self.app = Starlette(
            routes=[
                Route("/begin", self._guard(self.begin), methods=["POST"]),
                Route("/read", self._guard(self.read), methods=["POST"]),
                Route("/end", self._guard(self.end), methods=["POST"]),
                Route("/health", self.health),
            ],
            lifespan=self._lifespan,
        )

    async def begin(self, payload: dict[str, Any]) -> dict[str, Any]:
        """`turns`: the conversation as chat messages of plain text, or `prompt`; `index`: the choice."""
        await asyncio.to_thread(self.readings.begin, str(payload["request"]), int(payload["index"]), self._prompt(payload))
        return {}

    async def read(self, payload: dict[str, Any]) -> dict[str, Any]:
        return {"tokens": await asyncio.to_thread(self.readings.read, str(payload["request"]), int(payload["index"]), str(payload["text"]))}

    async def end(self, payload: dict[str, Any]) -> dict[str, Any]:
        await asyncio.to_thread(self.readings.end, str(payload["request"]))
        return {}

    async def health(self, request: Request) -> Response:
        tap = self.readings.tap
        return JSONResponse(
            {"status": "ok", "model": self.readings.model.name, "tap": tap.failed or "ok", "reading": len(self.readings.texts)}
        )

    def _prompt(self, payload: dict[str, Any]) -> list[int]:
        tokenizer, turns = self.readings.model.tokenizer, payload.get("turns")
        if turns and tokenizer.chat_template:
            try:
                return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False))
            except Exception:  # a template that refuses such a conversation: it is read as plain text
                pass
        text = str(payload.get("prompt") or "\n\n".join(str(turn["content"]) for turn in turns or ()))
        ids = list(tokenizer(text)["input_ids"])
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        return ids or [first]

    async def prove(self) -> None:
        """A short text is read, and its scores recomputed from what transformers itself says of the layers."""
        readings = self.readings
        prompt = list(readings.model.tokenizer(PROMPT)["input_ids"])
        with readings.tap.aside() as seen:
            await asyncio.to_thread(readings.begin, TRIAL, 0, prompt)
            await asyncio.to_thread(readings.read, TRIAL, 0, SAID[:12])
            count = await asyncio.to_thread(readings.read, TRIAL, 0, SAID[12:])
            await asyncio.to_thread(readings.end, TRIAL)
        tokens = [id_ for piece in (SAID[:12], SAID[12:]) for id_ in readings.model.tokenizer(piece, add_special_tokens=False)["input_ids"]]
        if readings.tap.failed or sorted(position for _, position in seen.rows) != list(range(count)):
            readings.tap.prove(wire.Check(False, 0, 0.0, readings.tap.failed or f"{count} tokens have {len(seen.rows)} scores"))
            return
        scores = np.stack([row for _, row in sorted(seen.rows.items())])
        states = await asyncio.to_thread(states_of, readings.model, readings.tap.bank, prompt, tokens)
        readings.tap.prove(judge(readings.tap.bank, scores, states, TWO_RUNS[str(readings.model.module.dtype).removeprefix("torch.")]))

    def _guard(self, handler: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                return JSONResponse(await handler(await openai.read_json(request, self.max_body)))
            except OpenAIError as error:
                return error.response()
            except ReadingError as error:
                return JSONResponse({"error": str(error)}, 409)
            except (KeyError, ValueError, TypeError) as error:
                return JSONResponse({"error": f"{type(error).__name__}: {error}; expected request, index, and turns, prompt or text"}, 400)

        return guarded

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self.prove()
        self.readings.tap.sender.start()
        try:
            yield
        finally:
            self.readings.tap.close()

"""One request on its way through the gateway: chunks come from the engine, and leave when their tokens are judged."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import numpy as np

from monitor.gateway.hold import Failure, Hold, Release, Stop
from monitor.http.openai import OpenAIError, unavailable
from monitor.pipeline.streams import StreamTable, Ticket

MAX_EVENT = 1 << 20


class Relay:
    """Yields the chunks that the client may see. Leaving `chunks` early ends the request at the engine too."""

    def __init__(
        self,
        upstream: aiohttp.ClientResponse,
        hold: Hold,
        streams: StreamTable,
        ticket: Ticket,
        names: tuple[str, ...],
        scores: bool,
        usage: bool,
    ) -> None:
        self._upstream = upstream
        self._hold = hold
        self._streams = streams
        self._ticket = ticket
        self._names = names
        self._scores = scores
        self._usage = usage
        self._counts: dict[int, int] = {}
        self._open: set[int] = set()
        self._done: set[int] = set()

    async def chunks(self) -> AsyncGenerator[dict[str, Any]]:
        """Chunks in the order in which the engine sent them. Raises OpenAIError when the engine or the hold fails."""
        try:
            async for chunk in self._events():
                if "error" in chunk:
                    raise OpenAIError(
                        502, str(chunk["error"].get("message", "the engine failed")), kind="server_error", code="upstream_error"
                    )
                usage = chunk.pop("usage", None)
                if not chunk.get("choices"):
                    if usage is not None and self._usage:
                        yield {**chunk, "usage": self._total(usage)}
                    continue
                released = await self._judge(chunk, usage)
                if released is not None:
                    yield released
                if self._open and not self._open - self._done:
                    # Every choice was halted: stop the engine, and tell the client what it had until then.
                    if self._usage and usage is not None:
                        yield {**_head(chunk), "choices": [], "usage": self._total(usage)}
                    return
        finally:
            self._upstream.close()

    async def _judge(self, chunk: dict[str, Any], usage: dict[str, Any] | None) -> dict[str, Any] | None:
        part = chunk["choices"][0]
        index = part["index"]
        if len(chunk["choices"]) != 1 or usage is None:
            raise OpenAIError(
                502,
                "the engine sends chunks without token counts; expected an engine that supports stream_options.continuous_usage_stats",
                kind="server_error",
                code="upstream_unsupported",
            )
        if index in self._done:
            return None
        first, end = self._counts.get(index, 0), int(usage["completion_tokens"])
        self._open.add(index)
        match await self._hold.outcome(index, end) if end > first else Release():
            case Stop(verdict):
                self._done.add(index)
                self._counts[index] = verdict.position
                message = verdict.rule.do.halt.message if verdict.rule.do.halt else ""
                fired = {"rule": verdict.rule.rule, "action": "halt", "mode": "armed", "position": verdict.position}
                return {**_head(chunk), "choices": [_ending(part, message)], "barograph": {"verdicts": [fired]}}
            case Failure(condition, why):
                raise unavailable(f"this reply was stopped because it could not be judged ({condition}: {why})", condition)
        self._counts[index] = end
        if part.get("finish_reason"):
            self._open.discard(index)
        if self._scores and end > first:
            chunk["barograph"] = self._extension(index, first, end)
        return chunk

    def _extension(self, index: int, first: int, end: int) -> dict[str, Any]:
        stream = self._ticket.streams.get(index)
        if stream is None:
            return {}
        recent = self._streams.recent(stream.slot, first, end)
        scores = {name: [round(float(x), 3) if np.isfinite(x) else None for x in recent[:, i]] for i, name in enumerate(self._names)}
        fired = [
            {
                "rule": verdict.rule.rule,
                "action": verdict.action.name.lower(),
                "mode": verdict.mode,
                "position": verdict.position,
            }
            for verdict in stream.verdicts
            if first <= verdict.position < end and not verdict.ended
        ]
        return {"position": end - len(recent), "scores": scores, "verdicts": fired}

    def _total(self, usage: dict[str, Any]) -> dict[str, Any]:
        produced = sum(self._counts.values())
        prompt = int(usage.get("prompt_tokens", 0))
        return {"prompt_tokens": prompt, "completion_tokens": produced, "total_tokens": prompt + produced}

    async def _events(self) -> AsyncGenerator[dict[str, Any]]:
        buffer = b""
        try:
            async for data in self._upstream.content.iter_any():
                buffer += data
                *events, buffer = buffer.split(b"\n\n")
                if len(buffer) > MAX_EVENT:
                    raise OpenAIError(
                        502, f"the engine sent an event of more than {MAX_EVENT} bytes", kind="server_error", code="upstream_error"
                    )
                for event in events:
                    payload = event.removeprefix(b"data:").strip()
                    if payload == b"[DONE]":
                        return
                    if event.startswith(b"data:"):
                        yield json.loads(payload)
        except (aiohttp.ClientError, ValueError) as error:
            raise OpenAIError(502, f"the engine broke off ({type(error).__name__})", kind="server_error", code="upstream_error") from None
        raise OpenAIError(502, "the engine closed the stream before its end", kind="server_error", code="upstream_error")


def _head(chunk: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in chunk.items() if key not in ("choices", "usage")}


def _ending(part: dict[str, Any], message: str) -> dict[str, Any]:
    body = {"delta": {"content": message}} if "delta" in part else {"text": message}
    return {"index": part["index"], **body, "logprobs": None, "finish_reason": "content_filter"}

"""Wrapping a model that has no tap: its text is read by a small model of ours on the way, so that rules have something to judge."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from monitor.gateway.asked import CHAT, COMPLETIONS, Asked
from monitor.gateway.relay import Chunk, chunk_of
from monitor.http import jsons
from monitor.http.near import host
from monitor.http.openai import OpenAIError, event, unavailable
from monitor.http.sse import EventParser

READ_S = 60.0  # a reader that takes longer for one piece has failed
_TEXTS = ("content", "reasoning", "reasoning_content", "refusal")


class Reader:
    """The engine process as the one that reads. Its address is the configuration's."""

    def __init__(self, address: tuple[str, int] | Path) -> None:
        self._unix = str(address) if isinstance(address, Path) else None
        self._base = "http://reader" if self._unix else f"http://{host(address)}"
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def started(self) -> AsyncIterator[None]:
        connector = aiohttp.UnixConnector(self._unix, limit=0) if self._unix else aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=READ_S)) as self._session:
            yield
        self._session = None

    async def ask(self, what: str, **said: Any) -> dict[str, Any]:
        """Raises OpenAIError when it does not answer, or cannot read that."""
        if self._session is None:
            raise unavailable("the gateway is starting or stopping; send the request again", "stopping")
        try:
            async with self._session.post(
                f"{self._base}/{what}", data=jsons.encode(said), headers={"content-type": "application/json"}
            ) as answer:
                found = await answer.json()
        except (aiohttp.ClientError, ConnectionError, TimeoutError, ValueError) as error:
            raise unavailable(
                f"the reader does not answer ({type(error).__name__}), so this reply could not be judged", "no_reader"
            ) from None
        if answer.status != 200 or not isinstance(found, dict):
            why = found.get("error", "") if isinstance(found, dict) else ""
            raise unavailable(f"the reader cannot read this reply: {str(why)[:200]}", "unreadable")
        return found


class Wrapped:
    """One reply of a wrapped model: its chunks with the counts of our reader, which scores their text meanwhile."""

    def __init__(self, reader: Reader, asked: Asked, request: str) -> None:
        self._reader = reader
        self._asked = asked
        self._request = request
        self._counts: dict[int, int] = {}

    async def packets(self, packets: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """The event stream, one choice a chunk, each chunk with the tokens that the choice has in the reader's count."""
        parser = EventParser()
        try:
            async for packet in packets:
                for each in parser.feed(packet):
                    if each.data == b"[DONE]":
                        yield b"data: [DONE]\n\n"
                    elif each.data:
                        for chunk in await self._counted(chunk_of(each.data)):
                            yield event(chunk)
        finally:
            if self._counts:
                with contextlib.suppress(OpenAIError):  # it forgets what it hears nothing more of
                    await self._reader.ask("end", request=self._request)

    async def _counted(self, chunk: Chunk) -> list[Chunk]:
        parts = chunk.get("choices")
        if not isinstance(parts, list) or not parts:
            return [chunk]
        made = []
        for part in parts:
            index = part.get("index") if isinstance(part, dict) else None
            if not isinstance(index, int):
                return [chunk]  # the relay says what is wrong with it
            text = _text(part)
            if index not in self._counts and len(self._counts) < (self._asked.choices or 1):
                await self._reader.ask("begin", request=self._request, index=index, **_conversation(self._asked))
                self._counts[index] = 0
            if text and index in self._counts:
                self._counts[index] = (await self._reader.ask("read", request=self._request, index=index, text=text))["tokens"]
            usage = {"completion_tokens": self._counts.get(index, 0)}
            made.append({**chunk, "choices": [part], "usage": usage})
        return made


def _text(part: Chunk) -> str:
    """All that was generated of a part: text of any kind, names and arguments of calls."""
    delta = part.get("delta")
    if not isinstance(delta, dict):
        return str(part.get("text") or "")
    found = [str(delta[name]) for name in _TEXTS if delta.get(name)]
    for call in delta.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            found += [str(function[name]) for name in ("name", "arguments") if function.get(name)]
    return "".join(found)


def _conversation(asked: Asked) -> dict[str, Any]:
    """What the reader is told of the request: plain text of its turns."""
    if asked.route == COMPLETIONS:
        prompt = asked.payload.get("prompt")
        return {"prompt": prompt if isinstance(prompt, str) else ""}
    turns = []
    for message in asked.payload.get("messages") or ():
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
        role = message.get("role") if message.get("role") in ("system", "user", "assistant") else "user"
        turns.append({"role": role, "content": str(content or "")})
    return {"turns": turns}


def followed(asked: Asked) -> Asked:
    """The request as its reply can be read while it comes: as a stream, whatever the client wants. Raises OpenAIError where it cannot."""
    if asked.way != "whole":
        return asked
    if asked.route not in (CHAT, COMPLETIONS) or asked.echo or asked.payload.get("prompt_logprobs") is not None:
        raise OpenAIError(
            400, f"{asked.route} cannot be judged like that in front of a wrapped model; expected chat completions, or completions without echo",
            code="route_not_judged",
        )  # fmt: skip
    return replace(asked, way="assembled")

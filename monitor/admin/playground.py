"""A chat from the page to the gateway's own listener, which judges it like any other. The gateway itself opens to no page."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
from starlette.requests import Request
from starlette.responses import Response

from monitor.errors import ConfigError
from monitor.gateway.gateway import Gateway
from monitor.gateway.judging import SCORES_HEADER
from monitor.http import jsons, openai
from monitor.http.near import Near
from monitor.http.openai import OpenAIError, bad, overloaded
from monitor.http.responses import EventStream

MAX_BODY = 64 << 10
MAX_MESSAGES = 64
MAX_TOKENS = 1024
MAX_CHATS = 4  # at one time
MAX_REPLY = 4 << 20  # bytes
MAX_NAMES = 1 << 20
SECONDS = 300.0


class Playground:
    """Sends what a page may send, and nothing else: messages, a number of tokens, a temperature."""

    def __init__(self, gateway: Gateway) -> None:
        self._config = gateway.config
        self._running = 0

    async def chat(self, request: Request) -> Response:
        """Who may ask is the guard's business (guard.py)."""
        try:
            asked = _asked(await openai.read_json(request, MAX_BODY))
        except OpenAIError as error:
            return error.response(error.headers)
        if self._running >= MAX_CHATS:
            busy = _busy()
            return busy.response(busy.headers)
        return EventStream(self._events(asked))

    async def _events(self, asked: dict[str, Any]) -> AsyncGenerator[bytes]:
        if self._running >= MAX_CHATS:  # others began while this one was on its way
            yield openai.event(_busy().body)
            return
        self._running += 1
        try:
            near = self._config.near  # anew for each chat: it expects the certificate that is in the file now
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS, connect=5)) as session:
                asked["model"] = await self._model(session, near)
                async with session.post(
                    near.url("/v1/chat/completions"), json=asked, headers={SCORES_HEADER: "1"}, ssl=near.trust
                ) as response:
                    if response.status != 200:
                        yield _failed(await response.content.read(MAX_BODY), response.status)
                        return
                    size = 0
                    async for packet in response.content.iter_any():
                        size += len(packet)
                        if size > MAX_REPLY:
                            yield openai.event({"error": {"message": f"the reply is longer than {MAX_REPLY} bytes"}})
                            return
                        yield packet
        except (aiohttp.ClientError, ConnectionError, TimeoutError, ConfigError) as error:
            yield openai.event({"error": {"message": f"the gateway did not answer ({type(error).__name__}); look at /health"}})
        finally:
            self._running -= 1

    async def _model(self, session: aiohttp.ClientSession, near: Near) -> str:
        """The engine's first model. Where it names none, the gateway says what is wrong with the chat."""
        async with session.get(near.url("/v1/models"), ssl=near.trust) as response:
            said = await response.content.read(MAX_NAMES)
        try:
            return str(jsons.decode(said)["data"][0]["id"])
        except (ValueError, KeyError, IndexError, TypeError):
            return ""


def _busy() -> OpenAIError:
    return overloaded(f"{MAX_CHATS} chats of pages are running")


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """The body for the gateway. Raises OpenAIError for what a page does not send."""
    messages = given.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES or not all(map(_is_message, messages)):
        raise bad(f'expected messages: 1 to {MAX_MESSAGES} of {{"role": system, user or assistant, "content": TEXT}}', "messages")
    tokens, temperature = given.get("max_tokens", 128), given.get("temperature", 0.7)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens <= MAX_TOKENS:
        raise bad(f"expected max_tokens from 1 to {MAX_TOKENS}", "max_tokens")
    if not isinstance(temperature, int | float) or isinstance(temperature, bool) or not 0 <= temperature <= 2:
        raise bad("expected a temperature from 0 to 2", "temperature")
    return {"messages": messages, "max_tokens": tokens, "temperature": temperature, "stream": True}


def _is_message(each: Any) -> bool:
    return (
        isinstance(each, dict)
        and each.keys() == {"role", "content"}
        and each["role"] in ("system", "user", "assistant")
        and isinstance(each["content"], str)
    )


def _failed(said: bytes, status: int) -> bytes:
    try:
        error = jsons.decode(said)["error"]
        message = str(error["message"] if isinstance(error, dict) else error)[:1000]
    except (ValueError, KeyError, TypeError):
        message = "no reason given"
    return openai.event({"error": {"message": message, "status": status}})

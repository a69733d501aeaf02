"""The embedded engine: an OpenAI-compatible server on transformers, with the tap inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monitor.engine.answer import Answer
from monitor.engine.batcher import Batcher
from monitor.engine.generation import Choice, Generation, Reading
from monitor.engine.loading import LoadedModel
from monitor.engine.protocol import ChatRequest, CompletionRequest, Generate, parse
from monitor.engine.sampler import Logprobs, Sampling
from monitor.engine.tools import understood
from monitor.engine.trial import prove
from monitor.engine.vocabulary import Vocabulary
from monitor.http import openai
from monitor.http.openai import OpenAIError, bad
from monitor.http.responses import EventStream, unless_gone
from monitor.tap.tap import Tap

Handler = Callable[[Request], Awaitable[Response]]


class EngineServer:
    """The routes. `app` is the ASGI application; its lifespan starts and stops the batcher and the tap."""

    def __init__(self, model: LoadedModel, batcher: Batcher, tap: Tap | None, max_body: int) -> None:
        self.model = model
        self.batcher = batcher
        self.tap = tap
        self.max_body = max_body
        self.context = model.context
        self.requests: set[str] = set()
        self._vocabulary = Vocabulary(model.tokenizer)
        self.app = Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.one_model),
                Route("/v1/chat/completions", self._guard(self.chat), methods=["POST"]),
                Route("/v1/completions", self._guard(self.completions), methods=["POST"]),
                Route("/health", self.health),
            ],
            exception_handlers={HTTPException: openai.http_error},
            lifespan=self._lifespan,
        )

    async def models(self, request: Request) -> Response:
        return openai.json_response({"object": "list", "data": [self._card()]})

    async def one_model(self, request: Request) -> Response:
        if request.path_params["name"] != self.model.name:
            return self._no_model(request.path_params["name"]).response()
        return openai.json_response(self._card())

    async def health(self, request: Request) -> Response:
        if not self.batcher.alive:
            return openai.unavailable("the model loop has stopped; restart the engine", "engine_stopped").response()
        tap = self.tap
        state = (
            "off"
            if tap is None
            else f"failed: {tap.failed}"
            if tap.failed
            else "connected"
            if tap.sender.connected
            else "waiting for the sidecar"
        )
        return openai.json_response(
            {
                "status": "ok",
                "model": self.model.name,
                "tap": state,
                "proof": {"ok": tap.check.ok, "tokens": tap.check.tokens, "worst": tap.check.worst} if tap and tap.check else None,
                "dropped_frames": tap.sender.dropped if tap else 0,
                "running": len(self.batcher.live),
            }
        )

    async def chat(self, request: Request, payload: dict[str, Any]) -> Response:
        asked = parse(ChatRequest, payload, self.batcher.max_streams)
        self._know(asked.model)
        prompt = await asyncio.to_thread(self._chat_prompt, asked)
        reading = Reading(asked.stop, frozenset(tool.function.name for tool in asked.callable), asked.parallel_tool_calls)
        return await self._answer(request, asked, [(prompt, "")], reading, default_limit=None)

    async def completions(self, request: Request, payload: dict[str, Any]) -> Response:
        asked = parse(CompletionRequest, payload, self.batcher.max_streams)
        self._know(asked.model)
        prompts = await asyncio.to_thread(lambda: [self._plain_prompt(prompt, asked.echo) for prompt in asked.prompts()])
        return await self._answer(request, asked, prompts, Reading(asked.stop), default_limit=16)

    async def _answer(
        self, request: Request, asked: Generate, prompts: list[tuple[list[int], str]], reading: Reading, default_limit: int | None
    ) -> Response:
        choices, limit = self._plan(asked, prompts, default_limit)
        name = request.headers.get(openai.REQUEST_ID_HEADER) or openai.new_request_id()
        if not openai.valid_request_id(name):
            raise bad(f"header '{openai.REQUEST_ID_HEADER}' must be 1 to 64 of A-Z a-z 0-9 _ -", openai.REQUEST_ID_HEADER)
        if name in self.requests:
            raise bad(f"a request with this '{openai.REQUEST_ID_HEADER}' is running; expected a new one", openai.REQUEST_ID_HEADER)
        generation = Generation(self.model, self.batcher, self.tap, name, choices, limit, reading)
        answer = Answer(name, self.model.name, self._vocabulary, asked)
        headers = {openai.REQUEST_ID_HEADER: name}
        if asked.stream:
            return EventStream(self._reserve(name, answer.stream(generation)), headers)
        return await unless_gone(request, self._whole(name, answer, generation, headers))

    async def _reserve(self, name: str, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        self.requests.add(name)
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        finally:
            self.requests.discard(name)

    async def _whole(self, name: str, answer: Answer, generation: Generation, headers: dict[str, str]) -> Response:
        self.requests.add(name)
        try:
            return openai.json_response(await answer.whole(generation), headers)
        finally:
            self.requests.discard(name)

    def _plan(self, asked: Generate, prompts: list[tuple[list[int], str]], default_limit: int | None) -> tuple[list[Choice], int]:
        longest = max(len(prompt) for prompt, _ in prompts)
        room = self.context - longest
        if room < (asked.limit or 1):
            raise bad(
                f"the prompt has {longest} tokens and asks for {asked.limit or 1} more; this model's context is {self.context} tokens",
                "messages",
                "context_length_exceeded",
            )
        n = asked.n or 1
        choices = []
        for index in range(n * len(prompts)):
            # With a seed, the choices of one prompt must still differ from each other.
            seed = None if asked.seed is None else asked.seed + index % n
            logprobs = None if asked.top is None else Logprobs(asked.top)
            sampling = Sampling(1.0 if asked.temperature is None else asked.temperature, asked.top_p or 1.0, seed, logprobs)
            choices.append(Choice(index, prompts[index // n][0], sampling, prompts[index // n][1]))
        return choices, min(room, asked.limit or default_limit or room)

    def _chat_prompt(self, asked: ChatRequest) -> list[int]:
        tokenizer = self.model.tokenizer
        if not tokenizer.chat_template:
            raise bad(f"model '{self.model.name}' has no chat template; use /v1/completions", "messages")
        tools = [tool.plain() for tool in asked.callable]
        about = "tools" if tools else "messages" if any(message.about_tools for message in asked.messages) else None
        if about is not None and not understood(tokenizer.get_chat_template(tools=tools or [{}])):
            raise bad(
                f"model '{self.model.name}' calls no tools: its chat template does not write them in the form of Hermes and Qwen "
                "(<tool_call>{json}</tool_call>), the one that is supported",
                about,
                "unsupported_parameter",
            )
        try:
            ids = tokenizer.apply_chat_template(
                [message.plain() for message in asked.messages], tools=tools or None, add_generation_prompt=asked.add_generation_prompt,
                continue_final_message=asked.continue_final_message, return_dict=False,
            )  # fmt: skip
        except jinja2.TemplateError as error:
            raise bad(f"this model's chat template refuses the messages: {error}", "messages") from None
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise bad(f"this model's chat template fails on the messages ({type(error).__name__}: {error})"[:300], "messages") from None
        return list(ids)

    def _plain_prompt(self, prompt: str | list[int], echo: bool) -> tuple[list[int], str]:
        """Tokens, and what is to be echoed of them."""
        if isinstance(prompt, str):
            ids = list(self.model.tokenizer(prompt)["input_ids"])
            if not ids:
                raise bad("'prompt' is empty; expected at least one token", "prompt")
            return ids, prompt if echo else ""
        vocabulary = len(self.model.tokenizer)
        if max(prompt) >= vocabulary:
            raise bad(f"'prompt' holds token {max(prompt)}; this model has tokens 0 to {vocabulary - 1}", "prompt")
        return prompt, self.model.tokenizer.decode(prompt) if echo else ""

    def _know(self, model: str) -> None:
        if model != self.model.name:
            raise self._no_model(model)

    def _guard(self, handler: Callable[[Request, dict[str, Any]], Awaitable[Response]]) -> Handler:
        async def guarded(request: Request) -> Response:
            try:
                return await handler(request, await openai.read_json(request, self.max_body))
            except OpenAIError as error:
                return error.response()

        return guarded

    def _no_model(self, name: str) -> OpenAIError:
        return OpenAIError(
            404, f"model '{name[:200]}' does not exist; this engine serves '{self.model.name}'", param="model", code="model_not_found"
        )

    def _card(self) -> dict[str, Any]:
        return {"id": self.model.name, "object": "model", "created": 0, "owned_by": "barograph", "max_model_len": self.context}

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.batcher.start()
        try:
            if self.tap is not None:
                await prove(self.model, self.batcher, self.tap)  # before anybody is served, and before the sidecar hears of this tap
                self.tap.sender.start()
            yield
        finally:
            await asyncio.to_thread(self.batcher.stop)
            if self.tap is not None:
                self.tap.close()

"""One request's generations: n choices for each prompt, all in the same batch, as a stream of pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from monitor.engine.batcher import Batcher
from monitor.engine.loading import LoadedModel
from monitor.engine.sampler import Logprob, Sampling
from monitor.engine.text import TextStream
from monitor.engine.tools import Delta, ToolStream
from monitor.http.openai import OpenAIError
from monitor.tap.tap import Tap


@dataclass(frozen=True)
class Piece:
    """What one token added to one choice. `tokens` counts all that the choice has produced up to here.

    An echo of the prompt is a piece of its own, without a token.
    """

    index: int
    text: str
    tokens: int
    finish: str | None = None
    calls: list[Delta] = field(default_factory=list)
    token: int | None = None
    logprob: Logprob | None = None


@dataclass(frozen=True)
class Choice:
    """One generation to run."""

    index: int
    prompt: list[int]
    sampling: Sampling
    echo: str = ""


@dataclass(frozen=True)
class Reading:
    """How tokens become what the client gets. `tools`: names of those that may be called."""

    stops: list[str] = field(default_factory=list)
    tools: frozenset[str] = frozenset()
    parallel: bool = True


class Generation:
    """Runs the choices of one request. Leaving `pieces` early cancels them all."""

    def __init__(
        self, model: LoadedModel, batcher: Batcher, tap: Tap | None, request: str, choices: list[Choice], limit: int, reading: Reading
    ) -> None:
        self._model = model
        self._batcher = batcher
        self._tap = tap
        self._request = request
        self.choices = choices
        self._limit = limit
        self._reading = reading

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Pieces of all choices as they come. Raises OpenAIError when one of them fails."""
        queue: asyncio.Queue[Piece | OpenAIError] = asyncio.Queue()
        tasks = [asyncio.create_task(self._run(choice, queue)) for choice in self.choices]
        try:
            running = len(tasks)
            while running:
                piece = await queue.get()
                if isinstance(piece, OpenAIError):
                    raise piece
                running -= piece.finish is not None
                yield piece
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, choice: Choice, queue: asyncio.Queue[Piece | OpenAIError]) -> None:
        key = f"{self._request}#{choice.index}"
        read = _Read(self._model, self._reading)
        tokens = 0
        if self._tap is not None:
            self._tap.begin(key, self._request, choice.index)
        if choice.echo:
            queue.put_nowait(Piece(choice.index, choice.echo, 0))
        try:
            async with aclosing(self._batcher.generate(key, choice.prompt, self._limit, choice.sampling)) as produced:
                async for token in produced:
                    told = choice.sampling.logprobs.found.pop(tokens, None) if choice.sampling.logprobs is not None else None
                    tokens += 1
                    text, calls = read.push(token)
                    finish = "stop" if read.over or self._batcher.is_eos(token) else "length" if tokens == self._limit else None
                    if finish:
                        rest, more = read.finish()
                        text, calls = text + rest, calls + more
                        finish = "tool_calls" if finish == "stop" and read.called else finish
                    queue.put_nowait(Piece(choice.index, text, tokens, finish, calls, token, told))
                    if finish:
                        break
        except OpenAIError as error:
            queue.put_nowait(error)
        finally:
            if self._tap is not None:
                self._tap.end(key, tokens)


class _Read:
    """One choice's tokens as text and calls."""

    def __init__(self, model: LoadedModel, reading: Reading) -> None:
        self._text = TextStream(model.tokenizer._tokenizer, reading.stops)
        self._tools = ToolStream(reading.tools, reading.parallel) if reading.tools else None

    @property
    def over(self) -> bool:
        return self._text.stopped or (self._tools is not None and self._tools.full)

    @property
    def called(self) -> bool:
        return self._tools is not None and self._tools.calls > 0

    def push(self, token: int) -> tuple[str, list[Delta]]:
        text = self._text.push(token)
        return (text, []) if self._tools is None else self._tools.push(text)

    def finish(self) -> tuple[str, list[Delta]]:
        """What was held back."""
        if self._tools is None:
            return self._text.finish(), []
        if self._tools.full:
            return "", []
        text, calls = self._tools.push(self._text.finish())
        return text + self._tools.finish(), calls

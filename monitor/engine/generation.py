"""One request's generations: n choices for each prompt, all in the same batch, as a stream of pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from monitor.engine.batcher import Batcher
from monitor.engine.loading import LoadedModel
from monitor.engine.sampler import Sampling
from monitor.engine.text import TextStream
from monitor.http.openai import OpenAIError
from monitor.tap.tap import Tap


@dataclass(frozen=True)
class Piece:
    """Text of one choice. `tokens` counts all that the choice has produced up to here."""

    index: int
    text: str
    tokens: int
    finish: str | None = None


@dataclass(frozen=True)
class Choice:
    """One generation to run."""

    index: int
    prompt: list[int]
    sampling: Sampling


class Generation:
    """Runs the choices of one request. Leaving `pieces` early cancels them all."""

    def __init__(
        self, model: LoadedModel, batcher: Batcher, tap: Tap | None, request: str, choices: list[Choice], limit: int, stops: list[str]
    ) -> None:
        self._model = model
        self._batcher = batcher
        self._tap = tap
        self._request = request
        self._choices = choices
        self._limit = limit
        self._stops = stops

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Pieces of all choices as they come. Raises OpenAIError when one of them fails."""
        queue: asyncio.Queue[Piece | OpenAIError] = asyncio.Queue()
        tasks = [asyncio.create_task(self._run(choice, queue)) for choice in self._choices]
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
        text = TextStream(self._model.tokenizer._tokenizer, self._stops)
        tokens = 0
        if self._tap is not None:
            self._tap.begin(key, self._request, choice.index)
        try:
            async with aclosing(self._batcher.generate(key, choice.prompt, self._limit, choice.sampling)) as produced:
                async for token in produced:
                    tokens += 1
                    ready = text.push(token)
                    finish = "stop" if text.stopped or self._batcher.is_eos(token) else "length" if tokens == self._limit else None
                    queue.put_nowait(Piece(choice.index, ready + text.finish() if finish else ready, tokens, finish))
                    if finish:
                        break
        except OpenAIError as error:
            queue.put_nowait(error)
        finally:
            if self._tap is not None:
                self._tap.end(key, tokens)

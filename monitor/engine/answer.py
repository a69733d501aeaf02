"""The shape of an answer: chat or completion, whole or as server-sent events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from monitor.engine.generation import Generation, Piece
from monitor.engine.protocol import Generate
from monitor.http import openai
from monitor.http.openai import OpenAIError


class Answer:
    """One request's answer."""

    def __init__(self, chat: bool, request: str, model: str, prompt_tokens: int, asked: Generate) -> None:
        self.chat = chat
        self.prompt_tokens = prompt_tokens
        self.asked = asked
        kind = "chat.completion" if chat else "text_completion"
        self._head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{request}", "object": kind, "created": int(time.time()), "model": model}

    async def stream(self, generation: Generation) -> AsyncGenerator[bytes]:
        """Server-sent events. An error after the first one is sent as an event, since the status is gone."""
        options = self.asked.stream_options
        each, last = (options.continuous_usage_stats, options.include_usage) if options else (False, False)
        head = self._head | {"object": "chat.completion.chunk"} if self.chat else self._head
        counts: dict[int, int] = {}
        try:
            async with aclosing(generation.pieces()) as pieces:
                async for piece in pieces:
                    chunk: dict[str, Any] = head | {"choices": [self._chunk(piece, first=piece.index not in counts)]}
                    counts[piece.index] = piece.tokens
                    if each:
                        chunk["usage"] = self._usage(piece.tokens)
                    # Half a character or held-back text makes no chunk of its own, unless the client counts tokens.
                    if piece.text or piece.finish or each:
                        yield openai.event(chunk)
        except OpenAIError as error:
            yield error.event()
            return
        if last:
            yield openai.event(head | {"choices": [], "usage": self._usage(sum(counts.values()))})
        yield openai.DONE

    async def whole(self, generation: Generation) -> dict[str, Any]:
        texts: dict[int, str] = {}
        ends: dict[int, Piece] = {}
        async with aclosing(generation.pieces()) as pieces:
            async for piece in pieces:
                texts[piece.index] = texts.get(piece.index, "") + piece.text
                if piece.finish:
                    ends[piece.index] = piece
        choices = []
        for index, end in sorted(ends.items()):
            content = {"message": {"role": "assistant", "content": texts[index]}} if self.chat else {"text": texts[index]}
            choices.append({"index": index, **content, "logprobs": None, "finish_reason": end.finish})
        return self._head | {"choices": choices, "usage": self._usage(sum(end.tokens for end in ends.values()))}

    def _chunk(self, piece: Piece, first: bool) -> dict[str, Any]:
        if not self.chat:
            return {"index": piece.index, "text": piece.text, "logprobs": None, "finish_reason": piece.finish}
        delta = {"role": "assistant", "content": piece.text} if first else {"content": piece.text}
        return {"index": piece.index, "delta": delta, "logprobs": None, "finish_reason": piece.finish}

    def _usage(self, produced: int) -> dict[str, int]:
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": produced, "total_tokens": self.prompt_tokens + produced}

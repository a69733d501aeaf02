"""The shape of an answer: chat or completion, whole or as server-sent events. Both are made of the same parts."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from monitor.engine.generation import Generation, Piece
from monitor.engine.protocol import ChatRequest, Generate
from monitor.engine.sampler import Logprob
from monitor.engine.tools import Delta
from monitor.engine.vocabulary import Vocabulary
from monitor.http import openai
from monitor.http.openai import OpenAIError

LEAST = -9999.0  # stands for a probability of zero, which JSON has no logarithm for


@dataclass
class _Part:
    """What pieces of one choice hold together: one chunk's, or the whole answer's."""

    text: str = ""
    calls: dict[int, Delta] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    count: int = 0
    finish: str | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.count, self.finish = piece.tokens, piece.finish
        if piece.token is not None:
            self.tokens.append(piece.token)
        if piece.logprob is not None:
            self.logprobs.append(piece.logprob)
        for call in piece.calls:
            if call["index"] in self.calls:
                self.calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
            else:
                self.calls[call["index"]] = {**call, "function": dict(call["function"])}


class Answer:
    """One request's answer."""

    def __init__(self, request: str, model: str, vocabulary: Vocabulary, asked: Generate) -> None:
        self.asked = asked
        self.chat = isinstance(asked, ChatRequest)
        self._calls = isinstance(asked, ChatRequest) and bool(asked.callable)
        self._vocabulary = vocabulary
        kind = "chat.completion" if self.chat else "text_completion"
        self._head = {"id": f"{'chatcmpl' if self.chat else 'cmpl'}-{request}", "object": kind, "created": int(time.time()), "model": model}
        self._offsets: dict[int, int] = {}

    async def stream(self, generation: Generation) -> AsyncGenerator[bytes]:
        """Server-sent events. An error after the first one is sent as an event, since the status is gone."""
        options = self.asked.stream_options
        each, last = (options.continuous_usage_stats, options.include_usage) if options else (False, False)
        head = self._head | {"object": "chat.completion.chunk"} if self.chat else self._head
        begun: set[int] = set()
        counts: dict[int, int] = {}
        waiting: dict[int, _Part] = {}
        try:
            async with aclosing(generation.pieces()) as pieces:
                async for piece in pieces:
                    part = waiting.setdefault(piece.index, _Part())
                    part.add(piece)
                    counts[piece.index] = piece.tokens
                    # Half a character or held-back text makes no chunk of its own, unless the client counts tokens.
                    if not (part.text or part.calls or part.finish or each):
                        continue
                    first = piece.index not in begun
                    chunk: dict[str, Any] = head | {"choices": [self._chunk(generation, piece.index, waiting.pop(piece.index), first)]}
                    if first and self.chat and self.asked.return_token_ids:
                        chunk["prompt_token_ids"] = generation.choices[0].prompt
                    begun.add(piece.index)
                    if each:
                        chunk["usage"] = self._usage(generation, piece.tokens)
                    yield openai.event(chunk)
        except OpenAIError as error:
            yield error.event()
            return
        if last:
            yield openai.event(head | {"choices": [], "usage": self._usage(generation, sum(counts.values()))})
        yield openai.DONE

    async def whole(self, generation: Generation) -> dict[str, Any]:
        parts: dict[int, _Part] = {}
        async with aclosing(generation.pieces()) as pieces:
            async for piece in pieces:
                parts.setdefault(piece.index, _Part()).add(piece)
        answer: dict[str, Any] = self._head | {"choices": [self._choice(generation, index, part) for index, part in sorted(parts.items())]}
        if self.chat and self.asked.return_token_ids:
            answer["prompt_token_ids"] = generation.choices[0].prompt
        return answer | {"usage": self._usage(generation, sum(part.count for part in parts.values()))}

    def _choice(self, generation: Generation, index: int, part: _Part) -> dict[str, Any]:
        if not self.chat:
            return self._about(generation, index, part, first=True) | {"text": part.text}
        # Where calls are possible, a message without text has no content: so says a stream that never sent any.
        message: dict[str, Any] = {"role": "assistant", "content": part.text if part.text or not self._calls else None}
        if part.calls:
            message["tool_calls"] = [{name: each for name, each in call.items() if name != "index"} for call in part.calls.values()]
        return self._about(generation, index, part, first=True) | {"message": message}

    def _chunk(self, generation: Generation, index: int, part: _Part, first: bool) -> dict[str, Any]:
        if not self.chat:
            return self._about(generation, index, part, first) | {"text": part.text}
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if part.text or not self._calls:
            delta["content"] = part.text
        if part.calls:
            delta["tool_calls"] = list(part.calls.values())
        return self._about(generation, index, part, first) | {"delta": delta}

    def _about(self, generation: Generation, index: int, part: _Part, first: bool) -> dict[str, Any]:
        """What a choice has whether chat or completion, chunk or whole."""
        about: dict[str, Any] = {"index": index, "logprobs": self._logprobs(index, part), "finish_reason": part.finish}
        if self.asked.return_token_ids:
            about["token_ids"] = part.tokens
            if first and not self.chat:
                about["prompt_token_ids"] = generation.choices[index].prompt
        return about

    def _logprobs(self, index: int, part: _Part) -> dict[str, Any] | None:
        if self.asked.top is None or not part.logprobs:
            return None
        rows = list(zip(part.tokens, part.logprobs, strict=True))
        if self.chat:
            return {"content": [
                self._entry(token, each.chosen) | {"top_logprobs": [self._entry(*likely) for likely in each.top]} for token, each in rows
            ]}  # fmt: skip
        texts = [self._vocabulary.token(token)[0] for token in part.tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(text)
        return {
            "tokens": texts,
            "token_logprobs": [_finite(each.chosen) for _, each in rows],
            # The chosen token stands among the likeliest even where it was none of them.
            "top_logprobs": [
                {self._vocabulary.token(likely)[0]: _finite(value) for likely, value in ((token, each.chosen), *each.top)}
                for token, each in rows
            ],
            "text_offset": offsets,
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self._vocabulary.token(token)
        return {"token": text, "logprob": _finite(logprob), "bytes": list(raw)}

    def _usage(self, generation: Generation, produced: int) -> dict[str, int]:
        prompt = sum(len(choice.prompt) for choice in generation.choices) // (self.asked.n or 1)
        return {"prompt_tokens": prompt, "completion_tokens": produced, "total_tokens": prompt + produced}


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)

"""The embedded engine in this process, without a socket: a tiny random model whose words a test may put into its mouth."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import pytest
import torch

from monitor.engine import sampler
from monitor.engine.batcher import Batcher
from monitor.engine.loading import LoadedModel, load
from monitor.engine.server import EngineServer

# What a template of Qwen's says of tools, in few words.
TEMPLATE = """{% if tools %}<|im_start|>system
You may call: {% for tool in tools %}{{ tool | tojson }}{% endfor %} as <tool_call>{"name": …, "arguments": …}</tool_call><|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
    for name in ("weather", "time")
]
Result = TypeVar("Result")


class Served:
    """`ask` sends one request, `events` a streamed one."""

    def __init__(self, model: LoadedModel, client: httpx.AsyncClient) -> None:
        self.model, self.client = model, client

    async def ask(self, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
        return await self.client.post(path, json=self._body(path, body))

    async def events(self, path: str = "/v1/chat/completions", **body: Any) -> list[dict[str, Any]]:
        body = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}, **body}
        answer = await self.ask(path, **body)
        assert answer.status_code == 200, answer.text
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    def _body(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        prompt = {"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"prompt": "The sea"}
        return {"model": self.model.name, "temperature": 0, "max_tokens": 8, **prompt, **body}


@contextmanager
def speaking(tokens: list[int] | None) -> Iterator[None]:
    """While it lasts every generation says these tokens, by their logits."""
    if tokens is None:
        yield
        return
    patch = pytest.MonkeyPatch()
    prepare, call = sampler.Sampler.prepare_tensor_args, sampler.Sampler.__call__
    places: list[int] = []

    def remember(self: sampler.Sampler, requests: list[Any]) -> torch.Tensor:
        places[:] = [sampler.produced(future.state) for future in requests]
        return prepare(self, requests)

    def say(self: sampler.Sampler, scores: torch.Tensor, argument: torch.Tensor) -> torch.Tensor:
        for row, place in enumerate(places):
            scores[row, tokens[place]] = 1000.0
        return call(self, scores, argument)

    patch.setattr(sampler.Sampler, "prepare_tensor_args", remember)
    patch.setattr(sampler.Sampler, "__call__", say)
    try:
        yield
    finally:
        patch.undo()


def with_engine(
    folder: str, work: Callable[[Served], Awaitable[Result]], template: str | None = None, say: str | None = None, streams: int = 8
) -> Result:  # fmt: skip
    """Run `work` beside an engine. `say` is what its model will answer, whatever it is asked, and then the end."""

    async def run() -> Result:
        model = load(folder, "float32", "cpu")
        if template is not None:
            model.tokenizer.chat_template = template
        server = EngineServer(model, Batcher(model.module, set(model.eos), streams, 4096), None, 4 << 20)
        words = None if say is None else [*model.tokenizer(say)["input_ids"], *[min(model.eos)] * 200]
        with speaking(words):
            async with server.app.router.lifespan_context(server.app):
                transport = httpx.ASGITransport(server.app)
                async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as client:
                    return await work(Served(model, client))

    return asyncio.run(run())

"""An engine without a model: OpenAI's chat completions from recorded generations, at a set speed, with a tap beside it.

It is as cheap as one in Python can be, so that a gateway before it can be loaded from the same machine, and it says when each token left
it, so that a client in the same process can tell how long a token took.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httptools
import msgspec
import numpy as np

from benchmarks.synthetic import recording
from benchmarks.synthetic.tap import Tap
from monitor import wire

MODEL = "SmolLM2-135M-Instruct"
END = b"0\r\n\r\n"
PROMPT_TOKENS = 7


@dataclass(eq=False)
class Generation:
    """One choice on its way. `left` [n]: by token, when it was written to the socket, on the clock of time.perf_counter."""

    connection: Connection
    request: str
    index: int
    of: recording.Recorded
    limit: int
    stream: int
    streamed: bool
    running_usage: bool
    made: int = 0
    due: float = 0.0  # when its last event leaves; the next one must not overtake it
    left: list[float] = field(default_factory=list)

    def piece(self, place: int) -> str:
        return self.of.pieces[place % len(self.of.pieces)]

    def text(self, start: int, end: int) -> str:
        return "".join(map(self.piece, range(start, end)))

    def chunk(self, start: int, end: int) -> bytes:
        """The event of the tokens from `start` to `end`."""
        usage = b""
        if self.running_usage:
            usage = b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (PROMPT_TOKENS, PROMPT_TOKENS + end, end)
        role = b'"role":"assistant",' if start == 0 else b""
        finish = b'"length"' if end == self.limit else b"null"
        return b'data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":1,"model":"%s","choices":[{"index":%d,"delta":{%s"content":%s},"logprobs":null,"finish_reason":%s}]%s}\n\n' % (
            self.request.encode(), MODEL.encode(), self.index, role, msgspec.json.encode(self.text(start, end)), finish, usage,
        )  # fmt: skip


class SyntheticEngine:
    """Serves on `port`. All running generations advance together, one step of `tokens` tokens every `step_s` seconds.

    `spread`: the events of a step leave one after the other over the whole step, as from a server that writes them in a loop; else all at
    once. `step_s` 0: a generation is made whole as soon as it is asked for. The field `seed` of a request picks its recording.
    """

    def __init__(self, tap: Tap | None, step_s: float = 0.05, tokens: int = 1, spread: bool = False) -> None:
        self.probes, self.recordings = recording.load()
        self.tap = tap
        self.step_s = step_s
        self.tokens = tokens
        self.spread = spread
        self.running: list[Generation] = []
        self.made: dict[tuple[str, int], Generation] = {}  # by request id and choice; the caller clears it
        self.connections: set[Connection] = set()
        self._next = 0
        self._fresh: list[wire.Begin] = []
        self._wake = asyncio.Event()

    async def __aenter__(self) -> SyntheticEngine:
        self._task = asyncio.create_task(self._steps())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        self._server.close()
        if self.tap is not None:
            self.tap.close()

    def hang(self) -> None:
        """Make no more tokens, until `go_on`."""
        self._task.cancel()

    def go_on(self) -> None:
        self._task = asyncio.create_task(self._steps())

    def die(self) -> None:
        """As a process that is killed: connections are reset, the tap is gone, nobody listens."""
        self._task.cancel()
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        if self.tap is not None:
            self.tap.close()
            self.tap = None

    async def listen(self, port: int) -> None:
        self._server = await asyncio.get_running_loop().create_server(lambda: Connection(self), "127.0.0.1", port, backlog=2048)

    def ask(self, connection: Connection, payload: dict[str, Any], request: str) -> None:
        """The generations of a request run from now on."""
        options = payload.get("stream_options") or {}
        request = request or f"direct-{self._next}"
        found = []
        for index in range(payload.get("n") or 1):
            of = self.recordings[((payload.get("seed") or 0) + index) % len(self.recordings)]
            limit = payload.get("max_tokens") or 16
            running = bool(options.get("continuous_usage_stats"))
            found.append(Generation(connection, request, index, of, limit, self._next, bool(payload.get("stream")), running))
            self._fresh.append(wire.Begin(self._next, request, index))
            self.made[request, index] = found[-1]
            self._next += 1
        connection.generations = found
        self.running += found
        if self.step_s == 0:
            while any(generation.made < generation.limit for generation in found):
                self._step([generation for generation in found if generation.made < generation.limit], found[0].limit)
        else:
            self._wake.set()

    def abort(self, generations: list[Generation]) -> None:
        for generation in generations:
            if generation in self.running:
                self._over(generation)

    def _over(self, generation: Generation) -> None:
        self.running.remove(generation)
        if self.tap is not None:
            self.tap.end(wire.End(generation.stream, generation.made))

    async def _steps(self) -> None:
        due = time.perf_counter()
        while True:
            if not self.running:
                self._wake.clear()
                await self._wake.wait()
                due = time.perf_counter()
            due = max(due + self.step_s, time.perf_counter() - self.step_s)
            await asyncio.sleep(due - time.perf_counter())
            if self.running:  # all of them may have been aborted meanwhile
                self._step(list(self.running), self.tokens)

    def _step(self, live: list[Generation], tokens: int) -> None:
        """One step: the scores leave first, as a tap's do, then the events."""
        spans = [(generation, generation.made, min(generation.made + tokens, generation.limit)) for generation in live]
        if self.tap is not None:
            owner = np.repeat([generation.stream for generation, _, _ in spans], [end - start for _, start, end in spans])
            places = np.concatenate([np.arange(start, end) for _, start, end in spans])
            scores = np.concatenate(
                [generation.of.scores[np.arange(start, end) % len(generation.of.pieces)] for generation, start, end in spans]
            )
            self.tap.step(self._fresh, owner.astype("<u4"), places.astype("<u4"), scores)
        self._fresh = []
        pause = self.step_s / max(1, len(spans)) if self.spread else 0.0
        loop = asyncio.get_running_loop()
        for number, (generation, start, end) in enumerate(spans):
            generation.made = end
            over = end == generation.limit
            if pause:
                generation.due = max(generation.due + 1e-6, loop.time() + number * pause)
                loop.call_at(generation.due, generation.connection.produced, generation, start, end)
            else:
                generation.connection.produced(generation, start, end)
            if over:
                self._over(generation)


class Connection(asyncio.Protocol):
    """One client. Requests on it follow each other."""

    def __init__(self, engine: SyntheticEngine) -> None:
        self.engine = engine
        self.generations: list[Generation] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.engine.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.engine.connections.discard(self)
        self.engine.abort(self.generations)

    def on_message_begin(self) -> None:
        self.path, self.request, self.body = b"", "", b""  # without a request id, the engine makes one

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self.request = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.path == b"/v1/chat/completions":
            payload = json.loads(self.body)
            if payload.get("stream"):
                self.usage = bool((payload.get("stream_options") or {}).get("include_usage"))
                self.transport.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
                )
            self.engine.ask(self, payload, self.request)
        elif self.path == b"/health":
            self._json({"status": "ok"})
        else:
            self._json({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "synthetic"}]})

    def produced(self, generation: Generation, start: int, end: int) -> None:
        """Tokens of a generation leave."""
        if self.transport.is_closing():
            return
        now = time.perf_counter()
        generation.left += [now] * (end - start)
        last = all(len(each.left) == each.limit for each in self.generations)
        if generation.streamed:
            data = generation.chunk(start, end)
            if last:
                data += (self._usage() if self.usage else b"") + b"data: [DONE]\n\n"
            self.transport.write(b"%x\r\n%s\r\n" % (len(data), data) + (END if last else b""))
        elif last:
            self._json({
                "id": f"chatcmpl-{generation.request}", "object": "chat.completion", "created": 1, "model": MODEL,
                "choices": [
                    {"index": each.index, "message": {"role": "assistant", "content": each.text(0, each.limit)}, "logprobs": None, "finish_reason": "length"}
                    for each in self.generations
                ],
                "usage": self._counts(),
            })  # fmt: skip

    def _counts(self) -> dict[str, int]:
        made = sum(each.limit for each in self.generations)
        return {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS + made, "completion_tokens": made}

    def _usage(self) -> bytes:
        first = self.generations[0]
        head = {"id": f"chatcmpl-{first.request}", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": []}
        return b"data: " + msgspec.json.encode({**head, "usage": self._counts()}) + b"\n\n"

    def _json(self, value: object) -> None:
        body = msgspec.json.encode(value)
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

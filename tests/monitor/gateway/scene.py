"""A gateway between a client and an engine whose every byte a test decides; the test plays the tap too."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from monitor.config import GatewayConfig
from monitor.gateway.gateway import Gateway
from monitor.gateway.texts import Texts
from monitor.http.serving import Servers
from probes.bank import Bank
from tests.monitor.pipeline.rig import RULES, Rig
from tests.stack import PATIENCE_S

CHAT = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
SSE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"


@dataclass
class Exchange:
    """One request as the engine got it, and the means to answer. `gone`: the gateway has closed the connection."""

    scene: Scene
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def request(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def asked(self) -> dict[str, Any]:
        return json.loads(self.body)

    def start(self, status: int = 200, kind: str = SSE, **headers: str) -> None:
        """A head whose body ends with the connection."""
        lines = [
            f"HTTP/1.1 {status} X",
            f"content-type: {kind}",
            "connection: close",
            *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items()),
        ]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    def send(self, *parts: bytes | dict[str, Any]) -> None:
        """Raw bytes, or the events of chunks."""
        for part in parts:
            self.writer.write(part if isinstance(part, bytes) else b"data: " + json.dumps(part).encode() + b"\n\n")

    def answer(self, value: Any, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.start(status, kind, **headers)
        self.writer.write(body)

    def begin(self, index: int = 0) -> int:
        """The tap says that a choice runs. Returns its stream number."""
        rig, number = self.scene.rig, self.scene.number()
        rig.frame(begins=[(number, self.request, index)])
        return number

    def scores(self, stream: int, first: int, *panic: float) -> None:
        """The tap scores tokens of a stream from position `first` on."""
        self.scene.rig.frame([(stream, first + i, value) for i, value in enumerate(panic)])

    def end(self, stream: int, tokens: int) -> None:
        self.scene.rig.frame(ends=[(stream, tokens)])


Script = Callable[[Exchange], Awaitable[None]]


def chunk(text: str | None = None, count: int | None = None, index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """A chunk of a chat with `count` tokens until here."""
    body = {**({} if text is None else {"content": text}), **delta}
    made: dict[str, Any] = {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": index, "delta": body, "logprobs": None, "finish_reason": finish}],
    }  # fmt: skip
    if count is not None:
        made["usage"] = {"prompt_tokens": 7, "total_tokens": 7 + count, "completion_tokens": count}
    return made


def usage(count: int, **more: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": 7, "total_tokens": 7 + count, "completion_tokens": count, **more}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": counts}


class Scene:
    """`script` answers every request of the engine's; `seen` are those that came. `settings` are the gateway's.

    `there`: what the target `safe` answers, on a socket of its own; `went` are the requests that came there.
    """

    def __init__(self, bank: Bank, folder: Path, script: Script, there: Script | None = None, rules: str = RULES, **settings: Any) -> None:
        self.rig = Rig(bank, folder / "ledger", rules)
        self.there = there
        self.went: list[Exchange] = []
        self._home = tempfile.TemporaryDirectory(prefix="scene-")  # a socket's path must be short
        self.folder = Path(self._home.name)
        self.script = script
        self.seen: list[Exchange] = []
        if there is not None:
            settings["targets"] = {"safe": {"upstream": f"unix:{self.folder / 't.sock'}", "model": "calm-model"}}
        texts: Texts | None = settings.pop("texts", None)
        self.config = GatewayConfig(**{"upstream": f"unix:{self.folder / 'e.sock'}", "judge_timeout_s": 0.3, **settings})
        self.gateway = Gateway(self.config, self.rig.pipeline, texts=texts)
        self.servers = Servers()
        self._numbers = 0

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        """Everything runs; gives a client of the gateway."""
        engine = await asyncio.start_unix_server(self._serve, self.folder / "e.sock") if self.config.upstream.startswith("unix:") else None
        target = await asyncio.start_unix_server(self._serve_there, self.folder / "t.sock") if self.there is not None else None
        listener = self.servers.bind("gateway", ("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.servers.serve(self.gateway, listener, self.gateway.drain)
        async with self.gateway.started():
            running = asyncio.create_task(self.servers.run())
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_S, limits=limits) as client:
                while not self.servers.started:
                    await asyncio.sleep(0.01)
                try:
                    yield client
                finally:
                    self.servers.stop()
                    await running
                    for each in (engine, target):
                        if each is not None:
                            each.close()
                    self.rig.ledger.close()
                    self._home.cleanup()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._answer(reader, writer, self.script, self.seen)

    async def _serve_there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.there is not None
        await self._answer(reader, writer, self.there, self.went)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, script: Script, seen: list[Exchange]) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = first.split(" ", 2)
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                exchange = Exchange(self, method, target, headers, body, writer)
                seen.append(exchange)
                watch = asyncio.create_task(self._watch(reader, exchange))
                try:
                    await script(exchange)
                    if not exchange.gone.is_set():
                        await writer.drain()
                finally:
                    watch.cancel()
                writer.close()
                return
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _watch(self, reader: asyncio.StreamReader, exchange: Exchange) -> None:
        try:
            while await reader.read(1):
                pass
        except ConnectionError:
            pass
        exchange.gone.set()

    async def until(self, check: Callable[[], Any], what: str) -> None:
        """A reply's last byte may be read before the gateway has put down how it ended."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not check():
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"not within {PATIENCE_S} s: {what}") from None

    async def raw(self, data: bytes, seconds: float = PATIENCE_S) -> bytes:
        """What the gateway answers to these bytes until it closes or `seconds` pass."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        got = b""
        try:
            async with asyncio.timeout(seconds):
                while piece := await reader.read(65536):
                    got += piece
        except (TimeoutError, ConnectionError):
            pass
        writer.close()
        return got


class Stage:
    """Makes scenes for a test. `play(script, act)` runs `act(client, scene)` to its end."""

    def __init__(self, bank: Bank, folder: Path) -> None:
        self._bank, self._folder = bank, folder

    def play(self, script: Script, act: Callable[[httpx.AsyncClient, Scene], Awaitable[Any]], **settings: Any) -> Any:
        async def run() -> Any:
            shutil.rmtree(self._folder / "ledger", ignore_errors=True)
            scene = Scene(self._bank, self._folder, script, **settings)
            async with scene.open() as client:
                return await act(client, scene)

        return asyncio.run(run())

    def ask(self, script: Script, path: str = CHAT, settings: dict[str, Any] | None = None, **body: Any) -> httpx.Response:
        """One request, and its answer read to the end."""

        async def act(client: httpx.AsyncClient, scene: Scene) -> httpx.Response:
            return await client.post(path, json={**ASK, **body})

        response: httpx.Response = self.play(script, act, **(settings or {}))
        return response


def scored(*parts: bytes | dict[str, Any], panic: tuple[float, ...] = (0.0,) * 64) -> Script:
    """An engine that says these parts, and whose tap has scored every token before."""

    async def script(exchange: Exchange) -> None:
        stream = exchange.begin()
        exchange.scores(stream, 0, *panic)
        exchange.start()
        exchange.send(*parts)
        exchange.end(stream, len(panic))

    return script


def events(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: {")]


def text(response: httpx.Response) -> str:
    return "".join(part["delta"].get("content") or "" for event in events(response) for part in event.get("choices", ()))


def error(response: httpx.Response) -> dict[str, Any]:
    """Of an error answer, or of the event that ends a stream."""
    said = events(response)[-1] if "event-stream" in response.headers["content-type"] else response.json()
    found: dict[str, Any] = said["error"]
    return found

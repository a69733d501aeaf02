"""A chat of the page's reaches the gateway as any other, and no foreign page can send one."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.admin import playground
from monitor.admin.access import TOKEN
from probes.bank import Bank
from tests.monitor.admin.test_health import Ward
from tests.monitor.admin.test_page import bearer, people

CHAT = {"messages": [{"role": "user", "content": "Hello."}]}


class Told:
    """A gateway that says what a test wants. `seen`: the requests that came."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self._said = head, body
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.seen.append((first, headers, body))
        head, said = self._said
        if "/models" in first:
            head, said = b"HTTP/1.1 200 OK\r\ncontent-type: application/json", b'{"data": [{"id": "m"}]}'
        writer.write(head + b"\r\nconnection: close\r\n\r\n" + said)
        await writer.drain()
        writer.close()


@pytest.fixture
def told() -> Iterator[Any]:
    made: list[Told] = []

    def make(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream") -> Told:
        made.append(Told(head, body))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ward_of(bank: Bank, folder: Path, told: Told, **more: Any) -> Ward:
    return Ward(bank, folder, listen=f"127.0.0.1:{told.port}", **more)


def test_a_chat_comes_back_as_the_gateway_says_it(bank: Bank, tmp_path: Path, told: Any) -> None:
    gateway = told(b'data: {"choices": []}\n\ndata: [DONE]\n\n')
    answer = ward_of(bank, tmp_path, gateway).web.post(
        "/page/chat", json={**CHAT, "max_tokens": 5, "temperature": 0, "n": 9, "user": "ann"}
    )
    assert (answer.status_code, answer.text) == (200, 'data: {"choices": []}\n\ndata: [DONE]\n\n')
    first, headers, body = gateway.seen[-1]
    assert first.startswith("POST /v1/chat/completions")
    assert headers["x-barograph-scores"] == "1"
    assert json.loads(body) == {**CHAT, "max_tokens": 5, "temperature": 0, "stream": True, "model": "m"}


@pytest.mark.parametrize("bad", [
    {}, {"messages": []}, {"messages": "x"}, {"messages": [{"role": "user"}]}, {"messages": [{"role": "tool", "content": "x"}]},
    {"messages": [{"role": "user", "content": ["x"]}]}, {"messages": [{"role": "user", "content": "x", "name": "y"}]}, {"messages": CHAT["messages"] * 65},
    {**CHAT, "max_tokens": 0}, {**CHAT, "max_tokens": 100_000}, {**CHAT, "max_tokens": True}, {**CHAT, "temperature": "hot"}, {**CHAT, "temperature": 9},
])  # fmt: skip
def test_what_a_page_does_not_send_is_refused(bank: Bank, tmp_path: Path, told: Any, bad: dict[str, Any]) -> None:
    gateway = told(b"")
    assert ward_of(bank, tmp_path, gateway).web.post("/page/chat", json=bad).status_code == 400
    assert gateway.seen == []


def test_a_body_has_a_bound(bank: Bank, tmp_path: Path, told: Any) -> None:
    large = {"messages": [{"role": "user", "content": "x" * playground.MAX_BODY}]}
    assert ward_of(bank, tmp_path, told(b"")).web.post("/page/chat", json=large).status_code == 413


def test_a_reply_has_a_bound(bank: Bank, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground, "MAX_REPLY", 1000)
    answer = ward_of(bank, tmp_path, told(b"x" * 5000)).web.post("/page/chat", json=CHAT)
    assert "longer than 1000 bytes" in answer.text
    assert len(answer.content) < 2000


def test_the_gateways_refusal_is_told(bank: Bank, tmp_path: Path, told: Any) -> None:
    gateway = told(b'{"error": {"message": "stopped for incident 12"}}', b"HTTP/1.1 503 X\r\ncontent-type: application/json")
    answer = ward_of(bank, tmp_path, gateway).web.post("/page/chat", json=CHAT)
    assert json.loads(answer.text.removeprefix("data: ")) == {"error": {"message": "stopped for incident 12", "status": 503}}


def test_a_gateway_that_is_away_is_told(bank: Bank, tmp_path: Path, told: Any) -> None:
    gone = told(b"")
    ward = ward_of(bank, tmp_path, gone)
    gone._loop.call_soon_threadsafe(gone._server.close)
    while gone._server.is_serving():
        pass
    assert "did not answer" in ward.web.post("/page/chat", json=CHAT).text


def test_no_foreign_page_sends_one(bank: Bank, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "secret")
    gateway = told(b"")
    web = ward_of(bank, tmp_path, gateway).web
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:3000"}, {"host": "evil.example"}):
        assert web.post("/page/chat", json=CHAT, headers=headers).status_code in (403, 421), headers
    assert web.post("/page/chat", content=json.dumps(CHAT), headers={"content-type": "text/plain"}).status_code == 415
    assert web.options("/page/chat", headers={"origin": "https://evil.example"}).status_code == 403
    assert gateway.seen == []


def test_who_comes_by_a_proxy_before_loopback_is_not_near(bank: Bank, tmp_path: Path, told: Any) -> None:
    gateway = told(b"data: [DONE]\n\n")
    web = ward_of(bank, tmp_path, gateway, access=people(tmp_path), admin_hosts=("barograph.example",)).web
    for token, status in (("", 401), ("viewer", 403), ("operator", 200)):
        headers = {"host": "barograph.example", **bearer(token)}
        assert web.post("/page/chat", json=CHAT, headers=headers).status_code == status, token


def test_who_is_not_near_needs_an_operators_token(bank: Bank, tmp_path: Path, told: Any) -> None:
    gateway = told(b"data: [DONE]\n\n")
    web = ward_of(bank, tmp_path, gateway, access=people(tmp_path), admin="0.0.0.0:8401").web
    for token, status in (("", 401), ("viewer", 403), ("auditor", 403), ("operator", 200), ("admin", 200)):
        assert web.post("/page/chat", json=CHAT, headers=bearer(token)).status_code == status, token


def test_few_run_at_one_time(bank: Bank, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground, "MAX_CHATS", 0)
    answer = ward_of(bank, tmp_path, told(b"")).web.post("/page/chat", json=CHAT)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")

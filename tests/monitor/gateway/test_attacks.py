"""Requests that mean harm: none crashes the gateway, gets a 500, reaches another path of the engine, or gets a word that a rule halted.

BAROGRAPH_FUZZ sets how many generated requests are sent; 100,000 were (docs/gateway.md says when and with what result).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.gateway.asked import COMPLETIONS, MESSAGES, RESPONSES
from monitor.gateway.routes import JUDGED, PASSED
from tests.monitor.gateway.scene import ASK, CHAT, DONE, Exchange, Scene, Stage, chunk, usage

SECRET = "blackmail"
EACH = 200  # requests of one example
EXAMPLES = max(1, int(os.environ.get("BAROGRAPH_FUZZ", "2000")) // EACH)


async def evil(exchange: Exchange) -> None:
    """Whatever is asked: text that a rule halts at its first token."""
    path = exchange.target.split("?")[0]
    if path not in JUDGED:
        exchange.answer({"passed": True})
        return
    try:
        asked = json.loads(exchange.body)
        streams, choices = asked.get("stream") is True, asked.get("n") or 1
    except (ValueError, AttributeError):
        exchange.answer({"error": {"message": "no", "type": "x", "param": None, "code": None}}, 400)
        return
    streams_of_tap = [exchange.begin(index) for index in range(min(8, choices if isinstance(choices, int) else 1))]
    for stream in streams_of_tap:
        exchange.scores(stream, 0, 9.0, 9.0)
        exchange.end(stream, 2)
    if streams:
        exchange.start()
        exchange.send(*(chunk(SECRET, 1, index) for index in range(len(streams_of_tap))), usage(1), DONE)
    else:
        exchange.answer(
            {
                "choices": [{"index": 0, "message": {"content": SECRET}, "text": SECRET}],
                "content": [{"text": SECRET}],
                "output": [SECRET],
                "usage": {},
            }
        )


def post(body: bytes, *headers: str, path: str = CHAT) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


PLAIN = json.dumps({**ASK, "stream": True}).encode()
SMUGGLED = b"GET /admin HTTP/1.1\r\nhost: x\r\n\r\n"
RAW = {
    "two lengths": post(PLAIN, "content-length: 5", f"content-length: {len(PLAIN)}"),
    "length and chunks": post(b"0\r\n\r\n" + SMUGGLED, "content-length: 4", "transfer-encoding: chunked"),
    "odd encoding": post(b"0\r\n\r\n" + SMUGGLED, "transfer-encoding: xchunked"),
    "two encodings": post(b"0\r\n\r\n" + SMUGGLED, "transfer-encoding: chunked", "transfer-encoding: identity"),
    "encoding with a tab": post(b"0\r\n\r\n" + SMUGGLED, "transfer-encoding:\tchunked"),
    "space before the colon": post(PLAIN, f"content-length : {len(PLAIN)}"),
    "folded header": post(PLAIN, "x-a: b\r\n c: d", f"content-length: {len(PLAIN)}"),
    "bare line feeds": post(PLAIN, f"content-length: {len(PLAIN)}").replace(b"\r\n", b"\n"),
    "null in a header": post(PLAIN, "x-a: b\0c", f"content-length: {len(PLAIN)}"),
    "negative length": post(PLAIN, "content-length: -1"),
    "length with a plus": post(PLAIN, f"content-length: +{len(PLAIN)}"),
    "huge chunk size": post(b"FFFFFFFFFFFFFFFFF\r\nx", "transfer-encoding: chunked"),
    "length past the body": post(PLAIN, "content-length: 999999999"),
    "absolute target": post(PLAIN, f"content-length: {len(PLAIN)}", path="http://169.254.169.254/latest"),
    "authority target": b"CONNECT evil.example:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    "upgrade": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no http": b"\x16\x03\x01\x02\x00\x01\x00",
    "pipelined": post(PLAIN, f"content-length: {len(PLAIN)}") * 3,
    "injected id": post(PLAIN, f"content-length: {len(PLAIN)}", "x-request-id: a\rx-evil: 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_bytes_that_two_servers_could_read_in_two_ways(stage: Stage, name: str) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        got = await scene.raw(RAW[name], 1.0)
        assert b"HTTP/1.1 500" not in got
        assert SECRET.encode() not in got
        assert all(exchange.target.split("?")[0] in (*JUDGED, "/v1/models") for exchange in scene.seen), [
            each.target for each in scene.seen
        ]
        assert not any("evil" in exchange.headers for exchange in scene.seen)
        assert (await client.get("/v1/models")).json() == {"passed": True}  # and it goes on

    stage.play(evil, act)


BODIES = {
    "deep": b'{"messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "duplicate keys": b'{"stream": true, "stream": false, "messages": [], "model": "m"}',
    "huge number": b'{"model": "m", "n": ' + b"9" * 5000 + b"}",
    "huge exponent": b'{"model": "m", "temperature": 1e999999}',
    "not a number": b'{"model": "m", "temperature": NaN}',
    "lone surrogate": b'{"model": "\\ud800", "stream": true}',
    "surrogate in a key": b'{"model": "m", "\\udfff": 1, "stream": true}',
    "utf-16": '{"model": "m", "stream": true}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "no object": b"[1]",
    "empty": b"",
    "n of a million": b'{"model": "m", "n": 1000000, "stream": true}',
    "n below one": b'{"model": "m", "n": -1}',
    "n as a float": b'{"model": "m", "n": 1.5}',
    "prompts without end": json.dumps({"model": "m", "prompt": ["x"] * 100_000}).encode(),
    "stream as text": b'{"model": "m", "stream": "yes"}',
    "stream as a number": b'{"model": "m", "stream": 1}',
    "options as text": b'{"model": "m", "stream": true, "stream_options": "all"}',
    "counts turned off": b'{"model": "m", "stream": true, "stream_options": {"include_usage": false, "continuous_usage_stats": false}}',
    "an id of its own": b'{"model": "m", "stream": true, "request_id": "other#0"}',
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_bodies_that_are_strange(stage: Stage, name: str, path: str) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        response = await client.post(path, content=BODIES[name])
        assert response.status_code != 500, response.text
        assert SECRET not in response.text
        assert response.status_code == 200 or response.json()["error"]["message"]
        assert "Traceback" not in response.text
        for exchange in scene.seen:
            assert exchange.target == path
            if exchange.request:  # generated for us: with counts, under our id
                asked = exchange.asked
                assert "request_id" not in asked
                assert not asked.get("stream") or asked["stream_options"]["continuous_usage_stats"] is True

    stage.play(evil, act)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
FIELDS = (
    "model", "messages", "prompt", "stream", "stream_options", "n", "best_of", "max_tokens", "echo", "logprobs", "top_logprobs", "tools", "tool_choice",
    "use_beam_search", "background", "prompt_logprobs", "request_id", "input", "suffix", "stop", "user", "response_format", "prompt_embeds",
)  # fmt: skip
bodies = st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6).map(
    lambda body: {"model": "m", "messages": [{"role": "user", "content": "x"}], **body}
)
raw_bodies = st.one_of(
    bodies.map(lambda body: json.dumps(body).encode()), st.binary(max_size=40), json_values.map(lambda value: json.dumps(value).encode())
)
pieces = st.sampled_from(
    (
        "v1",
        "chat",
        "completions",
        "models",
        "responses",
        "messages",
        "..",
        ".",
        "%2e%2e",
        "%2f",
        "%252e",
        "",
        "\\",
        "a b",
        "é",
        "%00",
        "%ff",
        "x?y",
        "*",
        ";",
    )
)
paths = st.one_of(
    st.sampled_from([*JUDGED, *sorted(PASSED)]),
    st.lists(pieces, max_size=6).map(lambda parts: "/" + "/".join(parts)),
    st.text(max_size=12).map(lambda text: f"/{text}"),
)
names = st.sampled_from(
    (
        "x-request-id",
        "content-length",
        "transfer-encoding",
        "content-type",
        "authorization",
        "accept-encoding",
        "expect",
        "host",
        "x-barograph-scores",
        "traceparent",
        "connection",
    )
)
headers = st.lists(st.tuples(names, st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=12)), max_size=4)
methods = st.sampled_from(("POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "BREW"))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(seed=st.integers(0, 2**32), sample=st.lists(st.tuples(methods, paths, headers, raw_bodies), min_size=12, max_size=24))
def test_generated_requests(stage: Stage, seed: int, sample: list[tuple[str, str, list[tuple[str, str]], bytes]]) -> None:
    """Every example sends EACH requests, made of the sample's parts in new combinations, on connections of their own."""
    chance = random.Random(seed)

    def raw() -> bytes:
        method, path, more, body = (chance.choice(sample)[part] for part in range(4))
        method = "POST" if chance.random() < 0.5 else method
        lines = [f"{method} {path} HTTP/1.1", "host: x", *(f"{name}: {value}" for name, value in more)]
        if not any(name in ("content-length", "transfer-encoding") for name, _ in more):
            lines.append(f"content-length: {len(body)}")
        return "\r\n".join([*lines, "connection: close", "", ""]).encode("latin-1", "replace") + body

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        async def one() -> None:
            sent = raw()
            got = await scene.raw(sent, 2.0)
            assert b" 500 " not in got.split(b"\r\n")[0], (sent, got)
            assert SECRET.encode() not in got, (sent, got)

        await asyncio.gather(*(one() for _ in range(EACH)))
        for exchange in scene.seen:
            path = exchange.target.split("?")[0]
            assert path in JUDGED or path in PASSED or path.startswith("/v1/models/"), exchange.target
        await scene.until(lambda: not scene.rig.pipeline.streams.tickets, "all requests are forgotten")

    stage.play(evil, act, judge_timeout_s=0.1, upstream_idle_s=1.0)


def test_the_paths_of_a_whole_api_end_in_an_answer(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        for path in (RESPONSES, MESSAGES, *sorted(PASSED)):
            for method in ("GET", "POST", "DELETE"):
                response = await client.request(method, path, content=b"{}")
                assert response.status_code != 500
                assert SECRET not in response.text

    stage.play(evil, act, judge_timeout_s=0.1)


def test_deep_bodies_of_the_engine(stage: Stage) -> None:
    """An engine may be as strange as a client."""

    async def deep(exchange: Exchange) -> None:
        exchange.answer(b'{"choices": ' + b"[" * 200_000 + b"]" * 200_000 + b"}")

    body: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    assert stage.ask(deep, **body).status_code == 502
    assert stage.ask(deep, stream=True).status_code in (200, 502)

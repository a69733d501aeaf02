"""What an engine says reaches its client, whatever form it has."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import httpx
import pytest

from tests.monitor.gateway.scene import ASK, CHAT, DONE, Exchange, Scene, Script, Stage, chunk, error, events, scored, text, usage

CALLS = (
    chunk(None, 0, role="assistant", content=None),
    chunk(None, 1, tool_calls=[{"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}}]),
    chunk(None, 2, tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}]),
    chunk(None, 3, tool_calls=[{"index": 0, "function": {"arguments": '"Oslo"}'}}]),
    chunk(None, 4, tool_calls=[{"index": 1, "id": "b", "type": "function", "function": {"name": "time", "arguments": "{}"}}]),
    chunk(None, 5, finish="tool_calls"),
)


def plain(answer: Any, status: int = 200, kind: str = "application/json", **headers: str) -> Script:
    async def script(exchange: Exchange) -> None:
        exchange.answer(answer, status, kind, **headers)

    return script


def test_an_unstreamed_reply_has_its_calls_logprobs_and_usage(stage: Stage) -> None:
    logprobs = [{"content": [{"token": "a", "logprob": value, "bytes": [97], "top_logprobs": []}]} for value in (-0.5, -1.5)]
    parts = [json.loads(json.dumps(part)) for part in CALLS]
    for part, found in zip(parts[1:3], logprobs, strict=True):
        part["choices"][0]["logprobs"] = found
    parts[0]["choices"][0]["annotation"] = {"known": "to nobody"}
    response = stage.ask(scored(*parts, usage(5, prompt_tokens_details={"cached_tokens": 5}), DONE))
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"id": "b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]
    assert [each["logprob"] for each in choice["logprobs"]["content"]] == [-0.5, -1.5]
    assert choice["annotation"] == {"known": "to nobody"}
    assert response.json()["usage"] == {
        "prompt_tokens": 7, "total_tokens": 12, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 5},
    }  # fmt: skip
    assert response.headers["x-barograph"] == "judged"


def test_a_request_with_tools_leaves_as_the_engine_said_it(stage: Stage) -> None:
    """What an engine answers with tools differs from what it streams, so it is asked unstreamed, and its bytes are kept."""
    said = b'{ "choices": [{"index": 0, "message": {"tool_calls": []}}],  "usage": {"completion_tokens": 2}, "odd": 1e400 }'

    async def script(exchange: Exchange) -> None:
        assert exchange.asked.get("stream") is None
        stream = exchange.begin()
        exchange.scores(stream, 0, 0.0, 0.0)
        exchange.end(stream, 2)
        exchange.answer(said)

    assert stage.ask(script, tools=[{"type": "function", "function": {"name": "f"}}]).content == said


def test_streamed_calls_leave_whole(stage: Stage) -> None:
    response = stage.ask(scored(*CALLS, usage(5), DONE), stream=True)
    sent = [json.loads(json.dumps(part)) for part in CALLS]
    for part in sent:
        del part["usage"]
    assert events(response) == sent


@pytest.mark.parametrize("ending", [b"\r\n", b"\r", b"\n"], ids=["crlf", "cr", "lf"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_event_streams_of_any_form(stage: Stage, ending: bytes, size: int) -> None:
    hello, world = json.dumps(chunk("Hellö ", 1), ensure_ascii=False), json.dumps(chunk("wörld", 2, finish="stop"), ensure_ascii=False)
    half = hello.index(",") + 1
    lines = [
        "\ufeff: a comment", "event: message", "id: 7", "retry: 3", f"data:{hello[:half]}", f"data: {hello[half:]}", "", "", "data", "",
        f"data: {world}", "", f"data:  {json.dumps(usage(2))}", "", ":", "data:[DONE]", "", "",
    ]  # fmt: skip
    raw = ending.join(line.encode() for line in lines)

    async def script(exchange: Exchange) -> None:
        stream = exchange.begin()
        exchange.scores(stream, 0, 0.0, 0.0)
        exchange.start()
        for start in range(0, len(raw), size):
            exchange.send(raw[start : start + size])
            await exchange.writer.drain()
            if size == 1:
                await asyncio.sleep(0)

    assert text(stage.ask(script, stream=True)) == "Hellö wörld"


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        (b'data: {"error": "out of memory"}\n\n', "out of memory"),
        (b"data: [1]\n\n", "expected an object"),
        (b"data: null\n\n", "expected an object"),
        (b"data: {\n\n", "no JSON"),
        (b'data: {"choices": [{"delta": {}}]}\n\n', "without an index"),
        (b'data: {"choices": [{"index": true, "delta": {}}]}\n\n', "without an index"),
        (b'data: {"choices": {"0": 1}}\n\n', "no list"),
        (b'data: {"choices": [7]}\n\n', "without an index"),
        (b'data: {"choices": [{"index": 9, "delta": {}}]}\n\n', "choice 9 of 1"),
        (b'data: {"object": "error", "message": "the cache is full"}\n\n', "the cache is full"),
        (b'data: {"error": {"message": "gone", "code": 503}}\n\n', "gone"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "no JSON"),
        (b"", "before its end"),
    ],
)
@pytest.mark.parametrize("streams", [True, False])
def test_odd_events_are_an_error_of_the_engine(stage: Stage, odd: bytes, expected: str, streams: bool) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        response = await client.post(CHAT, json={**ASK, "stream": streams})
        assert response.status_code == (200 if streams else 503 if b"503" in odd else 502)
        assert expected in error(response)["message"]
        assert "Traceback" not in response.text
        counted = {"endpoint": "chat/completions", "status": str(response.status_code)}
        await scene.until(lambda: scene.rig.sample("barograph_gateway_requests_total", **counted) == 1, "it is counted")

    stage.play(scored(chunk("one", 1), odd), act)


def test_nulls_are_harmless(stage: Stage) -> None:
    first = chunk("a", 1)
    first |= {"error": None, "service_tier": None}
    second: dict[str, Any] = chunk(None, 1)
    second["choices"][0]["delta"] = None
    last = chunk("b", 2, finish="stop")
    response = stage.ask(scored(first, second, last, usage(2), DONE), stream=True)
    assert text_of(response) == "ab"
    assert stage.ask(scored(first, second, last, usage(2), DONE)).json()["choices"][0]["message"]["content"] == "ab"


def text_of(response: httpx.Response) -> str:
    return "".join((part["delta"] or {}).get("content") or "" for event in events(response) for part in event["choices"])


def test_usage_in_every_chunk_is_for_those_who_ask(stage: Stage) -> None:
    parts = (chunk("a", 1), chunk("b", 2, finish="stop"), usage(2), DONE)
    every = stage.ask(scored(*parts), stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert [event["usage"]["completion_tokens"] for event in events(every)] == [1, 2, 2]
    last = stage.ask(scored(*parts), stream=True, stream_options={"include_usage": True})
    assert [event.get("usage", {}).get("completion_tokens") for event in events(last)] == [None, None, 2]
    none = stage.ask(scored(*parts), stream=True)
    assert ["usage" in event for event in events(none)] == [False, False]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, {"error": "Unauthorized"}, "Unauthorized"),
        (422, {"detail": [{"loc": ["body", "messages"], "msg": "Field required"}]}, "body.messages: Field required"),
        (404, {"object": "error", "message": "The model `x` does not exist.", "code": 404}, "The model `x` does not exist."),
        (429, {"error": {"message": "slow down", "type": "rate_limit", "param": None, "code": None}}, "slow down"),
        (400, b"<html>no</html>", "<html>no</html>"),
        (500, b"", "status 500"),
    ],
)
@pytest.mark.parametrize("streams", [True, False])
def test_the_engines_refusals_keep_their_status(stage: Stage, status: int, body: Any, expected: str, streams: bool) -> None:
    response = stage.ask(plain(body, status, retry_after="7"), stream=streams)
    assert response.status_code == status
    assert expected in response.json()["error"]["message"]
    assert response.headers["retry-after"] == "7"
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        assert response.json() == body


def test_redirects_are_not_followed(stage: Stage) -> None:
    for path, ask in ((CHAT, "POST"), ("/v1/models", "GET")):

        async def act(client: httpx.AsyncClient, scene: Scene, path: str = path, ask: str = ask) -> None:
            response = await client.request(ask, path, json=ASK if ask == "POST" else None)
            assert response.status_code == 502
            assert "location" not in response.headers
            assert len(scene.seen) == 1

        stage.play(plain({}, 307, location="http://169.254.169.254/latest"), act)


def test_compressed_upstreams_come_out_plain(stage: Stage) -> None:
    packed = gzip.compress(json.dumps({"object": "list", "data": []}).encode())

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        response = await client.get("/v1/models", headers={"accept-encoding": "identity"})
        assert response.json() == {"object": "list", "data": []}
        assert "content-encoding" not in response.headers

    stage.play(plain(packed, content_encoding="gzip"), act)
    refused = gzip.compress(json.dumps({"error": {"message": "no", "type": "x", "param": None, "code": None}}).encode())
    response = stage.ask(plain(refused, 400, content_encoding="gzip"))
    assert (response.status_code, response.json()["error"]["message"]) == (400, "no")

    async def stream(exchange: Exchange) -> None:
        exchange.scores(exchange.begin(), 0, 0.0)
        exchange.start(content_encoding="gzip")
        exchange.send(gzip.compress(b"data: " + json.dumps(chunk("packed", 1, finish="stop")).encode() + b"\n\n" + DONE))

    assert text(stage.ask(stream, stream=True)) == "packed"


def test_headers_travel_by_a_list(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        headers = {
            "authorization": "Bearer k", "traceparent": "00-1-2-01", "accept-language": "de", "user-agent": "me/1", "openai-organization": "o",
            "cookie": "a=b", "x-forwarded-for": "1.2.3.4", "x-mine": "1", "x-request-id": "mine", "connection": "x-hop", "x-hop": "1",
        }  # fmt: skip
        response = await client.post(CHAT, json={**ASK, "stream": True}, headers=headers)
        up = scene.seen[0].headers
        assert {name: up.get(name) for name in ("authorization", "traceparent", "accept-language", "user-agent", "x-mine")} == {
            "authorization": "Bearer k", "traceparent": "00-1-2-01", "accept-language": "de", "user-agent": "me/1", "x-mine": "1",
        }  # fmt: skip
        assert not up.keys() & {"cookie", "x-forwarded-for", "x-hop"}
        assert up["x-request-id"] != "mine"
        back = response.headers
        assert back["x-request-id"] == "mine"
        assert events(response)[0]["id"] == "chatcmpl-mine"
        assert "mine" not in scene.rig.said()
        assert "Bearer" not in scene.rig.said()
        passed = await client.get("/v1/models", headers=headers)
        assert passed.headers["x-ratelimit-remaining-requests"] == "9"
        assert passed.headers["openai-processing-ms"] == "12"
        assert passed.headers["x-special"] == "s"
        assert not passed.headers.keys() & {"set-cookie", "x-internal"}

    async def script(exchange: Exchange) -> None:
        more = {
            "x_ratelimit_remaining_requests": "9",
            "openai_processing_ms": "12",
            "set_cookie": "a=b",
            "x_internal": "1",
            "x_special": "s",
        }
        if exchange.method == "GET":
            exchange.answer({}, **more)
            return
        exchange.scores(exchange.begin(), 0, 0.0)
        exchange.start(**more)
        exchange.send({**chunk("a", 1, finish="stop"), "id": f"chatcmpl-{exchange.request}"}, usage(1), DONE)

    stage.play(script, act, forward_headers=("X-Mine",), return_headers=("X-Special",))


def test_a_stale_pooled_connection_is_tried_again(stage: Stage) -> None:
    """The engine closes an idle connection just as a request goes out on it: nothing came back, so nothing is lost."""
    answered: list[str] = []

    async def script(exchange: Exchange) -> None:
        if len(answered) == 1 and len(exchange.scene.seen) == 2:
            exchange.writer.close()
            return
        answered.append(exchange.target)
        exchange.answer({"object": "list"})

    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        assert (await client.get("/v1/models")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 200
        assert len(scene.seen) == 3

    stage.play(script, act)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models/%2e%2e/%2e%2e/health", "/v1/models/../../health", "/v1/models/..%2f..%2fhealth", "/v1/models/%252e%252e/health",
        "/v1//models", "/v1/models/..", "//evil.example/v1/models", "/v1/models\\..\\x", "/v1/models/%00", "/v1/models/%5c..",
    ],
)  # fmt: skip
def test_paths_stay_where_they_are(stage: Stage, target: str) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        got = await scene.raw(f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        assert got.startswith(b"HTTP/1.1 400"), got[:200]
        assert scene.seen == []

    stage.play(plain({}), act)


def test_routes_that_are_not_judged(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        for path in ("/v1/audio/transcriptions", "/invocations", "/inference/v1/generate", "/v1/chat/completions/batch"):
            response = await client.post(path, json=ASK)
            assert (response.status_code, response.json()["error"]["code"]) == (400, "route_not_judged")
        for path in ("/v1/load_lora_adapter", "/sleep", "/collective_rpc", "/server_info"):
            response = await client.post(path, json=ASK)
            assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_route")
        assert scene.seen == []
        assert (await client.post("/v1/embeddings?x=1", content=b"\x00raw")).json() == {"fine": 1}
        assert (scene.seen[0].target, scene.seen[0].body) == ("/v1/embeddings?x=1", b"\x00raw")
        assert (await client.post("/reset", json={})).json() == {"fine": 1}

    stage.play(plain({"fine": 1}), act, allow_routes=("/reset",))


def test_beam_search_and_background_are_refused(stage: Stage) -> None:
    async def act(client: httpx.AsyncClient, scene: Scene) -> None:
        for body in ({"use_beam_search": True}, {"use_beam_search": "true"}, {"background": True}):
            response = await client.post(CHAT, json={**ASK, **body})
            assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(body)))
        assert scene.seen == []

    stage.play(plain({}), act)

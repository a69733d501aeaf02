"""The OpenAI API through the gateway, with OpenAI's own client."""

from __future__ import annotations

import concurrent.futures
import time

import httpx
import openai
import pytest

from monitor.audit.pseudonyms import Pseudonyms, beside
from tests.stack import MODEL, Stack, eventually


@pytest.fixture(scope="module")
def client(stack: Stack) -> openai.OpenAI:
    return openai.OpenAI(base_url=stack.gateway("/v1"), api_key="none", max_retries=0)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.smoke
def test_a_chat_whole_and_streamed_say_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=user("What is the capital of France?"), temperature=0, max_tokens=24)
    assert "Paris" in whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    stream = list(
        client.chat.completions.create(
            model=MODEL,
            messages=user("What is the capital of France?"),
            temperature=0,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == whole.choices[0].message.content
    assert stream[0].choices[0].delta.role == "assistant"
    assert stream[-1].usage == whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in stream[:-1])


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="this engine serves"):
        client.models.retrieve("other")


def test_n_and_seed(client: openai.OpenAI) -> None:
    def ask() -> list[str]:
        answer = client.chat.completions.create(
            model=MODEL, messages=user("Tell me something."), temperature=1, top_p=0.9, seed=3, n=3, max_tokens=16
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert first == ask()
    assert len(set(first)) > 1


def test_stop_and_length(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="1, 2, 3, 4, 5,", temperature=0, max_tokens=30, stop=" 8")
    assert answer.choices[0].finish_reason == "stop"
    assert "8" not in answer.choices[0].text
    assert client.completions.create(model=MODEL, prompt="The sky", temperature=0, max_tokens=3).choices[0].finish_reason == "length"


def test_several_prompts(client: openai.OpenAI) -> None:
    # Continuations without a near tie: two copies of one prompt may run in batches of different shapes.
    answer = client.completions.create(model=MODEL, prompt=["1, 2, 3, 4, 5,", "a, b, c, d, e,"], temperature=0, max_tokens=6, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == answer.choices[1].text != answer.choices[2].text
    assert answer.usage.completion_tokens == 24


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "this engine serves 'SmolLM2-135M-Instruct'"),
        ({"max_tokens": 9000}, openai.BadRequestError, "context is 8192 tokens"),
        ({"temperature": -1}, openai.BadRequestError, "'temperature'"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "'tools.0.function'"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}]}, openai.BadRequestError, "calls no tools"),
        ({"n": 17}, openai.BadRequestError, "'n'"),
        ({"stream": "yes"}, openai.BadRequestError, "'stream'"),
        ({"messages": []}, openai.BadRequestError, "'messages'"),
        ({"messages": user("word " * 9000)}, openai.BadRequestError, "context"),
    ],
)
def test_errors_are_openais(client: openai.OpenAI, body: dict[str, object], kind: type[openai.APIStatusError], expected: str) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=MODEL, messages=user("x"), extra_body=body)
    assert expected in str(caught.value)
    assert caught.value.body is not None


@pytest.mark.parametrize(
    ("content", "status", "expected"),
    [
        (b'{"model": "m", "messages": "\xff"}', 400, "not UTF-8 (byte 28)"),
        (b"[1]", 400, "expected an object"),
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (
            b'{"model":"SmolLM2-135M-Instruct","messages":[{"role":"user","content":"' + b"x" * (10 << 20) + b'"}]}',
            413,
            "larger than 4194304 bytes",
        ),
        (b'{"model":"SmolLM2-135M-Instruct","max_tokens":1,"messages":[{"role":"user","content":"\\ud800"}]}', 400, "not JSON"),
    ],
)
def test_bodies_that_are_no_requests(stack: Stack, content: bytes, status: int, expected: str) -> None:
    for url in (stack.gateway("/v1/chat/completions"), stack.engine("/v1/chat/completions")):
        response = httpx.post(url, content=content, timeout=30)
        assert response.status_code == status, response.text
        assert expected in response.json()["error"]["message"]


def test_unknown_paths_are_named(stack: Stack) -> None:
    for path in ("/v1/chat", "/"):
        response = httpx.post(stack.gateway(path), json={})
        assert response.status_code == 404
        assert "/v1/chat/completions" in response.json()["error"]["message"]
    for path in ("/v1/embeddings", "/v1/responses"):  # known to the gateway, not to this engine
        assert httpx.post(stack.gateway(path), json={}).status_code == 404
    assert httpx.get(stack.gateway("/v1/chat/completions")).json()["error"]["type"] == "invalid_request_error"


def test_requests_are_batched_together(stack: Stack) -> None:
    def timed(n: int) -> float:
        started = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(n) as pool:
            answers = list(pool.map(lambda i: stack.chat(f"Tell me about the number {i}.", max_tokens=48), range(n)))
        assert all(answer.status_code == 200 for answer in answers)
        return time.perf_counter() - started

    timed(1)
    one = timed(1)
    # Eight one after the other would take eight times as long; together they share every step.
    assert timed(8) < 5 * one


def test_a_client_that_goes_is_cancelled(stack: Stack) -> None:
    before = stack.metric("barograph_tokens_judged_total")
    for chunk in stack.chunks("Tell me a very long story.", max_tokens=2000):
        assert "choices" in chunk
        break
    eventually(lambda: httpx.get(stack.engine("/health")).json()["running"] == 0, "the engine stopped")
    eventually(lambda: stack.metric("barograph_streams_running") == 0, "the stream is over")
    assert stack.metric("barograph_tokens_judged_total") - before < 500


def test_a_client_that_goes_without_streaming_is_cancelled(stack: Stack) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            stack.gateway("/v1/chat/completions"),
            json={"model": MODEL, "messages": user("Tell me a very long story."), "max_tokens": 4000},
            timeout=1,
        )
    eventually(lambda: httpx.get(stack.engine("/health")).json()["running"] == 0, "the engine stopped")


def test_every_token_comes_with_its_scores(stack: Stack) -> None:
    chunks = list(stack.chunks("Write about a storm.", max_tokens=40))
    positions = [chunk["barograph"]["position"] for chunk in chunks]
    assert positions == list(range(40))
    assert all(len(chunk["barograph"]["scores"]["panic"]) == 1 for chunk in chunks)


def test_scores_are_only_for_those_who_ask(stack: Stack) -> None:
    assert "barograph" not in stack.chat().text
    assert "barograph" in stack.chat(headers={"x-barograph-scores": "1"}).text


def test_metrics_and_ledger_hold_no_content(stack: Stack) -> None:
    secret = "zanzibarquokka"
    answer = stack.chat(f"Repeat: {secret}", user="mallory", headers={"x-request-id": "mine-123"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "mine-123"
    known = Pseudonyms(beside(stack.ledger_path)).of("request", "mine-123")
    eventually(lambda: any(record["client_request"] == known for record in stack.ledger("reply")), "the reply is recorded")
    (name,) = (record["request"] for record in stack.ledger("reply") if record["client_request"] == known)
    eventually(
        lambda: any(record.get("stream") == f"{name}#0" and record["event"] == "end" for record in stack.ledger("stream")),
        "the end is recorded",
    )
    metrics, logs = httpx.get(stack.admin("/metrics")).text, stack.log("sidecar") + stack.log("engine")
    for text in (metrics, logs, str(stack.ledger())):
        assert secret not in text
        assert "mallory" not in text
        assert "mine-123" not in text
    assert name not in metrics + logs


def test_loaded_words_raise_their_probe(stack: Stack) -> None:
    def mean(prompt: str, probe: str) -> float:
        scores = [score for chunk in stack.chunks(prompt, max_tokens=60) for score in chunk["barograph"]["scores"][probe]]
        return sum(scores) / len(scores)

    assert (
        mean("Write what a woman screams while she runs from a burning house.", "panic")
        > mean("Explain how a bicycle pump works.", "panic") + 1
    )
    assert (
        mean("Write an angry letter from a man who hates his neighbour and threatens him.", "hostility")
        > mean("List three facts about the moon.", "hostility") + 1
    )

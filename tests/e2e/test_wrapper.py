"""A model without a tap, wrapped: a second engine plays the remote API, and a small model of ours reads what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.stack import MODEL, Stack, eventually

pytestmark = pytest.mark.timeout(600)

RULES = """rules:
- {rule: reads, desc: d, when: panic.last > -1000, do: alert, mode: armed}
- {rule: sees, desc: d, accept_unproven: [panic], when: panic.last > -1000, do: halt, mode: armed, grade: activations}
- {rule: ends, desc: d, accept_unproven: [panic], when: panic.last > -1000, for: 6 tokens, match: request.tenant == "stop", do: {halt: {message: Read enough.}}, mode: armed}
"""


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Its engine alone is asked, as any other API would be."""
    with Stack(tmp_path_factory.mktemp("remote")) as running:
        yield running


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory: pytest.TempPathFactory, remote: Stack) -> Iterator[Stack]:
    gateway = {"upstream": remote.engine(""), "wrap": True, "tenant_header": "x-tenant"}
    with Stack(tmp_path_factory.mktemp("wrapped"), {"gateway": gateway, "sidecar": {"on_stale_thresholds": "armed"}}, RULES) as running:
        yield running


def test_a_remote_reply_is_read_and_judged_and_says_so(wrapped: Stack, remote: Stack) -> None:
    direct = httpx.post(
        remote.engine("/v1/chat/completions"), timeout=120,
        json={"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16, "temperature": 0},
    )  # fmt: skip
    answer = wrapped.chat("Say hello.")
    assert answer.json()["choices"][0]["message"]["content"] == direct.json()["choices"][0]["message"]["content"]
    assert answer.json()["usage"] == direct.json()["usage"]
    assert answer.headers["x-barograph"] == "judged:text"
    verdicts = wrapped.ledger("verdict")
    assert {(each["rule"], each["grade"]) for each in verdicts} == {("reads", "text")}  # the other asks for activations
    (tap,) = (each for each in wrapped.ledger("tap") if each["event"] == "connected")
    assert (tap["grade"], "grade" in tap["stale"]) == ("text", True)
    eventually(lambda: httpx.get(wrapped.engine("/health")).json()["reading"] == 0, "the reader is done with it")


def test_a_rule_halts_what_it_reads(wrapped: Stack, remote: Stack) -> None:
    client = openai.OpenAI(base_url=wrapped.gateway("/v1"), api_key="of-the-remote", max_retries=0, default_headers={"x-tenant": "stop"})
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Name the months of the year."}], max_tokens=60, temperature=0, stream=True
    )
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.endswith("Read enough.")
    assert 0 < len(text.removesuffix("Read enough.")) < 40
    eventually(lambda: httpx.get(remote.engine("/health")).json()["running"] == 0, "the remote was cut off")


def test_several_choices_and_plain_completions(wrapped: Stack) -> None:
    answer = wrapped.chat("Say hello.", n=2, temperature=1, seed=3, max_tokens=8)
    assert [len(choice["message"]["content"]) > 0 for choice in answer.json()["choices"]] == [True, True]
    body = {"model": MODEL, "prompt": "The sea", "max_tokens": 8, "temperature": 0, "stream": True}
    said = httpx.post(wrapped.gateway("/v1/completions"), json=body, timeout=120).text
    assert said.endswith(": x-barograph: judged:text\n\ndata: [DONE]\n\n")


def test_what_cannot_be_read_is_refused(wrapped: Stack) -> None:
    echo = httpx.post(wrapped.gateway("/v1/completions"), json={"model": MODEL, "prompt": "x", "echo": True}, timeout=60)
    assert (echo.status_code, echo.json()["error"]["code"]) == (400, "route_not_judged")
    assert httpx.post(wrapped.gateway("/v1/responses"), json={"model": MODEL, "input": "x"}, timeout=60).status_code == 400
    wrong = wrapped.chat(temperature=9)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "temperature")  # the remote's own refusal


def test_without_its_reader_nothing_passes(wrapped: Stack) -> None:
    wrapped.stop("engine")
    refused = wrapped.chat("Say hello.")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] in ("no_tap", "no_reader")
    assert json.loads(httpx.get(wrapped.admin("/health")).text)["status"] == "degraded"

"""vLLM and the gateway before it, asked the same by the clients that people use: tools, reasoning, and its other two APIs too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from monitor.engine.vllm_process import VllmProcess
from tests.compat.same import CASES, NOISY, TOOLS, USER, chat, differences, plain, said, text
from tests.stack import MODEL, Stack, eventually
from tests.vllm.conftest import configured

pytestmark = pytest.mark.timeout(900)

FLAGS = (
    "--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3", "--enable-prompt-tokens-details", "--num-gpu-blocks-override",
    "64", "--max-model-len", "1024",
)  # fmt: skip
MORE = {
    "prompt log probabilities": chat(extra_body={"prompt_logprobs": 1})[:1],
    "token ids": chat(extra_body={"return_token_ids": True}),
    "text with token ids": text(extra_body={"return_token_ids": True}),
    "text that stops at an id": text(extra_body={"stop_token_ids": [30]}),
    "a choice of words": text(extra_body={"structured_outputs": {"choice": ["yes", "no"]}}),
    "json by a schema": chat(
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}},
        max_tokens=32,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, runtime: Path, environment: dict[str, str], untapped: object) -> Iterator[VllmProcess]:
    with configured(tmp_path_factory.mktemp("compat"), runtime / "compat.sock", environment, *FLAGS) as running:
        yield running


# The engine is its own target: its tap is this sidecar's, so what it goes on with is judged here.
RULES = """
include: [default]
rules:
- {rule: turn, desc: d, accept_unproven: [panic], when: panic.last > -1000, for: 6 tokens, match: request.tenant == "turn", mode: armed,
   do: {reroute: {to: again}}}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, server: VllmProcess, runtime: Path) -> Iterator[Stack]:
    url = f"http://127.0.0.1:{server.port}"
    settings = {
        "socket": str(runtime / "compat.sock"), "gateway": {"upstream": url, "tenant_header": "x-tenant", "targets": {"again": {"upstream": url}}},
        "sidecar": {"on_stale_thresholds": "armed"},
    }  # fmt: skip
    with Stack(tmp_path_factory.mktemp("stack"), settings, RULES, engine=False) as running:
        # The tap has no token yet to prove itself with: the gateway's trial gives it some.
        eventually(lambda: httpx.get(running.admin("/health")).status_code == 200, "the tap has proved itself")
        yield running


@pytest.mark.parametrize("name", [*CASES, *TOOLS, *MORE])
def test_openais_client_sees_no_difference(stack: Stack, server: VllmProcess, name: str) -> None:
    urls = (server.url("/v1"), stack.gateway("/v1"))
    direct, gateway = (openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300) for url in urls)
    for case in {**CASES, **TOOLS, **MORE}[name]:
        said(case, direct, MODEL)  # what it reads lies in the prefix cache then, for both
        for _ in range(6 if name in NOISY else 2):
            found = differences(said(case, direct, MODEL), said(case, gateway, MODEL))
            if not found:
                break
        assert found == []


@pytest.mark.parametrize("streams", [False, True])
def test_the_responses_api(stack: Stack, server: VllmProcess, streams: bool) -> None:
    def ask(url: str) -> Any:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)
        answer = client.responses.create(
            model=MODEL, input="What is the capital of France?", temperature=0, max_output_tokens=16, stream=streams
        )
        return [plain(event) for event in answer] if streams else plain(answer)

    ask(server.url("/v1"))
    assert differences(ask(server.url("/v1")), ask(stack.gateway("/v1"))) == []


@pytest.mark.parametrize("streams", [False, True])
def test_anthropics_client_sees_no_difference(stack: Stack, server: VllmProcess, streams: bool) -> None:
    def ask(url: str) -> Any:
        client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=300)
        asked: dict[str, Any] = {"model": MODEL, "messages": USER, "max_tokens": 16, "extra_body": {"temperature": 0}}
        if not streams:
            return plain(client.messages.create(**asked))
        with client.messages.stream(**asked) as stream:
            kinds = [event.type for event in stream]
            return [kinds, plain(stream.get_final_message())]

    def count(url: str) -> Any:
        client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
        return plain(client.messages.count_tokens(model=MODEL, messages=USER))  # type: ignore[arg-type]

    def wrong(url: str) -> Any:
        try:
            return plain(
                anthropic.Anthropic(base_url=url, api_key="none", max_retries=0).messages.create(model="other", max_tokens=1, messages=USER)
            )  # type: ignore[arg-type]
        except anthropic.APIStatusError as error:
            return [error.status_code, error.body]

    for question in (ask, count, wrong):
        question(server.url(""))
        assert differences(question(server.url("")), question(stack.gateway(""))) == []


def test_prompts_with_several_choices_are_all_judged(stack: Stack) -> None:
    body = {"model": MODEL, "prompt": ["The sea is", "A house has"], "n": 2, "max_tokens": 8, "temperature": 1}
    response = httpx.post(stack.gateway("/v1/completions"), json=body, timeout=120)
    assert (response.status_code, response.headers["x-barograph"]) == (200, "judged")
    assert [choice["index"] for choice in response.json()["choices"]] == [0, 1, 2, 3]
    assert stack.metric("barograph_failure_decisions_total") == 0


def test_a_reply_is_cut_off_and_asked_for_again_at_vllm(stack: Stack) -> None:
    """Nothing has left of a reply that does not stream, so the target says all of it; a second verdict of the same rule there halts."""
    eventually(lambda: httpx.get(stack.admin("/orders")).json()["targets"]["again"]["continues"], "the target was looked at")
    target = httpx.get(stack.admin("/orders")).json()["targets"]["again"]
    assert target == {"state": "ok", "judged": "here", "continues": True}
    body = {"model": MODEL, "messages": USER, "max_tokens": 24, "temperature": 0}
    answer = httpx.post(stack.gateway("/v1/chat/completions"), json=body, headers={"x-tenant": "turn"}, timeout=120)
    assert answer.json()["choices"][0]["finish_reason"] == "content_filter"
    assert (answer.headers["x-barograph"], answer.headers["x-barograph-target"]) == ("rerouted:again", "again")
    intent, outcome = stack.ledger("reroute")[-2:]
    assert (intent["do"], outcome["do"], outcome["judged"]) == ("restart", "taken", "here")
    streamed = httpx.post(stack.gateway("/v1/chat/completions"), json={**body, "stream": True}, headers={"x-tenant": "turn"}, timeout=120)
    assert '"finish_reason":"content_filter"' in streamed.text
    # This engine parses all that the small model says as reasoning, and what has left of that is no prefix.
    assert ": x-barograph: judged\n" in streamed.text
    intent = stack.ledger("reroute")[-1]
    assert (intent["event"], intent["do"]) == ("intent", "halt")
    assert intent["why"].startswith("reasoning has left")

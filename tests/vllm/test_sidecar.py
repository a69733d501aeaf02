"""vLLM behind the gateway: a rule stops it, and what becomes of it without a sidecar."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from monitor.engine.vllm_process import VllmProcess
from tests.otlp import Came, attributes
from tests.stack import MODEL, Stack, eventually
from tests.vllm.conftest import fifty

pytestmark = pytest.mark.timeout(900)

RULES = """
rules:
- rule: always
  desc: Fires at the fourth token, whatever it is.
  when: panic.last > -1000
  match: request.tenant != "turned" && request.tenant != "free"
  for: 4 tokens
  do: {halt: {message: Stopped by a test.}}
  accept_unproven: [panic]
  mode: armed
  severity: critical
- rule: turn
  desc: Fires at the sixth token, and at the sixth of what follows.
  when: panic.last > -1000
  match: request.tenant == "turned"
  for: 6 tokens
  do: {reroute: {to: again, else: {message: Twice.}}}
  accept_unproven: [panic]
  mode: armed
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, tapped: VllmProcess, runtime: Path, came: Came) -> Iterator[Stack]:
    settings = {
        "socket": str(runtime / "tap.sock"),
        "gateway": {
            "upstream": tapped.url(""),
            "tenant_header": "x-tenant",
            "targets": {"again": {"upstream": tapped.url("")}},
        },
        "sidecar": {"on_stale_thresholds": "armed", "otel": {"endpoint": came.address}},
    }
    with Stack(tmp_path_factory.mktemp("stack"), settings, rules=RULES, engine=False) as running:
        eventually(lambda: httpx.get(running.admin("/health")).status_code == 200, "the tap has come")
        yield running


def test_a_rule_halts_vllm_at_its_token(stack: Stack) -> None:
    chunks = list(stack.chunks("Write a long story about the sea.", max_tokens=60))
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    (verdict,) = [each for each in stack.ledger("verdict") if each["rule"] == "always"]
    assert verdict["position"] == 3
    assert stack.metric("barograph_taps_stale") == 1  # calibrated on another engine


def test_vllms_own_span_is_part_of_the_clients_trace(stack: Stack, came: Came) -> None:
    """Client, gateway, engine: one trace, each below the one before."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert stack.chat(headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-tenant": "free"}, max_tokens=4).status_code == 200
    eventually(lambda: len([span for span in came.spans if span.trace_id.hex() == trace]) >= 2, "both have told of it", 60)
    spans = {span.span_id.hex(): span for span in came.spans if span.trace_id.hex() == trace}
    ours = next(span for span in spans.values() if span.name.startswith("chat "))
    assert ours.parent_span_id.hex() == "00f067aa0ba902b7"
    below = [span for span in spans.values() if span.parent_span_id == ours.span_id]
    assert any(attributes(span.attributes).get("gen_ai.usage.completion_tokens") == 4 for span in below), [span.name for span in below]


def test_vllm_goes_on_from_what_has_left_and_is_judged_there(stack: Stack, tapped: VllmProcess) -> None:
    eventually(lambda: httpx.get(stack.admin("/orders")).json()["targets"]["again"]["continues"], "the target was looked at", 60)
    messages = [{"role": "user", "content": "Name the months of the year."}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 10, "temperature": 0}
    plain = httpx.post(tapped.url("/v1/chat/completions"), json=body, timeout=120).json()["choices"][0]["message"]["content"]
    answer = stack.chat(messages[0]["content"], headers={"x-tenant": "turned"}, stream=True, max_tokens=40)
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    said = "".join(part["delta"].get("content") or "" for chunk in chunks for part in chunk["choices"])
    # Five tokens of the first part and five of the second, as if nothing had happened in between; then the second verdict.
    assert said == f"{plain}Twice."
    assert len({chunk["id"] for chunk in chunks}) == 1
    intent, outcome = stack.ledger("reroute")
    assert (intent["do"], outcome["do"], outcome["judged"]) == ("continue", "taken", "here")
    course = {"0": ["running", "rerouting", "rerouted", "halted"]}
    eventually(lambda: any(reply["course"] == course for reply in stack.ledger("reply")), "the reply is recorded")


def test_a_stop_ends_what_vllm_runs_by_its_own_count(stack: Stack, tapped: VllmProcess) -> None:
    """Closing a connection is not enough if the engine goes on without it; so vLLM itself is asked."""

    def count(what: str) -> int:
        lines = httpx.get(tapped.url("/metrics")).text.splitlines()
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith(f"vllm:{what}"))

    def held() -> int:
        return count("num_requests_running") + count("num_requests_waiting{")

    def through() -> int:
        """Requests that came to their end. vLLM does not count those that were cut off."""
        return count("request_success_total")

    def ask(stream: bool) -> httpx.Response:
        return stack.chat("Write a very long story.", headers={"x-tenant": "free"}, stream=stream, max_tokens=480, ignore_eos=True)

    def until_stopped(stream: bool) -> list[httpx.Response]:
        """One reply after the other: whenever the stop comes, it finds some running."""
        answers = [ask(stream)]
        while "stopped for all by" not in answers[-1].text:
            assert answers[-1].status_code == 200, answers[-1].text
            answers.append(ask(stream))
        return answers

    def resume() -> httpx.Response:
        return stack.change("/commands", {"verb": "resume", "all": True, "reason": "drill is over"})

    before = through()
    try:
        with ThreadPoolExecutor(6) as pool:
            asking = [pool.submit(until_stopped, i % 2 == 0) for i in range(6)]
            try:
                # vLLM counts a request from its prompt on, the sidecar from its first token.
                eventually(lambda: held() >= 3 and stack.metric("barograph_streams_running") >= 1, "several run", 120)
            finally:
                outcome = stack.change("/commands", {"verb": "stop", "all": True, "reason": "drill"}).json()
            answered = [each.result() for each in asking]
        assert outcome["streams"] >= 1, outcome
        assert outcome["still_running"] == 0, outcome
        eventually(lambda: held() == 0, "vLLM's own count falls")
        whole = sum(len(answers) - 1 for answers in answered)
        assert through() - before - whole <= 1, "no more than one was at its last token anyway"
        assert all(answers[-1].status_code in ((200, 503) if i % 2 == 0 else (503,)) for i, answers in enumerate(answered)), answered
        refused = ask(False)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopped")
        assert held() == 0
    finally:
        resumed = resume()  # or what follows is refused too
    assert resumed.status_code == 200, resumed.text
    assert stack.chat("Say hello.", headers={"x-tenant": "free"}, max_tokens=4).status_code == 200


def test_a_sidecar_that_dies_or_hangs_costs_the_engine_nothing(stack: Stack, tapped: VllmProcess) -> None:
    def ask() -> float:
        start = time.monotonic()
        body = {"model": MODEL, "prompt": "The sea", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
        answer = httpx.post(tapped.url("/v1/completions"), json=body, timeout=120)
        assert answer.json()["usage"]["completion_tokens"] == 40
        return time.monotonic() - start

    ask()
    stack.processes["sidecar"].send_signal(signal.SIGSTOP)
    try:
        fifty(tapped)  # more frames than socket and queue hold
        ask()
    finally:
        stack.processes["sidecar"].send_signal(signal.SIGCONT)
    eventually(lambda: stack.metric("barograph_frames_lost") > 0, "the sidecar hears of the gap")
    stack.stop("sidecar", signal.SIGKILL)
    ask()
    stack.start("sidecar")
    eventually(lambda: httpx.get(stack.admin("/health")).status_code == 200, "the tap came back")
    assert stack.chat("Say hello.").json()["choices"][0]["finish_reason"] == "content_filter"
    assert "Traceback" not in tapped.log.read_text(errors="replace")

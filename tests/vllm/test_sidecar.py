"""vLLM behind the gateway: a rule stops it, and what becomes of it without a sidecar."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from monitor.engine.vllm_process import VllmProcess
from tests.stack import MODEL, Stack, eventually
from tests.vllm.conftest import fifty

pytestmark = pytest.mark.timeout(900)

RULES = """
rules:
- rule: always
  desc: Fires at the fourth token, whatever it is.
  when: panic.last > -1000
  for: 4 tokens
  do: {halt: {message: Stopped by a test.}}
  mode: armed
  severity: critical
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, tapped: VllmProcess, runtime: Path) -> Iterator[Stack]:
    settings = {
        "socket": str(runtime / "tap.sock"),
        "gateway": {"upstream": f"http://127.0.0.1:{tapped.port}"},
        "sidecar": {"on_stale_thresholds": "armed"},
    }
    with Stack(tmp_path_factory.mktemp("stack"), settings, rules=RULES, engine=False) as running:
        eventually(lambda: httpx.get(running.admin("/health")).status_code == 200, "the tap has come")
        yield running


def test_a_rule_halts_vllm_at_its_token(stack: Stack) -> None:
    chunks = list(stack.chunks("Write a long story about the sea.", max_tokens=60))
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    (verdict,) = stack.ledger("verdict")
    assert verdict["position"] == 3
    assert stack.metric("barograph_taps_stale") == 1  # calibrated on another engine


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

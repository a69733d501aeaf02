"""The whole loop on real parts: a rule sees a score, the engine pushes that row, and the rule looks again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from monitor.config import BANKS
from probes.bank import Bank
from tests.banks import steerable
from tests.stack import Stack, eventually

pytestmark = pytest.mark.timeout(600)

RULES = """rules:
- {rule: push, desc: d, when: panic.last > -1000, for: 4 tokens, match: request.tenant == "pushed", mode: armed,
   do: {steer: {probe: panic, dose: -0.1, for: 16 tokens, else: {halt: {message: It did not help.}}}}}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("steer")
    steerable(Bank.load(BANKS / "smollm2-135m-instruct")).save(folder / "bank")
    tap = {"bank": str(folder / "bank"), "steer": {"probes": ["panic"], "max_tokens": 64}}
    with Stack(folder, {"tap": tap, "gateway": {"tenant_header": "x-tenant"}}, RULES) as running:
        yield running


def chunks(stack: Stack, tenant: str, **body: Any) -> list[dict[str, Any]]:
    answer = stack.chat("Tell me about the sea.", headers={"x-tenant": tenant}, stream=True, max_tokens=60, **body)
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


def text(found: list[dict[str, Any]]) -> str:
    return "".join(part["delta"].get("content") or "" for each in found for part in each["choices"])


def test_a_reply_is_pushed_from_its_next_token_on_and_ends_when_that_does_not_help(stack: Stack) -> None:
    plain, pushed = text(chunks(stack, "")), chunks(stack, "pushed")
    asked, began, ended = stack.ledger("steer")
    assert (asked["event"], asked["position"], asked["probe"], asked["dose"], asked["wanted"]) == ("asked", 3, "panic", -0.1, 16)
    assert (began["event"], began["first"]) == ("began", 4 + began["late"])
    assert 0 <= began["late"] < 16, "a busy machine may take a few tokens to answer"
    assert (ended["event"], ended["tokens"], ended["at"]) == ("else", 16, began["first"] + 16)
    said = text(pushed)
    assert said.endswith("It did not help.")
    assert pushed[-1]["choices"][0]["finish_reason"] == "content_filter"
    words = plain.split(" ")
    assert said.split(" ")[: began["first"] // 2] == words[: began["first"] // 2], "what was said before the push is as without it"
    verdicts = [(each["action"], each["position"]) for each in stack.ledger("verdict")]
    assert verdicts == [("steer", 3), ("halt", ended["at"])]
    assert stack.metric('barograph_steers_total{event="else",probe="panic"}') == 1
    assert stack.ledger("tap")[0]["steers"] == ["panic"]
    eventually(lambda: httpx.get(stack.engine("/health")).json()["running"] == 0, "the engine stopped")


def test_others_are_left_alone(stack: Stack) -> None:
    before = len(stack.ledger("steer"))
    assert text(chunks(stack, "")) == text(chunks(stack, "other"))
    assert len(stack.ledger("steer")) == before


def test_what_is_not_allowed_is_refused_in_one_line(stack: Stack) -> None:
    path = Path(stack.folder / "rules.yaml")
    good = path.read_text()
    try:
        path.write_text(good.replace("dose: -0.1", "dose: -0.15"))
        answer = stack.change("/rules/reload", {"reason": "a test"})
        assert answer.status_code == 409
        assert "rule 'push' steers with a dose of -0.15; tap.steer.max_dose is 0.1" in answer.text
    finally:
        path.write_text(good)


def test_an_engine_does_not_start_with_a_probe_that_has_no_cause(stack: Stack, tmp_path: Path) -> None:
    config = yaml.safe_load(stack.config_path.read_text())
    config["tap"] = {"steer": {"probes": ["valence"]}}
    config["engine"]["listen"] = f"unix:{stack.runtime / 'e2.sock'}"
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "monitor", "engine", "--config", str(tmp_path / "b.yaml")], capture_output=True, text=True, timeout=200
    )
    assert done.returncode != 0
    assert "tap.steer names the probe 'valence', whose card does not say causal: true" in done.stderr
    assert "Traceback" not in done.stderr

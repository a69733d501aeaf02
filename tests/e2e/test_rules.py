"""Rules on a running Barograph: reloads between frames, conversations, recordings, replays and explanations."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.stack import Stack, eventually

RULES = """
rules:
- rule: each
  desc: Fires in every stream at its third token.
  match: request.tenant != "quiet"
  when: panic.last > -99
  for: 3 tokens
  do: alert
  mode: armed
  runbook: docs/runbooks/panic.md
- rule: turns
  desc: Fires in the second request of a conversation.
  when: panic.count_above(conversation, 1000, -99) > 12.5
  do: observe
  mode: armed
- rule: halting
  desc: Would stop everything.
  when: panic.ewma(8) > fpr(0.01) or panic.last > -99
  for: 5 tokens
  do: halt
"""
SETTINGS = {
    "gateway": {"tenant_header": "x-tenant", "conversation_header": "x-conversation", "match_headers": ["x-kind"], "tenants": ["acme"]},
    "audit": {"level": "scores"},
}


def barograph(*arguments: str, ok: int | None = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "monitor", *arguments], capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "160"}
    )
    assert ok is None or done.returncode == ok, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("rules"), SETTINGS, rules=RULES) as running:
        yield running


def fired(stack: Stack, rule: str) -> list[dict[str, object]]:
    return [record for record in stack.ledger("verdict") if record["rule"] == rule and record["event"] == "fired"]


def test_a_verdict_says_all_that_is_needed_to_explain_it(stack: Stack) -> None:
    stack.chat(headers={"x-tenant": "acme"})
    (verdict,) = fired(stack, "each")
    assert (verdict["position"], verdict["action"], verdict["mode"], verdict["runbook"]) == (2, "alert", "armed", "docs/runbooks/panic.md")
    assert len(verdict["digest"]) == 64  # type: ignore[arg-type]
    (shadow,) = fired(stack, "halting")
    assert (shadow["position"], shadow["mode"], shadow["shadow"]) == (4, "shadow", "mode")
    assert "panic.ewma(8) fpr(0.01)" in shadow["thresholds"]  # type: ignore[operator]
    assert (
        stack.metric(
            'barograph_verdicts_total{action="alert",mode="armed",model="SmolLM2-135M-Instruct",rule="each",severity="warning",tenant="acme"}'
        )
        == 1
    )
    begin = stack.ledger("stream")[0]
    assert begin["request"]["tenant"] == "acme"


def test_match_leaves_a_tenant_alone_and_unknown_tenants_are_no_labels(stack: Stack) -> None:
    before = len(fired(stack, "each"))
    stack.chat(headers={"x-tenant": "quiet"})
    assert len(fired(stack, "each")) == before
    stack.chat(headers={"x-tenant": "someone-else"})
    assert len(fired(stack, "each")) == before + 1
    text = httpx.get(stack.admin("/metrics")).text
    assert 'tenant="other"' in text
    assert "someone-else" not in text


def test_a_conversation_spans_requests(stack: Stack) -> None:
    def turns() -> int:
        return len(fired(stack, "turns"))

    before = turns()
    for _ in range(2):
        stack.chat(headers={"x-conversation": "secret-conversation"}, max_tokens=8)
    eventually(lambda: turns() == before + 1, "the second request fired")
    stack.chat(headers={"x-conversation": "another"}, max_tokens=8)
    assert turns() == before + 1
    assert "secret-conversation" not in str(stack.ledger()) + stack.log("sidecar")


def test_explain_prints_one_screen(stack: Stack) -> None:
    number = str(fired(stack, "halting")[0]["seq"])
    text = barograph("rules", "explain", number, "--ledger", str(stack.ledger_path)).stdout
    for part in (
        "halting halt, shadow",
        "token 4 of stream",
        "panic.ewma(8) > fpr(0.01)",
        "panic.ewma(8) = ",
        "panic, the last 5 scores",
        "desperation",
        "█",
    ):
        assert part in text
    assert len(text.splitlines()) < 45
    assert barograph("rules", "explain", "last", "--ledger", str(stack.ledger_path)).stdout
    bad = barograph("rules", "explain", "999999", "--ledger", str(stack.ledger_path), ok=2)
    assert "no verdict 999999; the last are" in bad.stderr
    assert bad.stderr.count("\n") == 1


def test_replay_of_the_ledger_says_what_a_candidate_would_have_done(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "candidate.yaml").write_text(RULES.replace("for: 3 tokens", "for: 6 tokens").replace("- rule: turns", "- rule: other"))
    eventually(lambda: len(stack.ledger("scores")) >= 5, "scores are recorded")
    arguments = ["rules", "replay", str(stack.ledger_path), "--rules", str(tmp_path / "candidate.yaml"), "--config", str(stack.config_path)]
    summary = json.loads(barograph(*arguments, "--json").stdout)
    each = summary["rules"]["each"]
    # What is replayed fires where it fired when it ran.
    assert each["present"]["fires"] == len(fired(stack, "each"))
    assert {tuple(key)[2] for key in each["only_present"]} == {2}
    assert {tuple(key)[2] for key in each["only_candidate"]} == {5}
    assert summary["rules"]["halting"]["only_candidate"] == summary["rules"]["halting"]["only_present"] == []
    assert summary["rules"]["turns"]["candidate"] is None
    shown = barograph(*arguments, "--plot", str(tmp_path / "plot.png"))
    assert "would have fired" in shown.stdout
    assert (tmp_path / "plot.png").stat().st_size > 5000
    failed = barograph(*arguments, "--max-fires-per-1k-tokens", "0.5", ok=1)
    assert "FAIL  each fires" in failed.stderr
    barograph(*arguments, "--max-fires-per-1k-tokens", "1000")


def test_scores_in_parquet_replay_alike(stack: Stack, tmp_path: Path) -> None:
    config = ("--config", str(stack.config_path))
    barograph("rules", "record", str(stack.ledger_path), str(tmp_path / "s.parquet"), *config)
    one, two = (
        json.loads(barograph("rules", "replay", source, "--json", *config).stdout)
        for source in (str(stack.ledger_path), str(tmp_path / "s.parquet"))
    )
    assert one["rules"] == two["rules"]
    assert one["tokens"] == two["tokens"] > 20
    bad = barograph("rules", "replay", str(tmp_path / "none.parquet"), *config, ok=2)
    assert "no such file" in bad.stderr


def test_a_reload_between_frames_by_file_signal_and_api(stack: Stack) -> None:
    path = stack.folder / "rules.yaml"

    def digest() -> str:
        answer: str = httpx.get(stack.admin("/rules")).json()["digest"]
        return answer

    first = digest()
    path.write_text(RULES.replace("for: 5 tokens", "for: 6 tokens"))
    eventually(lambda: digest() != first, "the file's change was seen")
    second = digest()
    path.write_text(RULES.replace("panic.last > -99\n  for: 3", "panik.last > -99\n  for: 3"))
    eventually(lambda: stack.metric("barograph_rules_reload_failed") == 1, "the bad file was refused")
    assert digest() == second
    stack.processes["sidecar"].send_signal(signal.SIGHUP)
    eventually(lambda: stack.log("sidecar").count("did you mean 'panic'?") >= 2, "the signal was heard")
    assert stack.change("/rules/reload", {"reason": "a test"}).status_code == 409
    stack.change("/rules/freeze", {"reason": "incident"})
    path.write_text(RULES)
    assert stack.change("/rules/reload", {"reason": "a test"}).json()["error"] == "reloads are frozen: admin: incident"
    assert digest() == second
    stack.change("/rules/thaw", {"reason": "over"})
    assert stack.change("/rules/reload", {"reason": "a test"}).json()["digest"] == first
    events = [record["event"] for record in stack.ledger("rules")]
    assert {"loaded", "reloaded", "refused", "frozen", "thawed"} <= set(events)
    assert "Traceback" not in stack.log("sidecar")


def test_a_reload_in_the_middle_of_streams_loses_none(stack: Stack) -> None:
    """While replies run, the rules change again and again: every token is judged all the same."""
    path = stack.folder / "rules.yaml"
    chunks = []
    for i, chunk in enumerate(stack.chunks("Write a long story.", max_tokens=60)):
        chunks.append(chunk)
        if i % 10 == 5:
            path.write_text(RULES.replace("for: 5 tokens", f"for: {6 + i} tokens"))
            assert stack.change("/rules/reload", {"reason": "a test"}).status_code == 200
    assert all("error" not in chunk for chunk in chunks)
    end = stack.ledger("stream")[-1]
    assert end["tokens"] == end["judged"]

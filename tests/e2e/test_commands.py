"""Commands to a whole Barograph: a person's stop, and a policy engine's loop over a real broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.stack import ADMIN_TOKEN, Stack, environment, eventually, free_port
from tests.tansu import OUTCOMES, broker, consume

ROOT = Path(__file__).parents[2]
RULES = "rules:\n- {rule: each, desc: d, when: calm.last > -99, do: alert, mode: armed}\n"


def barograph(stack: Stack, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "monitor", *words, "--config", str(stack.config_path)], capture_output=True, text=True, timeout=60,
        env=environment(BAROGRAPH_ADMIN_TOKEN=ADMIN_TOKEN),
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.timeout(400)
def test_the_stop_button(tmp_path: Path) -> None:
    with Stack(tmp_path, rules=RULES) as stack:
        answers: list[httpx.Response] = []
        asking = [
            threading.Thread(target=lambda: answers.append(stack.chat("Tell me a long story.", max_tokens=2000, stream=True)))
            for _ in range(4)
        ]
        for thread in asking:
            thread.start()
        running = lambda: httpx.get(stack.engine("/health")).json()["running"]  # noqa: E731
        eventually(lambda: running() == 4, "four run")
        assert "needs a reason" in barograph(stack, "stop", "--all", "--reason", " ", code=2)
        assert running() == 4
        assert barograph(stack, "stop", "--all", "--reason", "a drill").startswith("stopped: 4 running generations were ended\n")
        assert running() == 0  # the engine's own word
        for thread in asking:
            thread.join(20)
        assert ["stopped for all by admin: a drill" in answer.text for answer in answers] == [True] * 4
        for number in (signal.SIGKILL, signal.SIGTERM):
            stack.stop("sidecar", number)
            stack.start("sidecar")
            stack.wait_ready()
            refused = stack.chat()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopped")
        stack.stop("engine", signal.SIGKILL)
        stack.start("engine")
        eventually(lambda: httpx.get(stack.engine("/health")).status_code == 200, "the engine is back", 240)
        assert stack.chat().status_code == 503
        assert "stop all: by admin: a drill" in barograph(stack, "orders")
        assert barograph(stack, "resume", "--all", "--reason", "over") == "resumed; it was stopped by admin: a drill\n"
        eventually(lambda: stack.chat(max_tokens=2).status_code == 200, "all is well again")
        assert "nothing to resume" in barograph(stack, "resume", "--all", "--reason", "again", code=2)
        said = [(each["verb"], each["outcome"], each["issuer"], each["reason"]) for each in stack.ledger("command")]
        assert said[1:] == [
            ("stop", "done", "admin", "a drill"),
            ("resume", "done", "admin", "over"),
            ("resume", "refused", "admin", "again"),
        ]


@pytest.mark.timeout(400)
@pytest.mark.skipif(sys.platform != "linux", reason="the broker is a Linux binary")
def test_a_policy_engine_closes_the_loop(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "examples" / "policy_engine.py")]
    key = tmp_path / "engine-1.pem"
    made = subprocess.run([*script, "--new-key", str(key)], capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path)
    issuers: Any = {"engine-1": yaml.safe_load(made.stdout).popitem()[1]}
    with broker(free_port(), tmp_path / "broker.log") as address:
        kafka = {"bootstrap": address, "commands": {"issuers": issuers}}
        settings = {"gateway": {"tenant_header": "x-tenant"}, "sidecar": {"kafka": kafka}}
        with Stack(tmp_path, settings, RULES) as stack:
            engine = subprocess.Popen(
                [*script, "--bootstrap", address, "--key", str(key), "--rule", "each", "--tenant", "loud", "--since", "earliest"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
            try:
                loud = {"x-tenant": "loud"}
                for _ in range(3):
                    assert stack.chat(max_tokens=2, headers=loud).status_code == 200
                eventually(lambda: stack.metric('barograph_commands_total{outcome="done",verb="throttle"}') == 1, "the command came", 90)
                statuses = [stack.chat(max_tokens=2, headers=loud).status_code for _ in range(2)]
                assert statuses == [200, 429]
                assert stack.chat(max_tokens=2, headers={"x-tenant": "quiet"}).status_code == 200
            finally:
                engine.terminate()
                engine.wait(10)
            (record,) = stack.ledger("command")
            assert (record["via"], record["issuer"], record["reason"]) == ("kafka", "engine-1", "each fired 3 times")
            assert consume(address, 1, topic=OUTCOMES) == [record]

"""The ledger of a whole Barograph: through halts and a killed sidecar, with a witness, checked from the command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests import ledgers
from tests.stack import ADMIN_TOKEN, Stack, eventually, free_port

RULES = """
rules:
- {rule: stop, desc: Halts at the third token., accept_unproven: [panic], when: panic.last > -99, match: request.tenant == "bad", for: 3 tokens, do: {halt: {message: Stopped.}}, mode: armed}
"""


def barograph(*arguments: object, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "monitor", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    port = free_port()
    os.environ.pop("BAROGRAPH_AUDIT_KEY", None)
    vkey = barograph("audit", "key", "--new", "test.example/barograph", "--file", folder / "audit.key").splitlines()[0]
    with ledgers.witness(folder / "w", port, vkey) as cosigner:
        audit = {
            "key": str(folder / "audit.key"), "checkpoint_s": 0.5, "heartbeat_s": 1, "checkpoints": str(folder / "kept"),
            "witnesses": [{"url": f"http://127.0.0.1:{port}", "vkey": cosigner}],
        }  # fmt: skip
        with Stack(folder, {"audit": audit, "gateway": {"tenant_header": "x-tenant"}}, rules=RULES) as running:
            (folder / "policy").write_text(f"log {vkey}\nwitness w {cosigner}\nquorum w\n")
            yield running


def verified(stack: Stack) -> dict[str, object]:
    said: dict[str, object] = json.loads(barograph("audit", "verify", stack.ledger_path, "--policy", stack.folder / "policy", "--json"))
    return said


def test_what_happened_is_proved_without_the_sidecar(stack: Stack) -> None:
    assert stack.chat(headers={"x-tenant": "bad", "x-request-id": "mine"}).json()["choices"][0]["finish_reason"] == "content_filter"
    (verdict,) = stack.ledger("verdict")
    eventually(lambda: stack.metric("barograph_ledger_sealed") > verdict["seq"], "the verdict is sealed")
    barograph("audit", "prove", verdict["seq"], "--ledger", stack.ledger_path, "--out", stack.folder / "evidence")
    assert json.loads((stack.folder / "evidence" / f"{verdict['seq']}.json").read_bytes()) == verdict
    assert (stack.folder / "evidence" / f"{verdict['seq']}.tlog-proof").read_text().startswith("c2sp.org/tlog-proof@v1\nindex ")
    eventually(lambda: stack.ledger("reply"), "the reply is recorded")
    known = barograph("audit", "pseudonym", "request", "mine", "--ledger", stack.ledger_path).strip()
    assert [record["client_request"] for record in stack.ledger("reply")] == [known]
    assert "no record 9999999 to prove" in barograph("audit", "prove", 9999999, "--ledger", stack.ledger_path, code=2)
    assert json.loads(barograph("audit", "tail", stack.ledger_path, "--kind", "verdict").splitlines()[-1]) == verdict
    eventually(lambda: (stack.ledger_path / "witnessed").exists(), "a witness has cosigned")
    said = barograph("audit", "verify", stack.ledger_path, "--policy", stack.folder / "policy")
    assert "nothing is wrong" in said
    eventually(lambda: len(stack.ledger("heartbeat")) >= 2, "it shows that it lives")
    eventually(lambda: (stack.folder / "kept").read_bytes().count(b"test.example/barograph\n") >= 2, "checkpoints are kept elsewhere")
    barograph("audit", "verify", stack.ledger_path, "--policy", stack.folder / "policy", "--since", stack.folder / "kept")
    assert "holds no checkpoint" in barograph(
        "audit", "verify", stack.ledger_path, "--policy", stack.folder / "policy", "--since", stack.folder / "policy", code=2
    )
    other = "other.example/log+" + "0" * 8 + "+AAAA"
    assert "cannot verify" in barograph("audit", "verify", stack.ledger_path, "--key", other, code=2)
    assert "no key of the log is given" in barograph("audit", "verify", stack.ledger_path, code=2)


def test_a_killed_sidecar_leaves_no_generation_without_an_end(stack: Stack) -> None:
    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):
            stack.chat("Write a long story.", max_tokens=400)

    asked = threading.Thread(target=ask)
    asked.start()
    eventually(lambda: stack.metric("barograph_streams_running") == 1, "a generation runs")
    command = stack.change("/commands", {"verb": "freeze", "reason": "for the record"})
    assert command.json()["outcome"] == "done"
    stack.stop("sidecar", signal.SIGKILL)
    asked.join(timeout=60)
    assert [record["id"] for record in stack.ledger("command")] == [command.json()["id"]]  # it was answered, so it is there
    stack.start("sidecar")
    stack.wait_ready()
    records = stack.ledger()
    begins = [record["stream"] for record in records if record["kind"] == "stream" and record["event"] == "begin"]
    ends = [record["stream"] for record in records if record["kind"] == "stream" and record["event"] != "begin"]
    assert sorted(begins) == sorted(ends)
    assert any("the sidecar ended" in record.get("why", "") for record in records if record["kind"] == "stream")
    assert [record["seq"] for record in records] == list(range(len(records)))
    assert verified(stack)["problems"] == []


def test_an_edit_shows(stack: Stack) -> None:
    stack.stop("sidecar")
    assert verified(stack)["records"] == len(stack.ledger())
    bundles = [path for path in (stack.ledger_path / "tile" / "entries").rglob("*") if path.is_file()]
    newest = max(bundles, key=lambda path: path.stat().st_size)
    whole = newest.read_bytes()
    newest.write_bytes(whole.replace(b'"position":2', b'"position":3'))
    assert newest.read_bytes() != whole
    said = barograph("audit", "verify", stack.ledger_path, "--policy", stack.folder / "policy", code=1)
    assert "WRONG  record" in said
    assert "something is wrong" in said
    newest.write_bytes(whole)
    stack.start("sidecar")
    stack.wait_ready()
    assert ADMIN_TOKEN not in str(stack.ledger())

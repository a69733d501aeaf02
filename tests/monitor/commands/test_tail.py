"""`barograph tail`, on a real ledger."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests import ledgers
from tests.stack import eventually

FIRED = {"event": "fired", "position": 7, "signals": {"panic.last": 4.25}, "digest": "d"}


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    made = ledgers.ledger(tmp_path / "ledger")
    for stream, tenant in (("a#0", "acme"), ("b#0", "globex")):
        made.append("stream", event="begin", stream=stream, request={"tenant": tenant, "model": "m"})
    made.append("verdict", stream="a#0", rule="panic_rises", action="alert", mode="armed", **FIRED)
    made.append("verdict", stream="b#0", rule="stop", action="halt", mode="shadow", **FIRED)
    made.append("failure", stream="b#0", condition="no_tap", why="gone", decision="closed")
    made.append("heartbeat", taps=1)
    assert made.flush()
    return made


def tail(ledger: Any, *options: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "monitor", "tail", str(ledger.path), "--no-follow", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_a_person_reads_what_happened(ledger: Any) -> None:
    lines = tail(ledger).splitlines()
    assert len(lines) == 3
    assert "alert" in lines[0]
    assert "panic_rises fired at token 7: panic.last = 4.25  acme · m  a#0" in lines[0]
    assert "(shadow)" in lines[1]
    assert "no_tap closed, gone  globex · m" in lines[2]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--rule", "stop"), ["stop"]),
        (("--tenant", "acme"), ["panic_rises"]),
        (("--tenant", "globex", "--kind", "verdict"), ["stop"]),
        (("--action", "alert", "--action", "halt"), ["panic_rises", "stop"]),
        (("--mode", "armed"), ["panic_rises"]),
        (("--model", "other"), []),
        (("-n", "1"), [None]),
    ],
)
def test_scripts_get_what_they_ask_for(ledger: Any, options: tuple[str, ...], found: list[str | None]) -> None:
    records = [json.loads(line) for line in tail(ledger, "--json", *options).splitlines()]
    assert [record.get("rule") for record in records] == found
    assert all(record["tenant"] in ("acme", "globex") for record in records)


def test_what_is_unknown_is_told(ledger: Any) -> None:
    assert "supported are verdict, failure" in tail(ledger, "--kind", "verdicts", code=2)
    assert "supported are armed, shadow" in tail(ledger, "--mode", "on", code=2)


def test_it_follows_what_comes(ledger: Any) -> None:
    command = [sys.executable, "-m", "monitor", "tail", str(ledger.path), "--json", "-n", "0", "--rule", "late"]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()  # type: ignore[arg-type]
            deadline = time.monotonic() + 60
            while not lines and time.monotonic() < deadline:  # some are written before it looks, so some more are
                ledger.append("verdict", stream="a#0", rule="late", action="alert", mode="armed", **FIRED)
                time.sleep(0.2)
            eventually(lambda: lines, "a line came")
        finally:
            process.kill()
    assert (json.loads(lines[0])["rule"], json.loads(lines[0])["tenant"]) == ("late", "acme")


def test_names_of_clients_do_not_move_the_cursor(tmp_path: Path) -> None:
    made = ledgers.ledger(tmp_path / "other")
    made.append("stream", event="begin", stream="a#0", request={"tenant": "x\x1b[2J\n00:00:00 halt forged\x9b", "model": "m"})
    made.append("verdict", stream="a#0", rule="r", action="alert", mode="armed", **FIRED)
    made.append("verdict", stream="a#0", rule="no position", action="alert", mode="armed", event="fired")  # a record of a damaged ledger
    assert made.flush()
    said = tail(made)
    assert r"x\x1b[2J\n00:00:00 halt forged\x9b" in said
    assert "\x1b" not in said
    assert len(said.splitlines()) == 2

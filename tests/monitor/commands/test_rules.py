"""`barograph rules` as a person meets it: what is printed, and how it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import ledgers

GOOD = "rules:\n- {rule: up, desc: d, when: panic.last > 1, for: 2 tokens, do: alert, mode: armed}\n"


def rules(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "monitor", "rules", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "140"},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_check_lists_what_a_file_says(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(GOOD)
    shown = rules("check", "--rules", str(tmp_path / "r.yaml")).stdout
    assert "panic.last > 1" in shown
    assert "1 rules, 0 fleet rules, digest " in shown
    assert "desperation_rising" in rules("check").stdout  # the default


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD.replace("panic.last", "panik.last"), "r.yaml:2:29: rule 'up', when: column 1: unknown probe 'panik'; did you mean 'panic'?"),
        (GOOD.replace("do: alert", "doo: alert"), "r.yaml:2:60: unknown key 'rules.0.doo'; did you mean 'do'?"),
        (GOOD.replace("2 tokens", "2 tokenz"), "'2 tokenz' is no duration; expected tokens such as '4 tokens'"),
        (
            GOOD.replace("alert", "halt").replace("panic", "valence"),
            "rule 'up' would halt on 'valence', whose card says causal: false",
        ),
        (GOOD.replace("do: alert", "do: {reroute: {to: safe}}"), "rule 'up' re-routes to 'safe'; expected gateway.targets with that name"),
        (GOOD.replace("do: alert", "do: {throttle: {tenant: {concurrency: 0}}}"), "concurrency': expected greater than or equal to 1"),
        ("", "no rules"),
        ("rules: [\n", "not YAML"),
        ("x" * (11 << 20), "expected at most"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    done = rules("check", "--rules", str(tmp_path / "r.yaml"), code=2)
    assert expected in done.stderr
    assert done.stderr.startswith("barograph: ")
    assert done.stderr.count("\n") == 1


def test_tests_print_a_difference_and_fail(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(GOOD)
    (tmp_path / "t.yaml").write_text("rules: r.yaml\ntests:\n- {name: n, scores: {panic: 2*3}, expect: [{rule: up, at: 2}]}\n")
    shown = rules("test", str(tmp_path / "t.yaml"), code=1).stdout
    assert "- expected: up fires at 2" in shown
    assert "+ got:      up fires at 1 (alert, armed): panic.last = 2" in shown
    (tmp_path / "t.yaml").write_text("rules: r.yaml\ntests:\n- {name: n, scores: {panic: 0}}\n")
    assert "has no test that expects it to fire" in rules("test", str(tmp_path / "t.yaml")).stdout
    rules("test", str(tmp_path / "t.yaml"), "--require-all", code=1)
    bad = rules("test", str(tmp_path / "none.yaml"), code=2)
    assert bad.stderr.startswith("barograph: cannot read")


def test_the_schema_and_the_export_are_documents(tmp_path: Path) -> None:
    assert json.loads(rules("schema").stdout)["$defs"]["Rule"]["properties"]["when"]
    assert {group["name"] for group in yaml.safe_load(rules("export-prometheus", "--rules", "strict").stdout)["groups"]} == {
        "barograph-rules", "barograph-fleet",
    }  # fmt: skip
    assert "cannot write" in rules("export-prometheus", "--out", "/no/such/place", code=2).stderr


def test_replay_and_explain_say_what_is_missing(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    ledgers.ledger(empty)
    assert "no recorded scores" in rules("replay", str(empty), code=2).stderr
    assert "expected the folder of a ledger" in rules("replay", os.devnull, code=2).stderr
    assert "expected the folder of a ledger" in rules("explain", "last", "--ledger", str(tmp_path / "none"), code=2).stderr
    assert "'x' is no verdict" in rules("explain", "x", "--ledger", str(empty), code=2).stderr

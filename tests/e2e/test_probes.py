"""Probes on the real model: canaries through the gateway, a passport that does not fit, scores of texts, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from probes.bank import Bank
from tests.e2e.test_cli import config, run
from tests.stack import Stack, eventually


def test_the_canaries_raise_their_probes_through_the_gateway(stack: Stack, bank: Bank) -> None:
    done = run("probes", "canary", "--config", str(stack.config_path))
    assert done.returncode == 0, done.stdout + done.stderr
    sent = sum(len(card.canaries) for card in bank.card.probes)
    assert sent >= 5
    assert len(done.stdout.splitlines()) == sent


def test_drift_is_exported_and_the_bank_is_named_in_the_ledger(stack: Stack, bank: Bank) -> None:
    stack.chat("Explain how a pump works.", max_tokens=24)
    assert abs(stack.metric('barograph_drift_shift{probe="panic"}')) < 10
    assert stack.metric('barograph_drift_deviation{probe="panic"}') > 0
    assert stack.metric("barograph_taps_stale") == 0
    start = stack.ledger("sidecar")[0]
    assert start["bank_arrays"] == bank.card.arrays_sha256
    assert start["bank"] == bank.digest


def test_another_dtype_makes_the_thresholds_stale(tmp_path: Path) -> None:
    with Stack(tmp_path, {"engine": {"dtype": "float32"}}) as running:
        eventually(lambda: running.metric("barograph_taps_stale") == 1, "the tap counts as stale")
        taps = httpx.get(running.admin("/health")).json()["taps"]
        assert taps[0]["stale"] == ["dtype", "kv_dtype"]
        assert running.ledger("tap")[0]["stale"] == ["dtype", "kv_dtype"]
        assert "calibrated for dtype bfloat16" in running.log("sidecar")


def test_all_probes_can_be_live(tmp_path: Path, whole_bank: Bank) -> None:
    with Stack(tmp_path, {"tap": {"probes": "all"}}) as running:
        chunks = list(running.chunks("Say hello.", max_tokens=8))
        scores = next(chunk["barograph"]["scores"] for chunk in chunks if chunk.get("barograph", {}).get("scores"))
        assert set(scores) == set(whole_bank.names)


def test_texts_are_scored(bank_folder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    rows = [
        {"prompt": "How long do lentils need?", "reply": "About twenty minutes in plenty of water, without salt."},
        {"prompt": "How long do lentils need?", "reply": "Shut your mouth, you stupid pig, I hate you and I will make you pay for this."},
    ]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("probes", "score", str(texts), "--bank", str(bank_folder), "--tokens")
    assert done.returncode == 0, done.stderr
    plain, hostile = (json.loads(line) for line in done.stdout.splitlines())
    assert hostile["hostility"]["mean"] > plain["hostility"]["mean"] + 1
    assert len(hostile["hostility"]["scores"]) == hostile["tokens"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("eval", "--labelled", "{tmp}/none.csv", "--bank", "{bank}"), "none.csv: cannot be read"),
        (("score", "{tmp}/bad.jsonl", "--bank", "{bank}"), "bad.jsonl:1: is no JSON object"),
        (("validate", "--probe", "rage", "--bank", "{bank}"), "has no probe 'rage'"),
        (("compare", "smollm2", "smollm2", "--dtype-b", "int3", "--bank", "{bank}"), "dtype 'int3' is unknown; supported are"),
        (("fit", "--out", "{tmp}/b", "--corpus", "{tmp}"), "cannot be read"),
        (("from-sae", "{tmp}", "--feature", "x=y", "--out", "{tmp}/b"), "feature 'x=y' is no NAME=NUMBER"),
        (("from-sae", "{tmp}", "--feature", "x=1", "--out", "{tmp}/b"), "expected cfg.json and sae_weights.safetensors"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], expected: str, bank_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("nope\n")
    done = run("probes", *(part.format(tmp=tmp_path, bank=bank_folder) for part in arguments), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_canaries_need_a_gateway(tmp_path: Path) -> None:
    done = run("probes", "canary", "--config", config(tmp_path))
    assert done.returncode == 2
    assert "no gateway answers" in done.stderr

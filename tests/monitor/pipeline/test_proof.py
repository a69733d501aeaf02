"""The proof that verify-tap writes, and what it is worth."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.errors import ConfigError
from monitor.pipeline.proof import Finding, Proof
from probes.passport import Passport

RUNNING = Passport(weights="", dtype="bfloat16", quantisation="none", kv_dtype="bfloat16", engine="vllm 0.32.0", adapter="none")


def proof(**changes: object) -> Proof:
    values = {
        "bank": "sha256:1", "passport": RUNNING, "engine": "vllm 0.32.0 (compiled)", "machine": "here", "time": "2026-01-01T00:00:00+00:00",
        "findings": (Finding(what="scores fire", ok=True, text=""),),
    }  # fmt: skip
    return Proof.model_validate({**values, **changes})


def test_it_covers_what_it_was_made_on_and_nothing_else(tmp_path: Path) -> None:
    proof().save(tmp_path / "proof.json")
    loaded, digest = Proof.load(tmp_path / "proof.json")
    assert loaded == proof()
    assert len(digest) == 64
    assert loaded.covers("sha256:1", RUNNING)
    assert not loaded.covers("sha256:2", RUNNING)
    assert not loaded.covers("sha256:1", RUNNING.model_copy(update={"dtype": "float16"}))


def test_a_failed_check_covers_nothing() -> None:
    assert not proof(findings=[{"what": "a", "ok": True, "text": ""}, {"what": "b", "ok": False, "text": ""}]).covers("sha256:1", RUNNING)
    assert not proof(findings=[]).covers("sha256:1", RUNNING)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, r"cannot read .*No such file.*expected what barograph verify-tap wrote"),
        ("{", r"the document: Invalid JSON.*expected what barograph verify-tap wrote"),
        ("{}", r"bank: Field required"),
        (proof(format=9).model_dump_json(), r"format 9; this version reads format 1"),
        (proof(findings=[Finding(what="cost", ok=False, text="")]).model_dump_json(), r"did not pass 'cost' there"),
        (proof(findings=[]).model_dump_json(), r"did not pass 'no findings' there"),
    ],
)
def test_a_file_that_proves_nothing_is_refused(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "proof.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        Proof.load(path)

"""What is said, on its way to the vault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitor.audit.vault import Vault, beside
from monitor.gateway import contents as module
from monitor.gateway.contents import MAX_REPLY, Contents, subject_of
from tests.ledgers import ledger, records


def test_the_subject_is_whom_the_header_or_the_parameters_name(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    contents = Contents(kept, "x-subject")
    asked = b'{"prompt": "\\ud800"}\xff'  # what no text can hold is kept as far as it can be
    for request, headers, payload in (
        ("r1", {"x-subject": "ann"}, {"user": "bob"}), ("r2", {}, {"safety_identifier": "ann", "user": "bob"}), ("r3", {}, {"user": "bob"}), ("r4", {}, {"user": 3}),
    ):  # fmt: skip
        content = contents.of(request, "t", headers, payload, asked)
        content.add(b"one ")
        content.add(b"two")
        content.end()
    contents.close()
    found = {each["request"]: each for each in records(kept.path, kept)}
    vault = Vault(beside(kept.path))
    said = json.loads(vault.get(found["r1"]["content"], found["r1"]["commitment"]))
    assert said["reply"] == "one two"
    assert said["request"].startswith('{"prompt": "\\ud800"}')
    assert len(vault.erase(subject_of("t", "ann"))) == 2
    assert len(vault.erase(subject_of("t", "bob"))) == 1
    assert vault.erase(subject_of("other", "r4")) == []
    assert len(vault.erase(subject_of("t", "r4"))) == 1
    assert "ann" not in json.dumps(list(found.values()))


def test_a_long_reply_is_cut_and_a_flood_is_dropped_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ledger(tmp_path / "l")
    contents = Contents(kept, None)
    content = contents.of("long", "", {}, {}, b"")
    content.add(bytes(MAX_REPLY - 1))
    content.add(b"xyz")
    content.end()
    contents.close()
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    contents = Contents(kept, None)
    content = contents.of("much", "", {}, {}, b"more than ten bytes")
    content.end()
    contents.close()
    long, much = records(kept.path, kept)
    assert (long["event"], long["cut"]) == ("kept", True)
    assert (much["event"], much["request"], much["bytes"]) == ("dropped", "much", 19)


def test_a_vault_that_takes_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ledger(tmp_path / "l")
    contents = Contents(kept, None)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Vault, "put", full)
    contents.of("r", "", {}, {}, b"x").end()
    contents.close()
    (dropped,) = records(kept.path, kept)
    assert (dropped["event"], "No space" in dropped["why"]) == ("dropped", True)

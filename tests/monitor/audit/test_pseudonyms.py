from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

from monitor.audit.pseudonyms import KEPT_S, Pseudonyms


def test_one_value_has_one_name_and_nobody_can_guess_it(tmp_path: Path) -> None:
    names = Pseudonyms(tmp_path / "p")
    name = names.of("request", "mine")
    assert Pseudonyms(tmp_path / "p").of("request", "mine") == name
    assert Pseudonyms(tmp_path / "q").of("request", "mine") != name
    assert names.of("conversation", "mine") != name
    assert names.of("request", "yours") != name
    assert name not in {hashlib.blake2b(b"mine", digest_size=12).hexdigest(), hashlib.sha256(b"mine").hexdigest()[:24]}
    assert len(names.of("request", "\ud800")) == 24
    assert (tmp_path / "p").stat().st_mode & 0o077 == 0


def test_an_old_secret_is_destroyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    names, now = Pseudonyms(tmp_path / "p"), time.time
    name, secret = names.of("request", "mine"), (tmp_path / "p").read_text()
    monkeypatch.setattr("monitor.audit.pseudonyms.time.time", lambda: now() + KEPT_S + 1)
    fresh = names.of("request", "mine")
    assert fresh != name
    assert (tmp_path / "p").read_text() != secret
    assert Pseudonyms(tmp_path / "p").of("request", "mine") == fresh


@pytest.mark.parametrize("damage", ["", "{}", '{"key": "00", "since": 1}', '{"key": 1, "since": "x"}', "[]"])
def test_a_damaged_secret_begins_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "p").write_text(damage)
    with caplog.at_level(logging.ERROR):
        name = Pseudonyms(tmp_path / "p").of("request", "mine")
    assert Pseudonyms(tmp_path / "p").of("request", "mine") == name


def test_a_folder_that_cannot_be_written_is_said_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    names = Pseudonyms(Path("/proc/nope/p"))
    assert names.of("request", "mine") == names.of("request", "mine")
    assert "after the next start" in caplog.text

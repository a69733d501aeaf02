"""Tokens by role: rotated without a restart, and a bad file changes nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from monitor.admin import access as module
from monitor.admin.access import TOKEN, Access, Role
from rules.document import DocumentError


def entry(name: str, role: str, token: str, more: str = "") -> str:
    return f"- {{name: {name}, role: {role}, sha256: {hashlib.sha256(token.encode()).hexdigest()}{more}}}\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    path = tmp_path / "access.yaml"
    path.write_text("tokens:\n" + entry("ann", "operator", "one") + entry("bob", "viewer", "two"))
    return path


def write(path: Path, text: str) -> None:
    beside = path.with_name("new")
    beside.write_text(text)
    os.replace(beside, path)


def test_who_is_told_by_the_token_alone(file: Path) -> None:
    access = Access(file)
    ann, bob = access.who("Bearer one"), access.who("bearer  two")
    assert ann is not None
    assert bob is not None
    assert (ann.name, ann.role, ann.role.commands) == ("ann", Role.OPERATOR, True)
    assert (bob.name, bob.role.commands) == ("bob", False)
    for wrong in ("", "Bearer", "Bearer ", "Basic one", "one", "Bearer three", "Bearer onee", "Bearer \x00", "Bearer ü"):
        assert access.who(wrong) is None


def test_tokens_are_rotated_without_a_restart(file: Path) -> None:
    access = Access(file)
    write(file, "tokens:\n" + entry("ann", "operator", "fresh"))
    assert access.who("Bearer one") is None
    assert access.who("Bearer fresh") is not None
    for bad in ("tokens: [", "tokens:\n" + entry("ann", "king", "x"), "tokens:\n- {name: ann, role: admin, sha256: short}\n"):
        write(file, bad)
        assert access.who("Bearer fresh") is not None  # those before stay in force
        assert "stay in force" in access.failed
    write(file, "tokens:\n" + entry("ann", "operator", "last"))
    assert access.who("Bearer last") is not None
    assert access.failed == ""


def test_a_token_ends(file: Path) -> None:
    write(
        file,
        "tokens:\n"
        + entry("old", "admin", "a", ", until: 2020-01-01T00:00:00Z")
        + entry("new", "admin", "b", ", until: 2099-01-01T00:00:00Z"),
    )
    access = Access(file)
    assert (access.who("Bearer a"), access.who("Bearer b") is not None) == (None, True)


def test_a_bad_file_is_refused_at_the_start(file: Path) -> None:
    write(file, "tokens:\n" + entry("a", "admin", "x") + entry("b", "viewer", "x"))
    with pytest.raises(DocumentError, match="one hash stands twice"):
        Access(file)

"""Content outside the tree: what lies on the disk, and who can read it."""

from __future__ import annotations

import base64
import os
import threading
import time
from pathlib import Path

import pytest

from monitor.audit.vault import MAX_CONTENT, VARIABLE, Sealed, Vault, VaultError


def test_what_lies_on_the_disk_says_nothing(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "v")
    sealed = vault.put("acme\0ann@example.com", b"my secret words")
    raw = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    names = " ".join(str(path) for path in tmp_path.rglob("*"))
    assert b"secret words" not in raw
    assert "ann" not in names
    assert all(path.stat().st_mode & 0o077 == 0 for path in vault.folder.rglob("*"))
    assert Vault(tmp_path / "v").get(sealed.id, sealed.commitment) == b"my secret words"  # also the next process's


def test_equal_content_has_unequal_commitments(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "v")
    assert len({vault.put("s", b"yes").commitment for _ in range(5)}) == 5


def test_content_that_is_not_what_was_committed_to_is_refused(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "v")
    one, two = vault.put("s", b"one"), vault.put("s", b"two")
    home = next(path for path in vault.folder.iterdir() if path.is_dir())
    with pytest.raises(VaultError, match="not what the ledger committed to"):
        vault.get(one.id, two.commitment)
    os.replace(home / two.id, home / one.id)  # sealed under the same key, for another place
    with pytest.raises(VaultError, match="its file was changed"):
        vault.get(one.id, one.commitment)
    for name in ("../../etc/passwd", "key", "", "x" * 32):
        with pytest.raises(VaultError):
            vault.get(name, one.commitment)


def test_the_key_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, base64.b64encode(bytes(range(32))).decode())
    vault = Vault(tmp_path / "v")
    sealed = vault.put("s", b"x")
    assert not (vault.folder / "secret").exists()
    assert Vault(vault.folder).get(sealed.id, sealed.commitment) == b"x"
    monkeypatch.setenv(VARIABLE, base64.b64encode(bytes(32)).decode())
    with pytest.raises(VaultError, match="wrapped by another key"):
        Vault(vault.folder).get(sealed.id, sealed.commitment)
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(VaultError, match="expected 32 random bytes in base64"):
        Vault(vault.folder)


def test_bounds_and_damage(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "v")
    with pytest.raises(VaultError, match="expected at most"):
        vault.put("s", bytes(MAX_CONTENT + 1))
    assert list(vault.folder.iterdir()) == [vault.folder / "secret"]
    (vault.folder / "secret").write_bytes(b"torn")
    with pytest.raises(VaultError, match="4 bytes; expected the vault's key of 32"):
        Vault(vault.folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(VaultError, match="expected a folder that can be written"):
        Vault(tmp_path / "file" / "v")


def test_erasing_while_content_comes_leaves_none_of_it_half(tmp_path: Path) -> None:
    """Each piece is either named as erased, or can be opened."""
    vault, other = Vault(tmp_path / "v"), Vault(tmp_path / "v")
    kept: list[Sealed] = []
    erased: list[str] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            kept.append(other.put("s", b"x"))

    writers = [threading.Thread(target=write) for _ in range(2)]
    for thread in writers:
        thread.start()
    for _ in range(20):
        vault.erase("s", erased)
    stop.set()
    for thread in writers:
        thread.join()
    for sealed in kept:
        if sealed.id not in erased:
            assert vault.get(sealed.id, sealed.commitment) == b"x"
    assert erased


def test_expiry_touches_nothing_that_is_not_the_vaults(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "v")
    sealed = vault.put("s", b"x")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / ("a" * 32)).write_text("mine")
    (vault.folder / ("b" * 32)).symlink_to(precious)
    (vault.folder / "lost+found" / "deep").mkdir(parents=True)
    (vault.folder / ("c" * 32)).mkdir()  # of a first piece that a full disk did not take
    gone, trouble = vault.expire(time.time() + 1)
    assert (gone, trouble) == ([sealed.id], "")
    assert (precious / ("a" * 32)).read_text() == "mine"
    assert vault.expire(time.time() + 1) == ([], "")

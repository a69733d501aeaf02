"""The ledger in hostile hands: whatever is changed, taken away or put in is seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import rfc8785

from monitor.audit import verifier, wal
from monitor.audit.disk import Disk
from monitor.audit.ledger import Ledger
from monitor.audit.note import LocalSigner
from monitor.errors import BarographError
from tests.ledgers import KEY, SIGNER, copy_of, ledger, records, right, seqs


def _swapped(path: Path) -> None:
    one, two = sorted((path / "tile" / "entries").glob("[0-9]*[0-9]"))[:2]
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)


ATTACKS: dict[str, Callable[[Path], object]] = {
    "a tile deleted": lambda path: (path / "tile" / "0" / "000").unlink(),
    "a bundle deleted": lambda path: (path / "tile" / "entries" / "001").unlink(),
    "a bundle cut": lambda path: os.truncate(path / "tile" / "entries" / "001", 500),
    "bundles swapped": _swapped,
    "an upper tile changed": lambda path: next((path / "tile" / "1").rglob("2")).write_bytes(bytes(64)),
    "a bundle that is a pipe": lambda path: ((path / "tile" / "entries" / "001").unlink(), os.mkfifo(path / "tile" / "entries" / "001")),
    "a bundle of any size": lambda path: os.truncate(path / "tile" / "entries" / "001", 1 << 42),
    "a bundle with more": lambda path: (path / "tile" / "entries" / "001").open("ab").write(b"\0\2{}"),
}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = Ledger(tmp_path_factory.mktemp("sealed") / "l", [SIGNER])
    for i in range(600):
        kept.append("x", i=i)
    kept.close()
    right(kept.path)
    return kept.path


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_the_files_is_seen(sealed: Path, tmp_path: Path, attack: str) -> None:
    path = copy_of(sealed, tmp_path / "l")
    ATTACKS[attack](path)
    assert verifier.verify(path, [KEY]).problems


def test_every_byte_counts(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    for i in range(4):
        kept.append("x", i=i)
    kept.close()
    right(kept.path)
    flipped = 0
    for path in sorted(kept.path.rglob("*")):
        if not path.is_file() or path.name == "lock" or not path.stat().st_size:
            continue
        if path.parent.name == "000.p" and path.name != "4":
            continue  # of an older checkpoint
        raw = bytearray(path.read_bytes())
        for at in range(len(raw)):
            raw[at] ^= 1
            path.write_bytes(raw)
            try:
                assert verifier.verify(kept.path, [KEY]).problems, (path, at)
            except verifier.Wrong:
                pass
            raw[at] ^= 1
            flipped += 1
        path.write_bytes(raw)
    assert flipped > 600
    right(kept.path)


def test_a_rollback_and_a_fork_show_against_a_kept_checkpoint(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    kept.append("a")
    kept.close()
    old = copy_of(kept.path, tmp_path / "old")
    for path in (kept.path, old):
        going = ledger(path)
        going.append("b", where=str(path))
        going.close()
    note = (kept.path / "checkpoint").read_bytes()
    assert right(kept.path, since=[note]).records == 2
    assert "forked" in verifier.verify(old, [KEY], since=[note]).problems[0]
    shorter = copy_of(tmp_path / "old", tmp_path / "again")
    going = ledger(kept.path)
    going.append("c")
    going.close()
    assert "rolled back" in verifier.verify(shorter, [KEY], since=[(kept.path / "checkpoint").read_bytes()]).problems[0]


def test_what_is_read_is_what_is_verified(tmp_path: Path) -> None:
    """A full file beside a partial one of the same place: whoever has the disk may say two things, and both are held to the signature."""
    kept = ledger(tmp_path / "l")
    for i in range(300):
        kept.append("x", i=i)
    kept.close()
    part = kept.path / "tile" / "entries" / "001.p" / "44"
    full = part.parent.with_name("001")
    whole = part.read_bytes()
    full.write_bytes(whole)
    part.write_bytes(whole.replace(b'"i":299', b'"i":999'))
    assert [each["i"] for each in records(kept.path)][-1] == 999
    assert "are not those that the checkpoint's signature covers" in " ".join(verifier.verify(kept.path, [KEY]).problems)


def test_a_rollback_behind_a_witnessed_checkpoint_shows_without_a_policy(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    kept.append("x")
    kept.seal()
    old = (kept.path / "checkpoint").read_bytes()
    for _ in range(5):
        kept.append("x")
    kept.close()
    (kept.path / "witnessed").write_bytes((kept.path / "checkpoint").read_bytes())
    right(kept.path)
    (kept.path / "checkpoint").write_bytes(old)
    assert "rolled back" in " ".join(verifier.verify(kept.path, [KEY]).problems)


def test_what_somebody_else_wrote_ahead_is_never_signed(tmp_path: Path) -> None:
    """Without the key nobody puts a record before the next start: the format is public, the key is not."""
    path = tmp_path / "l"
    kept = ledger(path)
    kept.append("x")
    kept.close()
    forged = wal.Wal(path / "wal", Disk(), LocalSigner("example.com/barograph", bytes(32)).secret("wal"))
    forged.begin(1)
    forged.append(1, [rfc8785.dumps({"kind": "command", "seq": 1, "time": 1.0, "issuer": "ceo"})])
    forged.sync()
    forged.close()
    with pytest.raises(BarographError, match="was not written with this log's key"):
        ledger(path)
    next((path / "wal").glob("*.wal")).unlink()
    again = ledger(path)
    again.append("x")
    again.close()
    assert seqs(path) == [0, 1]
    right(path)

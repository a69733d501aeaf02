"""Our ledger before tools that others wrote for its format."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from monitor.audit import merkle, note, proof
from monitor.audit.tiles import Tiles
from tests.ledgers import SIGNER, ledger

TOOL = Path(__file__).parents[3] / ".venv-tlog" / "bin" / "aics-tlog"
pytestmark = pytest.mark.skipif(not TOOL.exists(), reason="no foreign verifier: `make test` installs it where there is a Python 3.12")


def tool(*arguments: object, ok: bool = True) -> str:
    done = subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=[1, 255, 256, 257, 700])
def sealed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A ledger that grew in two steps, and the checkpoint of the first."""
    (tmp_path / "vkey").write_text(SIGNER.key.vkey)
    kept = ledger(tmp_path / "l")
    for i in range(request.param):
        kept.append("x", i=i)
        if i == request.param // 2:
            kept.seal()
            (tmp_path / "first").write_bytes((kept.path / "checkpoint").read_bytes())
    kept.close()
    return kept.path


def test_it_takes_checkpoint_inclusion_and_consistency(sealed: Path, tmp_path: Path) -> None:
    known = ("--tiles", sealed, "--vkey-file", tmp_path / "vkey")
    assert json.loads(tool("verify-checkpoint", *known, "--origin", "example.com/barograph"))["tiles_ok"]
    size = note.Checkpoint.unverified((sealed / "checkpoint").read_bytes()).size
    for index in {0, size // 2, size - 1}:
        tool("verify-inclusion", *known, "--index", index, "--entry-out", tmp_path / "entry")
        assert (tmp_path / "entry").read_bytes() == Tiles(sealed, size).entry(index)
    tool("verify-consistency", *known, "--old-checkpoint", tmp_path / "first")


def test_it_takes_our_proofs_without_the_ledger(sealed: Path, tmp_path: Path) -> None:
    size = note.Checkpoint.unverified((sealed / "checkpoint").read_bytes()).size
    for number in {0, size // 3, size - 1}:
        entry, said = proof.prove(sealed, number)
        head, checkpoint = said.split("\n\n", 1)
        first, index, *path = head.split("\n")
        assert (first, index) == ("c2sp.org/tlog-proof@v1", f"index {number}")
        (tmp_path / "path").write_text("".join(line + "\n" for line in path))
        (tmp_path / "leaf").write_bytes(entry)
        root = checkpoint.split("\n")[2]
        known = ("--index", number, "--size", size, "--root", root, "--proof", tmp_path / "path")
        tool("verify-inclusion", "--leaf", tmp_path / "leaf", *known)
        (tmp_path / "leaf").write_bytes(entry + b" ")
        tool("verify-inclusion", "--leaf", tmp_path / "leaf", *known, ok=False)


def test_it_takes_our_consistency_proofs(sealed: Path, tmp_path: Path) -> None:
    size = note.Checkpoint.unverified((sealed / "checkpoint").read_bytes()).size
    at = Tiles(sealed, size).at
    for old in {1, size // 2, size - 1} - {0, size}:
        path = merkle.consistency(old, size, at)
        (tmp_path / "path").write_text("".join(base64.b64encode(each).decode() + "\n" for each in path))
        roots = [base64.b64encode(merkle.root(each, at)).decode() for each in (old, size)]
        tool(
            "verify-consistency", "--old-size", old, "--new-size", size, "--old-root", roots[0], "--new-root", roots[1],
            "--proof", tmp_path / "path",
        )  # fmt: skip


def test_it_sees_a_changed_entry(tmp_path: Path) -> None:
    (tmp_path / "vkey").write_text(SIGNER.key.vkey)
    kept = ledger(tmp_path / "l")
    for i in range(300):
        kept.append("x", i=i)
    kept.close()
    bundle = kept.path / "tile" / "entries" / "000"
    bundle.write_bytes(bundle.read_bytes().replace(b'"i":7,', b'"i":8,'))
    tool("verify-inclusion", "--tiles", kept.path, "--vkey-file", tmp_path / "vkey", "--index", 7, ok=False)

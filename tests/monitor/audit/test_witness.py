"""Witnesses, ours and a foreign one: what they cosign, and what they refuse to."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.audit import merkle, note, verifier
from monitor.audit.ledger import Ledger
from monitor.audit.note import COSIGNATURE, Checkpoint, LocalSigner
from monitor.audit.tiles import Edge
from monitor.audit.witness import Witness
from monitor.audit.witnesses import Witnesses
from tests.ledgers import SIGNER, ledger, witness
from tests.stack import PATIENCE_S, eventually, free_port

FOREIGN = Path(__file__).parents[3] / ".venv-tlog" / "bin" / "aics-witness"
LOG = SIGNER.key.vkey
SECOND = LocalSigner("second.example/log", bytes(range(1, 33)))


@pytest.fixture(scope="module", params=["ours", "foreign"])
def seat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL and the vkey of a running witness of the tests' logs."""
    folder, port = tmp_path_factory.mktemp(request.param), free_port()
    with ExitStack() as running:
        if request.param == "ours":
            vkey = running.enter_context(witness(folder / "w", port, LOG, SECOND.key.vkey))
        else:
            vkey = running.enter_context(foreign(folder, port))
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: httpx.post(f"{url}/add-checkpoint", content=b"x").status_code == 400, "the witness answers")
        yield url, vkey


@contextmanager
def foreign(folder: Path, port: int) -> Iterator[str]:
    if not FOREIGN.exists():
        pytest.skip("no foreign witness: `make test` installs it where there is a Python 3.12")
    config = ("--config", folder / "witness.json")
    made = subprocess.run(
        [FOREIGN, "init", *config, "--name", "witness.example/foreign", "--listen", f"127.0.0.1:{port}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    for key in (SIGNER.key, SECOND.key):
        subprocess.run([FOREIGN, "add-log", *config, "--origin", key.name, "--vkey", key.vkey], check=True, timeout=60)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([FOREIGN, "serve", *config], stdout=log, stderr=log)
    try:
        yield next(word for word in made.stdout.replace('"', " ").split() if word.startswith("witness.example/foreign+"))
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)


def test_one_history_is_cosigned_and_no_other(seat: tuple[str, str], tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    witnesses = Witnesses(kept.path, [seat])
    for count in (1, 254, 2, 300):
        for _ in range(count):
            kept.append("x")
        kept.seal()
        assert witnesses.cosign(), witnesses.trouble
    policy = verifier.Policy.read(f"log {LOG}\nwitness w {seat[1]}\nquorum w\n")
    assert verifier.verify(kept.path, [], policy).problems == []
    subprocess.run(["cp", "-a", kept.path, tmp_path / "rolled back"], check=True)

    again = Witnesses(kept.path, [seat])  # after a restart it does not know what was cosigned
    kept.append("x")
    kept.seal()
    assert again.cosign(), again.trouble
    report = verifier.verify(kept.path, [], policy)
    assert (report.problems, report.unwitnessed) == ([], 0)
    kept.append("x")
    kept.close()
    report = verifier.verify(kept.path, [], policy)
    assert (report.problems, report.unwitnessed) == ([], 1)

    old = Witnesses(tmp_path / "rolled back", [seat])
    assert not old.cosign()
    assert "rolled back or forked" in old.conflict
    for _ in range(3):
        forked = ledger(tmp_path / "rolled back")
        forked.append("x", told="another story")
        forked.close()
    fork = Witnesses(tmp_path / "rolled back", [seat])
    assert not fork.cosign()
    assert "rolled back or forked" in fork.conflict


def test_a_log_that_is_not_known_gets_nothing(seat: tuple[str, str], tmp_path: Path) -> None:
    other = Ledger(tmp_path / "other", [LocalSigner("other.example/log", bytes(32))])
    false = Ledger(tmp_path / "false", [LocalSigner(SIGNER.key.name, bytes(32))])
    for kept, status in ((other, 404), (false, 403)):
        kept.append("x")
        kept.close()
        witnesses = Witnesses(kept.path, [seat])
        assert not witnesses.cosign()
        assert f"answered {status}" in witnesses.trouble
        assert not (kept.path / "witnessed").exists()


def test_k_of_n(seat: tuple[str, str], tmp_path: Path) -> None:
    gone = LocalSigner("witness.example/gone", bytes(range(3, 35)), COSIGNATURE).key.vkey
    nowhere = (f"http://127.0.0.1:{free_port()}", gone)
    kept = Ledger(tmp_path / "l", [SECOND])
    kept.append("x")
    kept.close()
    assert not Witnesses(kept.path, [seat, nowhere]).cosign()
    assert not (kept.path / "witnessed").exists()
    some = Witnesses(kept.path, [seat, nowhere], 1)
    assert some.cosign(), some.trouble
    assert nowhere[0] in some.trouble
    text = f"log {SECOND.key.vkey}\nwitness a {seat[1]}\nwitness b {gone}\ngroup both {{}} a b\nquorum both\n"
    assert verifier.verify(kept.path, [], verifier.Policy.read(text.format("any"))).problems == []
    report = verifier.verify(kept.path, [], verifier.Policy.read(text.format("all")))
    assert report.problems == ["no checkpoint has the quorum 'both'; cosigned by: a"]


class Own:
    """Our witness without a server."""

    def __init__(self, folder: Path) -> None:
        self.signer = LocalSigner("witness.example/w", bytes(range(2, 34)), COSIGNATURE)
        self.witness = Witness(folder, self.signer, [SIGNER.key])
        self.edge, self.files = Edge(), folder

    def grow(self, count: int) -> bytes:
        list(self.edge.append([b"x"] * count))
        return self.signed(self.edge.size, self.edge.root)

    def signed(self, size: int, root: bytes) -> bytes:
        return note.signed(Checkpoint(SIGNER.key.name, size, root).text, [SIGNER])


def test_what_is_no_request_is_400(tmp_path: Path) -> None:
    own = Own(tmp_path)
    good = own.grow(1)
    for body in (
        b"",
        b"old 0",
        b"old 0\n",
        b"old 00\n\n" + good,
        b"old -1\n\n" + good,
        b"old 0\nx\n\n" + good,
        b"old 0\n\nhello",
        b"\xff\n\n",
        b"old 2\n\n" + good,
    ):
        assert own.witness.add(body).status == 400, body
    many = b"old 0\n" + b"\n".join([base64.b64encode(bytes(32))] * 64) + b"\n\n" + good
    assert own.witness.add(many).status == 400
    assert own.witness.add(b"old 0\n\n" + good).status == 200
    answer = own.witness.add(b"old 0\n\n" + good)
    assert (answer.status, answer.body, answer.kind) == (409, "1\n", "text/x.tlog.size")
    assert own.witness.add(b"old 1\n\n" + good).status == 200  # the same again
    assert own.witness.add(b"old 1\n\n" + own.signed(1, bytes(32))).status == 409  # another root at that size
    assert own.witness.add(b"old 1\n\n" + own.signed(5, bytes(32))).status == 422


def test_its_state_outlives_it_and_damage_is_not_signed_over(tmp_path: Path) -> None:
    own = Own(tmp_path / "w")
    own.witness.add(b"old 0\n\n" + own.grow(3))
    own.witness.close()
    again = Own(tmp_path / "w")
    assert again.witness.last(SIGNER.key.name).size == 3
    again.witness._place(SIGNER.key.name).write_text("broken")
    with pytest.raises(note.NoteError):
        again.witness.add(b"old 0\n\n" + again.grow(9))


@given(st.integers(0, 70), st.integers(0, 70), st.data())
def test_consistency_proofs_hold_for_every_pair_and_for_nothing_else(old: int, more: int, data: st.DataObject) -> None:
    edge = Edge()
    list(edge.append([bytes([i]) for i in range(old)]))
    before = edge.root
    list(edge.append([bytes([i]) for i in range(old, old + more)]))
    new, after = edge.size, edge.root
    leaves = [merkle.leaf_hash(bytes([i])) for i in range(new)]
    at = lambda level, index: merkle.join(leaves[index << level : (index + 1) << level])  # noqa: E731
    path = merkle.consistency(old, new, at)
    assert merkle.root(new, at) == after
    assert merkle.consistent(old, new, before, after, path)
    if old and more:
        place = data.draw(st.integers(0, len(path)))
        assert not merkle.consistent(old, new, before, after, [*path[:place], bytes(32), *path[place:]])
        assert not merkle.consistent(old, new, bytes(32), after, path)
        assert not merkle.consistent(old, new, before, bytes(32), path)
        if path:
            assert not merkle.consistent(old, new, before, after, path[1:])
            assert not merkle.consistent(old, new, before, after, path[:-1])


def test_policies_that_are_none_are_refused() -> None:
    w = LocalSigner("w", bytes(32), COSIGNATURE).key.vkey
    for text in (
        "", "quorum x\n", "quorum none\nquorum none\n", f"witness none {w}\nquorum none\n", f"witness a {LOG}\nquorum a\n", f"log {w}\nquorum none\n",
        f"witness a {w}\nwitness b {w}\nquorum a\n", f"witness a {w}\ngroup g 2 a\nquorum g\n", f"witness a {w}\ngroup g 0 a\nquorum g\n",
        f"witness a {w}\ngroup g any a\ngroup h any a\nquorum h\n", "group g any g\nquorum g\n", "log hello\nquorum none\n", f"witness a {w}\ngroup g any\nquorum g\n",
    ):  # fmt: skip
        with pytest.raises(verifier.Wrong):
            verifier.Policy.read(text)
    policy = verifier.Policy.read(f"# comment\n\n \t log {LOG} https://log.example \nwitness\ta  {w}\ngroup g all a\nquorum g")
    assert (policy.met({"a"}), policy.met(set())) == (True, False)
    assert json.dumps(policy.groups) == '{"g": [1, ["a"]]}'

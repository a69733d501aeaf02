from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from monitor.audit import keys, verifier
from monitor.audit.ledger import Ledger
from monitor.audit.note import LocalSigner, NoteError, PublicKey
from monitor.errors import BarographError
from tests.ledgers import records

NAME = "example.com/barograph"


def test_a_key_is_made_once_and_only_for_a_new_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    file, ledger = tmp_path / "deep" / "key", tmp_path / "l"
    first = keys.signer(file, NAME, ledger)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert keys.signer(file, "another name", ledger).key == first.key
    Ledger(ledger, [first]).close()
    file.unlink()
    with pytest.raises(NoteError, match="expected the key that signs the ledger"):
        keys.signer(file, NAME, ledger)
    monkeypatch.setenv(keys.VARIABLE, LocalSigner(NAME, bytes(32)).private)
    assert keys.signer(file, NAME, ledger).key == LocalSigner(NAME, bytes(32)).key


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no private key"), ("hello", "no private key"), ("PRIVATE+KEY+a+b", "no key"), ("PRIVATE+KEY+a+00000000+AAAA", "type 0"),
        (LocalSigner(NAME, bytes(32)).private.replace("example", "exbmple"), "its id is"), (LocalSigner(NAME, bytes(32)).private[:-6], "was it copied whole|no key|bytes"),
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, text: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    (tmp_path / "key").write_text(text)
    with pytest.raises(NoteError, match=why) as caught:
        keys.signer(tmp_path / "key", NAME, tmp_path / "l")
    assert "AAAAAA" not in str(caught.value)


def test_names_that_a_note_cannot_hold_are_refused(tmp_path: Path) -> None:
    for name in ("", "with space", "with+plus", "x" * 300):
        with pytest.raises(NoteError, match="names no key"):
            keys.new(tmp_path / "key", name)
    assert not (tmp_path / "key").exists()


def test_a_program_signs(tmp_path: Path) -> None:
    private = LocalSigner(NAME, bytes(range(32)))
    program = tmp_path / "sign.py"
    program.write_text(
        f"import sys, base64; sys.path[:0] = {sys.path!r}\n"
        "from monitor.audit.note import LocalSigner\n"
        "sys.stdout.write(base64.b64encode(LocalSigner('example.com/barograph', bytes(range(32))).sign(sys.stdin.buffer.read())).decode())\n"
    )
    signer = keys.signer(tmp_path / "no key", NAME, tmp_path / "l", (sys.executable, str(program)), private.key.vkey)
    kept = Ledger(tmp_path / "l", [signer])
    kept.append("x")
    kept.close()
    assert verifier.verify(tmp_path / "l", [verifier.Key.read(private.key.vkey)]).records == 1
    for command in ((sys.executable, "-c", "print('no signature')"), (sys.executable, "-c", "raise SystemExit(1)"), ("/no/such/program",)):
        with pytest.raises(NoteError, match=r"audit\.sign_with"):
            keys.signer(tmp_path / "k", NAME, tmp_path / "l", command, private.key.vkey).sign(b"x")
    with pytest.raises(NoteError, match=r"needs audit\.vkey"):
        keys.signer(tmp_path / "k", NAME, tmp_path / "l", ("x",))


def test_a_program_that_fails_later_makes_the_ledger_late_and_not_lost(tmp_path: Path) -> None:
    class Moody:
        key = LocalSigner(NAME, bytes(32)).key
        well = True

        def sign(self, message: bytes) -> bytes:
            if not self.well:
                raise NoteError("the key service does not answer")
            return LocalSigner(NAME, bytes(32)).sign(message)

        def secret(self, use: str) -> bytes:
            return b""

    signer = Moody()
    kept = Ledger(tmp_path / "l", [signer], checkpoint_s=600)
    kept.append("a")
    signer.well = False
    with pytest.raises(BarographError, match="not sealed: the key service does not answer"):
        kept.seal()
    kept.append("b")
    assert kept.flush()
    assert (kept.failed, kept.late) == ("", "the key service does not answer")
    signer.well = True
    kept.close()
    assert verifier.verify(tmp_path / "l", [verifier.Key.read(signer.key.vkey)]).records == 2


def test_a_new_key_goes_on_with_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    file, ledger = tmp_path / "key", tmp_path / "l"
    kept = Ledger(ledger, [keys.signer(file, NAME, ledger)])
    kept.append("a")
    with pytest.raises(BarographError, match="written by another process"):
        keys.rotate(ledger, file, "too early")
    kept.close()
    old, new, both = keys.rotate(ledger, file, "yearly")
    again = Ledger(ledger, [keys.signer(file, NAME, ledger)])
    again.append("b")
    again.close()
    assert [each["kind"] for each in records(ledger)] == ["a", "key", "b"]
    rotated = records(ledger)[1]
    assert (PublicKey.parse(rotated["old"]), PublicKey.parse(rotated["new"]), rotated["reason"]) == (old, new, "yearly")
    known = [verifier.Key.read(key.vkey) for key in (old, new)]
    assert verifier.verify(ledger, known[1:], since=[both.read_bytes()]).problems == []
    assert verifier.opened(both.read_bytes(), known[:1], verifier.Policy()).size == 2
    with pytest.raises(verifier.Wrong, match="is not signed by a given key"):
        verifier.verify(ledger, known[:1])
    assert keys.read(tmp_path / f"key.{old.id.hex()}") != keys.read(file)
    assert sorted(os.listdir(tmp_path)) == sorted(["key", f"key.{old.id.hex()}", f"key.{new.id.hex()}.checkpoint", "l"])

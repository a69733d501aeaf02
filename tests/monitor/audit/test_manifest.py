"""Who vouches for banks and rules."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from monitor.audit import keys
from monitor.audit.manifest import MAX_FILES, Manifest, Trust, TrustError, note_of
from monitor.audit.note import LocalSigner, NoteError
from monitor.commands.cli import app
from monitor.config import BANKS, PACKS, Config, read_text
from monitor.errors import ConfigError
from monitor.pipeline import rulefiles
from probes.bank import ARRAYS, CARD, Bank, BankError
from rules.document import DocumentError

SIGNER, STRANGER = LocalSigner("example.com/probes", b"1" * 32), LocalSigner("example.com/evil", b"2" * 32)
RULES = "rules:\n- {rule: a, desc: d, when: 'panic.last > 3', do: alert, mode: armed}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bank of somebody's, unsigned."""
    shutil.copytree(next(each for each in BANKS.iterdir() if each.is_dir()), tmp_path / "bank")
    return tmp_path / "bank"


def config(tmp_path: Path, *lines: str, signed: bool = True) -> Config:
    file = tmp_path / "barograph.yaml"
    file.write_text("\n".join([*lines, f"trust: {{keys: ['{SIGNER.key.vkey}'], require_signed: {str(signed).lower()}}}"]))
    return Config.load(file)


def sign(what: Path, signer: LocalSigner = SIGNER) -> None:
    files = Bank.load(what).files if what.is_dir() else _read(what)
    note_of(what).write_bytes(Manifest(files).sign(signer))


def _read(what: Path) -> dict[str, str]:
    reading = rulefiles.Reading(what)
    reading.ruleset()
    return reading.files


def test_the_list_is_one_that_sha256sum_checks(folder: Path) -> None:
    sign(folder)
    text = note_of(folder).read_text().partition("\n\n")[0] + "\n"
    done = subprocess.run(["sha256sum", "--check", "--strict", "-"], input=text, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == f"{ARRAYS}: OK\n{CARD}: OK\n"


def test_a_bank_that_nobody_signed_is_refused_where_a_signature_is_required(folder: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, f"tap: {{bank: {folder}}}")
    with pytest.raises(TrustError, match="expected a signature"):
        settings.load_bank()
    sign(folder)
    assert settings.vouched_bank()[1] == "example.com/probes"


@pytest.mark.parametrize("required", [True, False])
def test_a_signature_that_does_not_hold_is_always_refused(folder: Path, tmp_path: Path, required: bool) -> None:
    settings = config(tmp_path, f"tap: {{bank: {folder}}}", signed=required)
    sign(folder, STRANGER)
    with pytest.raises(TrustError, match=r"signed by example.com/evil\+.*expected one of: example.com/probes"):
        settings.load_bank()
    sign(folder)
    card = folder / CARD
    card.write_text(card.read_text().replace('"limits": [', '"limits": [\n    "of another hand",', 1))
    with pytest.raises(TrustError, match=f"{CARD}: sha256 .* signed was"):
        settings.load_bank()


def test_what_is_installed_with_the_program_needs_no_signature_and_a_link_to_it_is_it(tmp_path: Path) -> None:
    settings = config(tmp_path)
    assert settings.vouched_bank()[1] == ""
    assert rulefiles.load(settings.rules, settings.trust.plain).rules
    shipped = next(each for each in BANKS.iterdir() if each.is_dir())
    (tmp_path / "link").symlink_to(shipped)
    assert config(tmp_path, f"tap: {{bank: {tmp_path / 'link'}}}").vouched_bank()[1] == ""


def test_a_bank_that_becomes_a_link_to_ours_once_it_is_read_is_not_ours(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, load = next(each for each in BANKS.iterdir() if each.is_dir()), Bank.load

    def load_and_swap(place: Path) -> Bank:
        found = load(place)
        folder.rename(tmp_path / "gone")
        folder.symlink_to(shipped)
        return found

    settings = config(tmp_path, f"tap: {{bank: {folder}}}")
    monkeypatch.setattr(Bank, "load", load_and_swap)
    with pytest.raises(TrustError, match="expected a signature"):
        settings.load_bank()


def test_rules_that_become_a_link_to_ours_once_they_are_read_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = tmp_path / "site.yaml"
    main.write_text(RULES)

    def read_and_swap(path: Path) -> str:
        text = read_text(path)
        main.unlink()
        main.symlink_to(PACKS / "default.yaml")
        return text

    trust = config(tmp_path).trust.plain
    monkeypatch.setattr(rulefiles, "read_text", read_and_swap)
    with pytest.raises(TrustError, match="expected a signature"):
        rulefiles.load(main, trust)


def test_a_link_to_a_pack_of_ours_brings_nothing_of_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = tmp_path / "packs"
    packs.mkdir()
    (packs / "whole.yaml").write_text("include: [part.yaml]\n")
    (packs / "part.yaml").write_text(RULES)
    monkeypatch.setattr(rulefiles, "PACKS", packs)
    trust = replace(config(tmp_path).trust.plain, own=(packs,))
    assert rulefiles.load(Path("whole"), trust).rules
    (tmp_path / "site.yaml").symlink_to(packs / "whole.yaml")
    (tmp_path / "part.yaml").write_text(RULES.replace("> 3", "> 300"))
    with pytest.raises(TrustError, match="expected a signature"):
        rulefiles.load(tmp_path / "site.yaml", trust)


def test_rules_of_a_mounted_configmap_are_checked_by_their_names_there(tmp_path: Path) -> None:
    """Kubernetes lays files behind two links: site.yaml → ..data/site.yaml → ..2026/site.yaml."""
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..data").symlink_to("..2026")
    for name, text in (("site.yaml", "include: [own.yaml]\n"), ("own.yaml", RULES)):
        (tmp_path / "..2026" / name).write_text(text)
        (tmp_path / name).symlink_to(f"..data/{name}")
    sign(tmp_path / "site.yaml")
    reading = rulefiles.Reading(tmp_path / "site.yaml", config(tmp_path).trust.plain)
    reading.ruleset()
    assert (reading.signer, set(reading.files)) == ("example.com/probes", {"site.yaml", "own.yaml"})


def test_rules_are_signed_with_all_that_they_include(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    more = tmp_path / "more" / "own.yaml"
    more.write_text(RULES)
    main = tmp_path / "site.yaml"
    main.write_text("include: [more/own.yaml, default]\n")
    trust = config(tmp_path).trust.plain
    with pytest.raises(TrustError, match="expected a signature"):
        rulefiles.load(main, trust)
    sign(main)
    reading = rulefiles.Reading(main, trust)
    reading.ruleset()
    assert (reading.signer, set(reading.files)) == ("example.com/probes", {"site.yaml", "more/own.yaml"})
    assert str(note_of(main)) in reading.seen  # a new signature alone is a reason to read again
    more.write_text(RULES.replace("> 3", "> 300"))
    with pytest.raises(TrustError, match=r"more/own.yaml: sha256"):
        rulefiles.load(main, trust)
    sign(main)
    main.write_text("include: [more/own.yaml, other.yaml]\n")
    (tmp_path / "other.yaml").write_text(RULES.replace("rule: a", "rule: b"))
    with pytest.raises(TrustError, match=r"(site|other).yaml"):
        rulefiles.load(main, trust)


def test_the_wrong_keys_are_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "barograph.yaml"
    for said, expected in (
        ("{require_signed: true}", "require_signed without keys"),
        ("{keys: [nonsense]}", "no key; expected"),
        ("{keys: ['a+00000000+AAAA']}", "a"),
    ):
        file.write_text(f"trust: {said}\n")
        with pytest.raises((ConfigError, DocumentError), match=expected):
            Config.load(file)


@given(raw=st.binary(max_size=300))
def test_wild_signatures_are_refused_with_a_reason(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    note = tmp_path_factory.mktemp("note") / "x.note"
    note.write_bytes(raw)
    with pytest.raises(TrustError, match=r"x\.note"):
        Manifest({"a": "0" * 64}).vouched(note, [SIGNER.key])


@given(names=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5, unique=True))
def test_what_is_signed_is_read_back_or_refused(names: list[str]) -> None:
    made = Manifest({name: f"{number:064x}" for number, name in enumerate(names)})
    try:
        raw = made.sign(SIGNER)
    except NoteError:
        return
    assert Manifest.parse(raw.decode().partition("\n\n")[0] + "\n").files == made.files


def test_a_list_has_a_bound() -> None:
    with pytest.raises(TrustError, match="expected 1 to 256 lines"):
        Manifest({f"f{number}": "0" * 64 for number in range(MAX_FILES + 1)}).sign(SIGNER)


def test_without_keys_nothing_is_asked(folder: Path) -> None:
    note_of(folder).write_text("nonsense")
    assert Trust().check(note_of(folder), Bank.load(folder).files) == ""


def test_the_commands_make_sign_and_check(folder: Path, tmp_path: Path) -> None:
    run = CliRunner()
    made = run.invoke(app, ["trust", "key", str(tmp_path / "key"), "--new", "example.com/own"])
    vkey = made.stdout.strip()
    assert run.invoke(app, ["trust", "key", str(tmp_path / "key")]).stdout.strip() == vkey
    assert LocalSigner.parse(keys.read(tmp_path / "key")).key.vkey == vkey
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    rules = tmp_path / "site.yaml"
    rules.write_text(RULES)
    for what in (folder, rules):
        refused = run.invoke(app, ["trust", "check", str(what), "--key", vkey])
        assert isinstance(refused.exception, TrustError)
        signed = run.invoke(app, ["trust", "sign", str(what), "--key", str(tmp_path / "key")])
        assert signed.exit_code == 0, signed.output
        checked = run.invoke(app, ["trust", "check", str(what), "--key", vkey])
        assert (checked.exit_code, checked.stdout) == (0, "signed by example.com/own\n")
    rules.write_text(RULES + "\n")
    assert isinstance(run.invoke(app, ["trust", "check", str(rules), "--key", vkey]).exception, TrustError)
    shipped = run.invoke(app, ["trust", "sign", str(PACKS / "default.yaml"), "--key", str(tmp_path / "key")])
    assert "needs no signature" in str(shipped.exception)
    missing = run.invoke(app, ["trust", "sign", str(tmp_path / "nothing"), "--key", str(tmp_path / "key")])
    assert isinstance(missing.exception, (ConfigError, BankError))


def test_a_bank_is_its_files(folder: Path) -> None:
    assert Bank.load(folder).files == Manifest.of({name: (folder / name).read_bytes() for name in (ARRAYS, CARD)}).files


def test_signing_writes_no_file_that_a_link_in_the_folder_names(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    key = tmp_path / "key"
    signer = keys.new(key, "example.com/probes", 1)
    for name in ("bank.note", "bank.note.new"):
        (folder / name).symlink_to(mine)
    done = CliRunner().invoke(app, ["trust", "sign", str(folder), "--key", str(key)])
    assert (done.exit_code, mine.read_text()) == (0, "mine")
    assert not note_of(folder).is_symlink()
    assert CliRunner().invoke(app, ["trust", "check", str(folder), "--key", signer.key.vkey]).exit_code == 0


@pytest.mark.parametrize("name", ["tab\there.yaml", "\udcff.yaml", "back\\slash.yaml", "return\r.yaml"])
def test_a_name_that_no_list_can_hold_is_refused_when_it_is_signed(name: str) -> None:
    with pytest.raises(TrustError, match="expected names in UTF-8"):
        Manifest({name: "0" * 64}).sign(SIGNER)


@pytest.mark.parametrize("name", ["line\u2028separator.yaml", "two words.yaml", "ü.yaml"])
def test_odd_names_are_signed_and_checked(name: str, tmp_path: Path) -> None:
    note = tmp_path / "x.note"
    made = Manifest({name: "0" * 64})
    note.write_bytes(made.sign(SIGNER))
    assert made.vouched(note, [SIGNER.key]) == SIGNER.key.name

"""What may leave the ledger, and what of it is seen afterwards."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from monitor.audit import proof, verifier
from monitor.audit.custody import Custody, CustodyError
from monitor.audit.holds import HoldError
from monitor.audit.ledger import Ledger
from monitor.audit.merkle import leaf_hash
from monitor.audit.reader import Reader
from monitor.audit.retention import FLOOR_DAYS, Retention
from monitor.audit.tiles import bundle_path, kept_from, pack, tile_path, unpack
from monitor.audit.unfinished import unfinished
from monitor.audit.vault import Vault, beside
from monitor.errors import BarographError
from tests.ledgers import KEY, ledger, records

SOON = Retention(days=1e-9, basis="a test")


def filled(path: Path, count: int = 1000) -> Ledger:
    kept = ledger(path)
    for i in range(count):
        kept.append("x", i=i)
    kept.seal()
    return kept


def problems(path: Path, **more: Any) -> list[str]:
    return verifier.verify(path, [KEY], **more).problems


def test_purged_bundles_leave_every_proof_standing(tmp_path: Path) -> None:
    kept = filled(tmp_path / "l")
    before = (kept.path / "checkpoint").read_bytes()
    assert Custody(kept, SOON).act("purge", "ann", "old")["records"] == 768
    kept.seal()
    assert not (kept.path / bundle_path(2)).exists()
    assert kept_from(kept.path, kept.checkpoint.size) == 768
    report = verifier.verify(kept.path, [KEY], since=[before])
    assert (report.problems, report.purged) == ([], 768)
    found = records(kept.path)
    assert [each["seq"] for each in found] == list(range(768, 1001))
    assert (found[-1]["event"], found[-1]["by"], found[-1]["reason"], found[-1]["before"]) == ("purged", "ann", "old", 768)
    entry, _ = proof.prove(kept.path, 800)
    assert json.loads(entry)["i"] == 800
    with pytest.raises(BarographError, match="no record 100 to prove: it was purged"):
        proof.prove(kept.path, 100)
    assert json.loads(Reader(kept.path, 3).take()[0])["seq"] == 768
    assert unfinished(kept.path) == []
    kept.close()
    again = ledger(kept.path)  # a purged ledger goes on
    again.append("x")
    again.close()
    assert records(kept.path)[-1]["seq"] == 1001
    assert problems(kept.path) == []


def test_the_next_purge_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    kept = filled(tmp_path / "l")
    custody = Custody(kept, SOON)
    custody.act("purge", "ann", "old")
    for i in range(600):
        kept.append("y", i=i)
    assert custody.act("purge", "ann", "old again")["records"] == 768
    kept.seal()
    assert kept_from(kept.path, kept.checkpoint.size) == 1536
    assert problems(kept.path) == []


def test_a_purge_does_not_cover_up_what_somebody_removed(tmp_path: Path) -> None:
    kept = filled(tmp_path / "l")
    (kept.path / bundle_path(0)).unlink()
    with pytest.raises(CustodyError, match="records 0 to 255 are missing, and no record says that they were purged"):
        Custody(kept, SOON).act("purge", "ann", "old")
    assert problems(kept.path)


def test_bundles_that_nobody_purged_are_missed(tmp_path: Path) -> None:
    kept = filled(tmp_path / "l", 1200)
    (kept.path / bundle_path(0)).unlink()
    assert "the first 256 records are missing, and no record says that they were purged" in problems(kept.path)[0]
    kept.append("custody", event="purged", before=0)
    kept.seal()
    assert problems(kept.path)
    kept.append("custody", event="purged", before=512)
    kept.seal()
    assert problems(kept.path) == []
    (kept.path / bundle_path(3)).unlink()
    assert "missing" in problems(kept.path)[0]


def test_the_hashes_of_what_was_purged_are_vouched_for(tmp_path: Path) -> None:
    kept = filled(tmp_path / "l")
    Custody(kept, SOON).act("purge", "ann", "old")
    kept.seal()
    tile = kept.path / "tile" / "0" / "001"
    tile.chmod(0o600)
    tile.write_bytes(b"\0" + tile.read_bytes()[1:])
    assert problems(kept.path)


@pytest.mark.parametrize("name", ["999", "lost+found/1", "junk.p", "x000/x001/000", "000.p/40", "\u00b2", "0000"])
def test_a_stray_file_hides_nothing(tmp_path: Path, name: str) -> None:
    kept = filled(tmp_path / "l", 300)
    place = kept.path / "tile" / "entries" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"x")
    assert len(records(kept.path)) == 300
    assert unfinished(kept.path) == []
    Custody(kept, SOON).act("purge", "ann", "old")
    kept.seal()
    assert next(each["seq"] for each in records(kept.path)) == 256
    assert problems(kept.path) == []


@pytest.mark.parametrize("tiles", [False, True])
def test_a_changed_time_has_nothing_removed(tmp_path: Path, tiles: bool) -> None:
    """Without the key nobody makes a young record old: what is purged is what the signed tree has."""
    kept = filled(tmp_path / "l")
    path = kept.path / bundle_path(0)
    entries = unpack(path.read_bytes(), 256)
    entries[-1] = rfc8785.dumps({**json.loads(entries[-1]), "time": 1.0})
    path.write_bytes(pack(entries))
    if tiles:
        (kept.path / tile_path(0, 0)).write_bytes(b"".join(map(leaf_hash, entries)))
    with pytest.raises(CustodyError, match="nothing is removed from a ledger that was changed"):
        Custody(kept, Retention(days=FLOOR_DAYS)).act("purge", "ann", "old")
    assert path.exists()


def test_a_young_or_unarchived_record_stays(tmp_path: Path) -> None:
    kept = filled(tmp_path / "l")
    assert Custody(kept, Retention(days=FLOOR_DAYS)).act("purge", "ann", "r")["records"] == 0
    assert Custody(kept, SOON, archive=True).act("purge", "ann", "r")["records"] == 0
    kept.path.with_name("l.archive").write_text('{"records": 999999}')  # a file that anybody can write
    assert Custody(kept, SOON, archive=True).act("purge", "ann", "r")["records"] == 0
    kept.append("custody", event="archived", by="sidecar", reason="r", first=0, before=600)
    assert Custody(kept, SOON, archive=True).act("purge", "ann", "r")["records"] == 512
    kept.seal()
    assert problems(kept.path) == []


def test_less_than_six_months_needs_a_law(tmp_path: Path) -> None:
    kept = filled(tmp_path / "l")
    with pytest.raises(CustodyError, match=f"kept for 30 days; expected at least {FLOOR_DAYS}"):
        Custody(kept, Retention(days=30)).act("purge", "ann", "r")
    assert kept_from(kept.path, kept.checkpoint.size) == 0


def test_a_hold_beats_purge_and_erasure(tmp_path: Path) -> None:
    kept = filled(tmp_path / "l")
    custody = Custody(kept, SOON)
    Vault(beside(kept.path)).put("s", b"x")
    assert custody.act("hold", "bob", "a court asked", {"name": "case-1"})["holds"] == ["case-1"]
    for what in ("purge", "erase"):
        with pytest.raises(CustodyError, match=f"{what} is refused: the hold 'case-1' of bob stands: a court asked"):
            custody.act(what, "ann", "r", {"subject": "s"})
    custody.tidy()  # no fault, and nothing goes
    with pytest.raises(HoldError, match="stands already"):
        custody.act("hold", "ann", "r", {"name": "case-1"})
    with pytest.raises(HoldError, match="no hold 'case-2' stands"):
        custody.act("release", "ann", "r", {"name": "case-2"})
    custody.act("release", "ann", "the court is done", {"name": "case-1"})
    assert custody.act("purge", "ann", "r")["records"] == 768
    said = [(each["event"], each["by"], each["reason"]) for each in records(kept.path, kept) if each["kind"] == "custody"]
    assert said[:2] == [("held", "bob", "a court asked"), ("released", "ann", "the court is done")]


def test_a_hold_stands_by_its_record_too(tmp_path: Path) -> None:
    """Whoever removes its file has not released it."""
    kept = filled(tmp_path / "l")
    custody = Custody(kept, SOON)
    custody.act("hold", "bob", "a court asked", {"name": "case-1"})
    kept.path.with_name("l.holds").unlink()
    with pytest.raises(CustodyError, match="the hold 'case-1' of bob stands by record 1000: a court asked"):
        custody.act("purge", "ann", "r")
    kept.append("custody", event="purged", first=0, before=0, by="eve", reason="r")
    kept.seal()
    assert "while the hold 'case-1' stood" in problems(kept.path)[0]
    custody.act("release", "ann", "over", {"name": "case-1"})
    assert custody.act("purge", "ann", "r")["records"] == 768


def test_acts_from_many_threads_lose_nothing(tmp_path: Path) -> None:
    kept = filled(tmp_path / "l")
    custody = Custody(kept, SOON)
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(lambda i: custody.act("hold", "ann", "r", {"name": f"h{i}"}), range(40)))
    assert len(done) == 40
    assert len(custody.holds.standing()) == 40


@pytest.mark.parametrize("broken", ["{", '{"a": 1}', "[]", "\u00ff"])
def test_a_file_of_holds_that_cannot_be_read_holds(tmp_path: Path, broken: str) -> None:
    kept = filled(tmp_path / "l")
    kept.path.with_name("l.holds").write_text(broken)
    with pytest.raises(CustodyError, match="may name a hold"):
        Custody(kept, SOON).act("purge", "ann", "r")


def test_an_incident_freezes_and_starts_its_clocks(tmp_path: Path) -> None:
    kept = filled(tmp_path / "l")
    custody, aware = Custody(kept, SOON), time.time() - 3600
    done = custody.act("incident", "ann", "it lied", {"verdict": 3, "aware_at": aware})
    assert {round((when - aware) / 86_400): name for name, when in done["report_by"].items()} == {
        2: "widespread or critical infrastructure", 10: "death", 15: "any other",
    }  # fmt: skip
    with pytest.raises(CustodyError, match="an incident is frozen"):
        custody.act("purge", "ann", "r")
    for wrong in (
        {},
        {"verdict": 3},
        {"verdict": "3", "aware_at": 1},
        {"verdict": 3, "aware_at": time.time() + 99},
        {"verdict": True, "aware_at": 1},
        {"verdict": 10**400, "aware_at": 1},
        {"verdict": 3, "aware_at": True},
    ):
        with pytest.raises(CustodyError, match="aware_at"):
            custody.act("incident", "ann", "r", wrong)


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501, "\u200b", None, [], {}, False, 0])
def test_acts_need_a_reason(tmp_path: Path, reason: Any) -> None:
    kept = ledger(tmp_path / "l")
    with pytest.raises(CustodyError, match="needs a reason"):
        Custody(kept, SOON).act("hold", "ann", reason, {"name": "x"})
    with pytest.raises(CustodyError, match="is no act; expected one of hold, release, purge"):
        Custody(kept, SOON).act("burn", "ann", "r")


def test_erasure_destroys_key_salt_and_content_and_nothing_else(tmp_path: Path) -> None:
    kept = filled(tmp_path / "l", 300)
    vault = Vault(beside(kept.path))
    hers, his = [vault.put("t\0ann", f"said {i}".encode()) for i in range(3)], vault.put("t\0bob", b"other")
    for each in hers:
        kept.append("content", event="kept", request="r", content=each.id, commitment=each.commitment)
    checkpoint = kept.seal()
    assert vault.get(hers[1].id, hers[1].commitment) == b"said 1"
    custody = Custody(kept, Retention())
    assert custody.act("erase", "dpo", "Art. 17 GDPR", {"subject": "t\0ann"})["content"] == 3
    for each in hers:
        with pytest.raises(BarographError, match="erased or has expired"):
            vault.get(each.id, each.commitment)
    assert vault.get(his.id, his.commitment) == b"other"
    left = b"".join(path.read_bytes() for path in vault.folder.rglob("*") if path.is_file())
    assert not any(each.id.encode() in left for each in hers)
    erased = [each for each in records(kept.path, kept) if each["kind"] == "custody"]
    assert [each["event"] for each in erased] == ["erasing", "erased"]
    assert sorted(erased[1]["content"]) == sorted(each.id for each in hers)
    assert "ann" not in json.dumps(erased)
    kept.seal()
    assert verifier.verify(kept.path, [KEY]).records > checkpoint.size
    assert problems(kept.path) == []
    assert custody.act("erase", "dpo", "again", {"subject": "t\0ann"})["content"] == 0


def test_content_goes_when_its_days_are_over(tmp_path: Path) -> None:
    kept = ledger(tmp_path / "l")
    vault = Vault(beside(kept.path))
    sealed = vault.put("s", b"x")
    assert Custody(kept, Retention(content_days=1)).act("purge", "ann", "r")["content"] == 0
    assert Custody(kept, Retention(content_days=1e-9)).act("purge", "ann", "r")["content"] == 1
    with pytest.raises(BarographError, match="has expired"):
        vault.get(sealed.id, sealed.commitment)
    assert sorted(path.name for path in vault.folder.iterdir()) == ["lock", "secret"]
    assert [each["content"] for each in records(kept.path, kept) if each.get("event") == "expired"] == [[sealed.id]]

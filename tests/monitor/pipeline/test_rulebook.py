"""Reloads, freezes and modes, without a server."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from monitor.admin.access import Access
from monitor.admin.guard import Guard
from monitor.admin.rules import rule_routes
from monitor.config import PACKS
from monitor.pipeline import rulebook
from monitor.pipeline.rulebook import Rulebook, RuleError
from rules.abilities import Abilities
from rules.document import DocumentError
from rules.ruleset import ANYTHING
from tests import ledgers
from tests.rules.naive import probe_facts
from tests.stack import PATIENCE_S

RULE = "- {rule: %s, desc: d, when: 'panic.last > %s', do: %s, mode: %s}\n"


def rules(*given: tuple[str, float, str, str]) -> str:
    return "rules:\n" + "".join(RULE % each for each in given)


class Shelf:
    """A rule file, a ledger, and the rulebook over them."""

    def __init__(self, folder: Path, text: str, abilities: Abilities = ANYTHING) -> None:
        self.file = folder / "rules.yaml"
        self.file.write_text(text)
        self.ledger = ledgers.ledger(folder / "ledger")
        self.book = Rulebook(self.file, probe_facts(), self.ledger, abilities)

    def records(self, event: str) -> list[dict[str, Any]]:
        lines = ledgers.records(self.ledger.path, self.ledger)
        return [record for record in lines if record["kind"] == "rules" and record["event"] == event]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path, rules(("a", 3, "alert", "armed"), ("b", 4, "halt", "shadow")))


def test_every_version_is_in_the_ledger_with_its_digest(shelf: Shelf) -> None:
    first = shelf.book.engine.digest
    shelf.file.write_text(rules(("a", 5, "alert", "armed")))
    second = shelf.book.reload("api")
    (loaded,), (reloaded,) = shelf.records("loaded"), shelf.records("reloaded")
    assert (loaded["digest"], reloaded["digest"]) == (first, second)
    assert reloaded["document"]["rules"][0]["when"] == "panic.last > 5"
    assert first != second


def test_what_is_laid_out_otherwise_is_the_same_rules(shelf: Shelf) -> None:
    shelf.file.write_text("# a remark\n" + shelf.file.read_text())
    assert shelf.book.reload("file") == shelf.records("loaded")[0]["digest"]
    assert shelf.records("reloaded") == []


def test_a_bad_file_keeps_the_old_rules_and_says_why(shelf: Shelf) -> None:
    before = shelf.book.engine
    shelf.file.write_text(rules(("a", 5, "alert", "armed")).replace("panic.last", "panik.last"))
    with pytest.raises(RuleError, match=r"rules\.yaml:2:\d+: rule 'a', when: column 1: unknown probe 'panik'; did you mean 'panic'\?"):
        shelf.book.reload("file")
    assert shelf.book.engine is before
    assert "did you mean 'panic'" in shelf.book.failed
    (refused,) = shelf.records("refused")
    assert refused["digest"] == before.digest
    shelf.file.write_text(rules(("a", 5, "alert", "armed")))
    shelf.book.reload("file")
    assert shelf.book.failed == ""


def test_a_missing_file_keeps_the_old_rules_too(shelf: Shelf) -> None:
    shelf.file.unlink()
    with pytest.raises(RuleError, match="cannot read"):
        shelf.book.reload("file")
    assert len(shelf.book.engine.rules) == 2


def test_a_freeze_blocks_reloads_and_outlives_a_restart(shelf: Shelf, tmp_path: Path) -> None:
    shelf.book.freeze("incident 12", "ann")
    shelf.file.write_text(rules(("a", 5, "alert", "armed")))
    again = Rulebook(shelf.file, probe_facts(), shelf.ledger)  # a restart reads the file as it is
    assert again.frozen == "ann: incident 12"
    with pytest.raises(RuleError, match="reloads are frozen: ann: incident 12"):
        shelf.book.reload("SIGHUP")
    shelf.book.thaw("over", "ann")
    assert shelf.book.reload("SIGHUP") == again.engine.digest
    (frozen,), (thawed,) = shelf.records("frozen"), shelf.records("thawed")
    assert (frozen["by"], frozen["reason"], thawed["by"], thawed["reason"]) == ("ann", "incident 12", "ann", "over")


def alert(status: str, name: str = "x", **labels: str) -> dict[str, Any]:
    return {"alerts": [{"status": status, "fingerprint": name, "labels": labels}]}


def test_alertmanager_arms_a_rule_while_its_alert_fires(shelf: Shelf) -> None:
    assert shelf.book.alerts(alert("firing", barograph_arm="b", barograph_disarm="a")) == {"a": "shadow", "b": "armed"}
    assert shelf.book.engine.overrides == {"a": "shadow", "b": "armed"}
    assert shelf.book.alerts(alert("firing", "y", barograph_arm="a")) == {"a": "armed", "b": "armed"}  # to arm is stronger
    shelf.book.alerts(alert("resolved", "y"))
    assert shelf.book.alerts(alert("resolved")) == {}
    assert [record["modes"] for record in shelf.records("modes")][-1] == {}


def test_modes_outlive_a_reload(shelf: Shelf) -> None:
    shelf.book.alerts(alert("firing", barograph_arm="b"))
    shelf.file.write_text(rules(("a", 5, "alert", "armed"), ("b", 4, "halt", "shadow")))
    shelf.book.reload("file")
    assert shelf.book.engine.overrides == {"b": "armed"}


def test_alertmanager_arms_nothing_that_must_not_be(tmp_path: Path) -> None:
    text = rules(("a", 3, "{reroute: {to: safe}}", "shadow")) + "- {rule: b, desc: d, when: panic.last > 1, do: alert, maturity: sandbox}\n"
    shelf = Shelf(tmp_path, text, Abilities(()))
    for rule, why in (("a", "expected gateway.targets"), ("b", "maturity: sandbox"), ("c", "unknown rule 'c'")):
        with pytest.raises(RuleError, match=why):
            shelf.book.alerts(alert("firing", barograph_arm=rule))
    assert shelf.book.engine.overrides == {}


def test_a_rule_on_a_probe_without_proof_is_armed_by_nobody(tmp_path: Path) -> None:
    """It may look on in shadow. Arming it by an alert, by hand or in the file is refused with the reason."""
    why = "would halt on 'calm', which has no calibration"
    shelf = Shelf(tmp_path, "rules:\n- {rule: a, desc: d, when: calm.last > 3, do: halt, mode: shadow}\n")
    with pytest.raises(RuleError, match=why):
        shelf.book.alerts(alert("firing", barograph_arm="a"))
    assert why in shelf.book.refusal("a", arm=True)
    assert shelf.book.refusal("a", arm=False) == ""
    assert shelf.book.engine.overrides == {}
    shelf.file.write_text(shelf.file.read_text().replace("shadow", "armed"))
    with pytest.raises(RuleError, match=why):
        shelf.book.reload("file")
    assert shelf.book.engine.rules[0].mode == "shadow"


def test_what_a_refused_set_would_have_included_is_watched(shelf: Shelf, tmp_path: Path) -> None:
    async def run() -> None:
        watching = asyncio.create_task(shelf.book.watch())
        shelf.file.write_text("include: [more.yaml]\n" + shelf.file.read_text())
        await until(lambda: "cannot include 'more.yaml'" in shelf.book.failed)
        (tmp_path / "more.yaml").write_text(rules(("c", 1, "alert", "armed")).replace("panic", "panik"))
        await until(lambda: "unknown probe 'panik'" in shelf.book.failed)
        (tmp_path / "more.yaml").write_text(rules(("c", 1, "alert", "armed")))
        await until(lambda: shelf.book.failed == "" and len(shelf.book.engine.rules) == 3)
        watching.cancel()

    asyncio.run(run())
    assert len(shelf.records("refused")) == 2  # once for each state of the files


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not check():
            await asyncio.sleep(0.02)


def test_a_frozen_change_is_refused_once(shelf: Shelf) -> None:
    async def run() -> None:
        shelf.book.freeze("incident", "ann")
        watching = asyncio.create_task(shelf.book.watch())
        shelf.file.write_text(rules(("a", 5, "alert", "armed")))
        await until(lambda: bool(shelf.records("refused")))
        await asyncio.sleep(2.2)
        watching.cancel()

    asyncio.run(run())
    assert len(shelf.records("refused")) == 1


def test_nothing_of_a_file_elsewhere_is_shown(shelf: Shelf, tmp_path: Path) -> None:
    outside = tmp_path.parent / "secret.yaml"
    outside.write_text("root:secretword:0\n")
    (tmp_path / "link.yaml").symlink_to(outside)
    up = "../" * len(PACKS.resolve().parents)
    around = (f"{PACKS}/{up}{str(outside)[1:]}", f"{up}{str(outside.with_suffix(''))[1:]}")  # a path through the packs, a "pack" elsewhere
    for name in (str(outside), "../secret.yaml", "link.yaml", "/etc/shadow", *around):
        shelf.file.write_text(f"include: [{name}]\n{rules(('a', 3, 'alert', 'armed'))}")
        with pytest.raises(RuleError, match="it lies outside"):
            shelf.book.reload("api")
    assert "secretword" not in ledgers.said(shelf.ledger.path, shelf.ledger) + str(shelf.book.describe())
    (tmp_path / "..data").mkdir()  # as Kubernetes mounts a config map
    (tmp_path / "..data" / "more.yaml").write_text(rules(("c", 1, "alert", "armed")))
    (tmp_path / "more.yaml").symlink_to("..data/more.yaml")
    shelf.file.write_text(f"include: [more.yaml]\n{rules(('a', 3, 'alert', 'armed'))}")
    shelf.book.reload("api")


@pytest.mark.parametrize("name", ["a\\0b.yaml", "loop.yaml", "x" * 300 + ".yaml"])
def test_an_include_that_is_no_path_is_refused_like_any_other(shelf: Shelf, tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    shelf.file.write_text(f'include: ["{name}"]\n{rules(("a", 3, "alert", "armed"))}')
    with pytest.raises(RuleError, match="cannot include"):
        shelf.book.reload("api")
    assert len(shelf.records("refused")) == 1


def test_a_freeze_while_rules_are_compiled_keeps_them_out(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling, go_on = threading.Event(), threading.Event()
    compiled = shelf.book._compiled

    def slowly() -> Any:
        compiling.set()
        go_on.wait(10)
        return compiled()

    monkeypatch.setattr(shelf.book, "_compiled", slowly)
    before = shelf.book.engine

    async def run() -> None:
        shelf.file.write_text(rules(("a", 5, "alert", "armed")))
        reload = asyncio.create_task(shelf.book.reload_beside("api"))
        await asyncio.to_thread(compiling.wait, 10)
        shelf.book.freeze("incident", "ann")
        go_on.set()
        with pytest.raises(RuleError, match="frozen: ann: incident"):
            await reload

    asyncio.run(run())
    assert shelf.book.engine is before


def test_what_lies_where_the_freeze_does_freezes(shelf: Shelf) -> None:
    """A pipe there hangs nobody, and what can't be read is no permission."""
    place = shelf.ledger.path.with_name(shelf.ledger.path.name + ".freeze")
    os.mkfifo(place)
    with pytest.raises(RuleError, match=r"frozen: .*no plain file"):
        shelf.book.reload("api")
    shelf.book.freeze("incident", "ann")
    assert shelf.book.frozen == "ann: incident"
    shelf.book.thaw("over", "ann")
    assert shelf.book.frozen == ""


@pytest.mark.parametrize("kind", ["pipe", "folder", "large", "device"])
def test_a_rule_file_that_is_no_plain_file_hangs_nothing(shelf: Shelf, tmp_path: Path, kind: str) -> None:
    odd = tmp_path / "odd.yaml"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "folder":
        odd.mkdir()
    elif kind == "large":
        odd.write_text("#" * (2 << 20))
    else:
        odd = Path("/dev/zero")
    for text in (f"include: [{odd.name}]\n", None):
        if text is None:
            shelf.book.path = odd
        else:
            shelf.file.write_text(text)
        with pytest.raises(RuleError, match=r"no plain file|expected at most \d+ bytes|expected a file|Is a directory"):
            shelf.book.reload("api")


def test_the_webhook_has_bounds(shelf: Shelf) -> None:
    for number in range(1100):
        given = alert("firing", f"a{number}", barograph_arm="b")
        if number < 1000:
            shelf.book.alerts(given)
        else:
            with pytest.raises(RuleError, match="the most that are kept"):
                shelf.book.alerts(given)
    with pytest.raises(RuleError, match="expected at most 1000"):
        shelf.book.alerts({"alerts": alert("firing")["alerts"] * 1001})
    with pytest.raises(RuleError, match="names 300 rules; expected at most 64"):
        shelf.book.alerts(alert("firing", "many", barograph_arm=",".join(f"x{i}" for i in range(300))))
    stale = [each for i in range(20) for each in alert("firing", f"z{i}", barograph_arm="zzz")["alerts"]]
    with pytest.raises(RuleError, match="unknown rule 'zzz'"):  # which hides nothing that comes after it
        shelf.book.alerts({"alerts": [*stale, *alert("resolved", "a0")["alerts"]]})
    shelf.book.alerts(alert("firing", "new", barograph_arm="b," * 5000 + "b"))
    shelf.book.alerts(alert("firing", "x" * 100_000))  # changes nothing, so nothing is kept


def test_the_nearest_name_is_looked_for_only_where_it_is_said(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for it takes longer than anything else that an alert can ask: with 950 rules, 28 ms a name."""
    looked = []
    monkeypatch.setattr(rulebook, "unknown", lambda what, name, known: looked.append(name) or f"unknown {what} '{name}'")
    with pytest.raises(RuleError, match="unknown rule 'r0'"):
        shelf.book.alerts(alert("firing", barograph_arm=",".join(f"r{i}" for i in range(64))))
    assert len(looked) == rulebook.MAX_REFUSED


def client(shelf: Shelf, **guard: Any) -> TestClient:
    return TestClient(
        Starlette(routes=rule_routes(shelf.book), middleware=[Middleware(Guard, access=Access(), **{"hosts": (), **guard})]),
        base_url="http://127.0.0.1:8401",
    )


def test_the_admin_api(shelf: Shelf) -> None:
    web = client(shelf, is_open=True)
    assert [rule["mode"] for rule in web.get("/rules").json()["rules"]] == ["armed", "shadow"]
    assert web.post("/rules/reload", json={"reason": "r"}).json() == {"digest": shelf.book.engine.digest}
    assert web.post("/rules/freeze", json={"reason": "r"}).json() == {"frozen": "open: r"}
    answer = web.post("/rules/reload", json={"reason": "r"})
    assert (answer.status_code, answer.json()["error"]) == (409, "reloads are frozen: open: r")
    assert web.post("/rules/thaw", json={"reason": "r"}).json() == {"frozen": ""}
    for path in ("/rules/reload", "/rules/freeze", "/rules/thaw"):
        for said in ({}, {"reason": " "}, {"reason": 3}, {"reason": "x" * 501}):
            answer = web.post(path, json=said)
            assert (answer.status_code, "needs a reason" in answer.text) == (400, True)
    assert web.post("/alertmanager", json=alert("firing", barograph_arm="b")).json() == {"modes": {"b": "armed"}}
    assert web.post("/alertmanager", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    for bad in ({}, {"alerts": 3}, {"alerts": ["x"]}, {"alerts": [{"labels": []}]}):
        answer = web.post("/alertmanager", json=bad)
        assert (answer.status_code, "expected what Alertmanager" in answer.json()["error"]) == (409, True)
    assert web.post("/alertmanager", json=alert("firing", barograph_arm="zzz")).status_code == 409


def test_packs_hooks_and_overrides_of_a_site(tmp_path: Path) -> None:
    from monitor.config import Config
    from monitor.pipeline.rulefiles import facts, load
    from rules.engine import RuleEngine

    site = tmp_path / "site.yaml"
    site.write_text(
        "include: [default, more.yaml]\nlists: {exempt_tenants: [redteam]}\nmacros: {high: fpr(0.0001)}\n"
        "overrides:\n- {rule: panic_rising, mode: shadow, for: 2s}\nrules:\n- {rule: own, desc: d, when: panic.ewma(8) > high, do: alert}\n"
    )
    (tmp_path / "more.yaml").write_text(rules(("extra", 1, "observe", "armed")))
    ruleset = load(site)
    assert [rule.rule for rule in ruleset.rules][-2:] == ["extra", "own"]
    changed = next(rule for rule in ruleset.rules if rule.rule == "panic_rising")
    assert (changed.mode, changed.hold_for.seconds) == ("shadow", 2.0)
    bank = Config().load_bank()
    engine = RuleEngine(ruleset, facts(bank))
    assert next(iter(engine.compiled[0].thresholds.values())) == bank.limit("desperation", "ewma(8)", 0.0001)  # at the site's rate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("include: [nosuch]\n", "cannot include 'nosuch': expected a file at .*, or one of the packs agentic, companion, default, strict, support"),
        ("include: [default]\nmacros: {hihg: '1'}\nrules: []\noverrides:\n- {rule: panic_risin}\n", "unknown rule 'panic_risin'; did you mean 'panic_rising'"),
        ("include: [default]\nrules:\n- {rule: panic_rising, desc: d, when: panic.last > 1, do: alert}\n", "stands in an included pack; change it in `overrides`"),
        ("include: [agentic]\nlists: {agents: [a]}\nmacros: {}\n", None),
        ("macros: {m: panic.last > 1}\nrules: []\n", "no rules"),
        ("include: [site.yaml]\n", "go in a circle"),
    ],
)  # fmt: skip
def test_includes_that_go_wrong_say_so(tmp_path: Path, text: str, expected: str | None) -> None:
    from monitor.errors import ConfigError
    from monitor.pipeline.rulefiles import load

    (tmp_path / "site.yaml").write_text(text)
    if expected is None:
        assert load(tmp_path / "site.yaml").lists["agents"].items == ("a",)
        return
    with pytest.raises((DocumentError, ConfigError), match=expected):
        load(tmp_path / "site.yaml")


def test_only_hooks_are_replaced(tmp_path: Path) -> None:
    from monitor.pipeline.rulefiles import load

    (tmp_path / "pack.yaml").write_text("macros: {fixed: '1'}\n" + rules(("a", 1, "alert", "armed")))
    (tmp_path / "site.yaml").write_text("include: [pack.yaml]\nmacros: {fixed: '2'}\n")
    with pytest.raises(DocumentError, match=r"site\.yaml:2:\d+: 'fixed' is no hook of .*pack\.yaml; hooks are: none"):
        load(tmp_path / "site.yaml")

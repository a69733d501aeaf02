"""Who may do what to the ledger, and what comes of an archive that fails."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from monitor.admin import custodian
from monitor.admin.access import TOKEN, Access
from monitor.admin.custodian import custody_of, custody_routes, keep
from monitor.admin.guard import Guard
from monitor.audit.archive import Archive, archived
from monitor.audit.custody import Custody
from monitor.audit.retention import Retention
from monitor.config import ArchiveConfig, AuditConfig, Config, SidecarConfig
from monitor.errors import ConfigError
from monitor.sinks.prometheus import Metrics
from probes.bank import Bank
from probes.drift import Drift
from rules.document import DocumentError
from tests import weed
from tests.ledgers import ledger, records
from tests.stack import PATIENCE_S

ROLES = ("viewer", "auditor", "operator", "admin")
ACTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "note": ({"event": "queried", "said": "SELECT 1"}, ("auditor", "operator", "admin")),
    "hold": ({"name": "case"}, ("operator", "admin")),
    "release": ({"name": "case"}, ("admin",)),
    "purge": ({}, ("admin",)),
    "erase": ({"subject": "s"}, ("admin",)),
    "incident": ({"verdict": 1, "aware_at": 1.0}, ("operator", "admin")),
}


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.delenv(TOKEN, raising=False)
    lines = [f"- {{name: {role}-1, role: {role}, sha256: {hashlib.sha256(role.encode()).hexdigest()}}}" for role in ROLES]
    (tmp_path / "access").write_text("tokens:\n" + "\n".join(lines))
    kept = ledger(tmp_path / "l")
    kept.append("x")
    kept.append("x")
    custody = Custody(kept, Retention())
    app = Starlette(routes=custody_routes(custody), middleware=[Middleware(Guard, hosts=(), access=Access(tmp_path / "access"))])
    return TestClient(app, base_url="http://127.0.0.1:8401")


def post(web: TestClient, role: str, act: str, **more: Any) -> Any:
    return web.post("/audit", json={"act": act, "reason": "a test", **more}, headers={"authorization": f"Bearer {role}"})


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("act", ACTS)
def test_roles(web: TestClient, tmp_path: Path, role: str, act: str) -> None:
    about, allowed = ACTS[act]
    if act == "release":
        post(web, "admin", "hold", name="case")
    answer = post(web, role, act, **about)
    assert (answer.status_code == 403) == (role not in allowed), answer.text
    if role in allowed and act not in ("purge", "erase"):  # there is nothing to purge or erase
        assert answer.json()["recorded"]
        found = records(tmp_path / "l")[-1]
        assert (found["by"], found["reason"]) == (f"{role}-1", "a test")


def test_what_is_refused_says_why_and_changes_nothing(web: TestClient, tmp_path: Path) -> None:
    assert web.post("/audit", json={"act": "hold"}).status_code == 401
    for body, why in (
        ({"act": "hold", "name": "x"}, "needs a reason"), ({"act": "hold", "reason": "r"}, "expected name"), ({"act": "burn", "reason": "r"}, "is no act"), ({"act": {}, "reason": "r"}, "is no act"), ({"act": "hold", "name": "x", "reason": None}, "needs a reason"),
        ({"act": "note", "reason": "r", "event": [], "said": "x"}, "expected event"), ({"act": "incident", "reason": "r", "verdict": 99, "aware_at": 1}, "aware_at"),
        ({"act": "note", "reason": "r", "event": "purged", "said": "x"}, "is no note"), ({"act": "erase", "reason": "r", "subject": "s"}, "there is no content"),
    ):  # fmt: skip
        answer = web.post("/audit", json=body, headers={"authorization": "Bearer admin"})
        assert (answer.status_code, why in answer.json()["error"]) == (409, True), answer.text
    assert (
        web.post("/audit", content=b"[", headers={"authorization": "Bearer admin", "content-type": "application/json"}).status_code == 400
    )
    assert len(records(tmp_path / "l")) == 2


def test_an_archive_that_fails_is_said_once_and_counted(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custodian, "LOOK_S", 0.01)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    audit = AuditConfig.model_validate({"archive": {"endpoint": "http://127.0.0.1:9", "bucket": "bbb", "every_s": 1}})
    config = Config(audit=audit, sidecar=SidecarConfig(ledger=tmp_path / "l"))
    kept = ledger(tmp_path / "l")
    kept.append("x")
    kept.seal()
    metrics = Metrics(CollectorRegistry(), bank.names, Drift(bank, 100))

    async def run() -> None:
        task = asyncio.create_task(keep(config, custody_of(config, kept), metrics))
        async with asyncio.timeout(PATIENCE_S):
            while not metrics.archive_failed._value.get():
                await asyncio.sleep(0.02)
        await asyncio.sleep(1.5)  # it tries again, and says nothing new
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())
    troubles = [each for each in records(kept.path, kept) if each["kind"] == "custody"]
    assert [each["event"] for each in troubles] == ["trouble"]
    assert "127.0.0.1:9/bbb" in troubles[0]["reason"]


def test_a_copy_that_is_slower_than_the_seals_comes_to_rest(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a copy is on its way, the record of the last one is sealed; the record of this one comes after it."""

    class Slow(Archive):
        def copy(self, path: Path) -> tuple[int, int]:
            found = super().copy(path)
            kept.seal()
            return found

    monkeypatch.setattr(custodian, "Archive", Slow)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", weed.USER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", weed.SECRET)
    kept = ledger(tmp_path / "l", checkpoint_s=3600)
    with weed.s3(tmp_path / "weed") as (endpoint, client):
        client.make_bucket("evidence", object_lock=True)
        archive = ArchiveConfig(endpoint=endpoint, bucket="evidence")
        metrics = [Metrics(CollectorRegistry(), bank.names, Drift(bank, 100)) for _ in range(2)]
        copies, after = (custodian._Copies(archive, Custody(kept, Retention()), each) for each in metrics)
        kept.append("x")
        kept.seal()
        kept.append("y")
        for _ in range(5):
            copies.make()
        after.make()  # a new start, which has nothing to copy, knows what is there
    assert [each["before"] for each in records(kept.path, kept) if each["kind"] == "custody"] == [1, 2]
    assert archived(kept.path) == 2 == metrics[0].archived._value.get() == metrics[1].archived._value.get()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("audit: {retention: {days: 30}}", "expected at least 184 .six months., or the legal basis"),
        ("audit: {retention: {days: 0}}", "greater than 0"),
        ("audit: {level: everything}", "none.*metadata.*scores.*content"),
        ("audit: {policy: [{tenants: [a]}]}", "level"),
        ("audit: {archive: {endpoint: 's3://x', bucket: bbb}}", "https"),
        ("sidecar: {record_scores: true}", "record_scores"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises((ConfigError, DocumentError), match=why):
        Config.load(tmp_path / "c.yaml")


def test_a_legal_basis_allows_less_than_six_months(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("audit: {retention: {days: 30, basis: 'Art. 6(1)(c) GDPR, national law 1'}}")
    assert Config.load(tmp_path / "c.yaml").audit.retention.plain.objection == ""

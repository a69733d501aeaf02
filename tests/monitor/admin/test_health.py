"""Health is ok only when requests are served and judged, and otherwise says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from monitor import wire
from monitor.admin import live
from monitor.admin.app import admin_app
from monitor.admin.tasks import Tasks
from monitor.config import SidecarConfig
from monitor.pipeline.receiver import Receiver
from monitor.pipeline.rulebook import Rulebook
from probes.bank import Bank
from tests.monitor.pipeline.rig import RULES, Rig
from tests.rules.naive import probe_facts


class Ward:
    """A sidecar's parts behind its admin address, all of them well."""

    def __init__(self, bank: Bank, folder: Path) -> None:
        self.rig = Rig(bank, folder / "ledger.jsonl")
        self.rig.pipeline.engine_state = "ok"
        self.tasks = Tasks(self.rig.pipeline.metrics)
        self.receiver = Receiver(folder / "tap.sock", self.rig.pipeline)
        (folder / "rules.yaml").write_text(RULES)
        book = Rulebook(folder / "rules.yaml", probe_facts(), self.rig.ledger)
        app = admin_app(self.rig.pipeline, CollectorRegistry(), book, self.receiver, self.tasks, SidecarConfig())
        self.web = TestClient(app, base_url="http://127.0.0.1:8401")


@pytest.fixture
def ward(bank: Bank, tmp_path: Path) -> Ward:
    return Ward(bank, tmp_path)


def test_all_is_well(ward: Ward) -> None:
    answer = ward.web.get("/health")
    body = answer.json()
    assert (answer.status_code, body["status"], body["reasons"]) == (200, "ok", [])
    assert (body["engine"], body["tasks"], body["ledger"]) == ("ok", "ok", "ok")
    assert [tap["check"] for tap in body["taps"]] == [ward.rig.source.checked]


@pytest.mark.parametrize("what", ["engine", "taps", "ledger", "socket", "tasks"])
def test_whatever_is_not_well_is_a_reason(ward: Ward, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "engine":
        ward.rig.pipeline.engine_state = "does not answer"
    elif what == "taps":
        ward.rig.pipeline.disconnect(ward.rig.source)
    elif what == "ledger":
        monkeypatch.setattr(type(ward.rig.ledger), "failed", "no space")
    elif what == "socket":
        monkeypatch.setattr(ward.receiver, "failed", "another listens there")
    else:
        monkeypatch.setattr(Tasks, "failed", "ledger: OSError: broken")
    answer = ward.web.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "degraded")
    (reason,) = answer.json()["reasons"]
    assert reason.startswith(f"{what}: ")
    assert ward.web.get("/live").status_code == 200


def test_a_tap_that_has_not_proved_itself_is_none(ward: Ward) -> None:
    ward.rig.pipeline.take(ward.rig.source, wire.encode(wire.Check(False, 8, 1.0)))
    answer = ward.web.get("/health")
    assert answer.status_code == 503
    assert "no tap that has proved itself" in answer.json()["reasons"][0]


def test_too_many_views_are_told_so(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_VIEWS", 0)
    answer = ward.web.get("/watch")
    assert (answer.status_code, "expected at most 0" in answer.json()["error"]) == (503, True)


def test_every_route_is_guarded(ward: Ward) -> None:
    for path in ("/health", "/live", "/watch", "/metrics", "/rules", "/nothing"):
        assert ward.web.get(path, headers={"host": "evil.example"}).status_code == 421
    for path in ("/rules/reload", "/rules/freeze", "/rules/thaw", "/alertmanager", "/nothing"):
        assert ward.web.post(path, json={}).status_code == 403

"""Health is ok only when requests are served and judged, and otherwise says why."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from monitor import wire
from monitor.admin import live
from monitor.admin.access import TOKEN, Access
from monitor.admin.app import admin_app
from monitor.admin.command import ABOUT
from monitor.admin.commander import Commander
from monitor.admin.tasks import Tasks
from monitor.audit.custody import Custody
from monitor.audit.retention import Retention
from monitor.config import GatewayConfig, SidecarConfig
from monitor.gateway.gateway import Gateway
from monitor.gateway.texts import Texts
from monitor.pipeline.receiver import Receiver
from monitor.pipeline.rulebook import Rulebook
from monitor.pipeline.tracks import Tracks
from probes.bank import Bank
from tests.monitor.pipeline.rig import RULES, Rig
from tests.rules.naive import probe_facts


class Ward:
    """A sidecar's parts behind its admin address, all of them well."""

    def __init__(self, bank: Bank, folder: Path, access: Access | None = None, listen: str = "127.0.0.1:8400", **config: Any) -> None:
        self.tracks = Tracks(bank.names, ("acme",), live.shown)
        self.rig = Rig(bank, folder / "ledger", followers=(self.tracks.frame,))
        self.tracks.serve(self.rig.pipeline)
        self.rig.pipeline.engine_state = "ok"
        self.tasks = Tasks(self.rig.pipeline.metrics)
        self.receiver = Receiver(folder / "tap.sock", self.rig.pipeline)
        (folder / "rules.yaml").write_text(RULES)
        book = Rulebook(folder / "rules.yaml", probe_facts(), self.rig.ledger)
        sidecar = SidecarConfig(**config)
        texts = Texts(sidecar.page.texts) if sidecar.page.texts else None
        self.gateway = Gateway(GatewayConfig(listen=listen), self.rig.pipeline, texts=texts)
        self.commander = Commander(self.gateway, book, folder / "ledger.commands")
        self.access = access or Access()
        app = admin_app(
            self.gateway,
            self.commander,
            CollectorRegistry(),
            book,
            self.receiver,
            self.tasks,
            self.access,
            sidecar,
            Custody(self.rig.ledger, Retention()),
            tracks=self.tracks,
        )
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


@pytest.mark.parametrize("what", ["engine", "taps", "ledger", "socket", "tasks", "access", "orders"])
def test_whatever_is_not_well_is_a_reason(ward: Ward, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if what == "engine":
        ward.rig.pipeline.engine_state = "does not answer"
    elif what == "taps":
        ward.rig.pipeline.disconnect(ward.rig.source)
    elif what == "ledger":
        monkeypatch.setattr(type(ward.rig.ledger), "failed", "no space")
    elif what == "socket":
        monkeypatch.setattr(ward.receiver, "failed", "another listens there")
    elif what == "access":
        monkeypatch.setattr(ward.access, "failed", "tokens not read")
    elif what == "orders":
        monkeypatch.setattr(ward.gateway.orders, "broken", "cannot be read")
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
    for path in (
        "/health",
        "/live",
        "/idle",
        "/watch",
        "/metrics",
        "/rules",
        "/orders",
        "/openapi.json",
        "/nothing",
        "/",
        "/page",
        "/page/files/page.js",
        "/page/live",
    ):
        assert ward.web.get(path, headers={"host": "evil.example"}).status_code == 421
    for path in ("/rules/reload", "/rules/freeze", "/rules/thaw", "/alertmanager", "/commands", "/nothing"):
        assert ward.web.post(path, json={}).status_code == 403


def test_an_address_that_others_reach_shows_nothing_without_a_token(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "secret")
    ward = Ward(bank, tmp_path, admin="0.0.0.0:8401")
    for path in (
        "/watch",
        "/metrics",
        "/rules",
        "/orders",
        "/openapi.json",
        "/page/about",
        "/page/state",
        "/page/live",
        "/page/streams/x",
        "/page/verdicts/0",
        "/pages",
    ):
        assert ward.web.get(path).status_code == 401, path
    assert ward.web.get("/live").json() == {"status": "ok"}
    assert ward.web.get("/health").json() == {"status": "ok"}  # what an orchestrator asks: no model, no reason
    bearer = {"authorization": "Bearer secret"}
    assert ward.web.get("/metrics", headers=bearer).status_code == 200
    assert "taps" in ward.web.get("/health", headers=bearer).json()


def test_the_openapi_document_names_every_route(ward: Ward) -> None:
    document = ward.web.get("/openapi.json").json()
    served = {route.path for route in ward.web.app.routes} - {"/openapi.json"}  # type: ignore[attr-defined]
    assert set(document["paths"]) == served
    command = document["components"]["schemas"]["Command"]
    assert set(command["required"]) == {"verb", "reason"}
    assert set(command["properties"]["verb"]["enum"]) == set(ABOUT)


def test_only_an_admin_thaws_by_whichever_way(bank: Bank, tmp_path: Path) -> None:
    entries = [f"- {{name: {role}-1, role: {role}, sha256: {hashlib.sha256(role.encode()).hexdigest()}}}" for role in ("operator", "admin")]
    (tmp_path / "access").write_text("tokens:\n" + "\n".join(entries))
    ward = Ward(bank, tmp_path, Access(tmp_path / "access"))

    def ask(role: str, path: str, **said: str) -> int:
        return ward.web.post(path, json={"reason": "r", **said}, headers={"authorization": f"Bearer {role}"}).status_code

    assert ask("operator", "/commands", verb="freeze") == 200
    assert ask("operator", "/commands", verb="thaw") == 409
    assert ask("operator", "/rules/thaw") == 403
    assert ask("admin", "/rules/reload") == 409
    assert ask("admin", "/commands", verb="thaw") == 200
    assert ask("admin", "/rules/reload") == 200


def test_an_orchestrator_hears_whether_replies_run(ward: Ward) -> None:
    answer = ward.web.get("/idle")
    assert (answer.status_code, answer.json()) == (200, {"status": "idle"})
    ward.gateway.replies.add(object())  # type: ignore[arg-type]
    answer = ward.web.get("/idle")
    assert (answer.status_code, answer.json()) == (503, {"status": "busy"})


def test_refusals_are_counted_by_their_reason(ward: Ward) -> None:
    ward.web.get("/metrics", headers={"host": "evil.example"})
    ward.web.get("/metrics", headers={"origin": "http://evil.example"})
    ward.web.post("/commands", json={})
    ward.web.post("/commands", content=b"x", headers={"content-type": "text/plain"})
    counted = {why: ward.rig.sample("barograph_admin_refused_total", why=why) for why in ("host", "origin", "token", "form", "role")}
    assert counted == {"host": 1, "origin": 1, "token": 1, "form": 1, "role": 0}

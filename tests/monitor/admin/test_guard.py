from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from monitor.admin.access import Access
from monitor.admin.guard import TOKEN, Guard, name_of

JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "secret")


def web(base: str = "http://127.0.0.1:8401", **guard: Any) -> TestClient:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("changed")

    return TestClient(
        Starlette(
            routes=[Route("/x", answer, methods=["GET", "POST"])], middleware=[Middleware(Guard, access=Access(), **{"hosts": (), **guard})]
        ),
        base_url=base,
    )


def test_a_web_page_changes_nothing() -> None:
    """What a browser sends for a page of somebody else's: a foreign Origin, a plain content type, no token."""
    client = web()
    foreign = {"origin": "https://evil.example"}
    assert client.post("/x", content=b"{}", headers={**foreign, "content-type": "text/plain"}).status_code == 403
    assert client.post("/x", json={}, headers={**foreign, "authorization": "Bearer secret"}).status_code == 403
    assert client.post("/x", json={}, headers={"origin": "null", "authorization": "Bearer secret"}).status_code == 403
    assert client.post("/x", json={}, headers={"origin": "http://127.0.0.1:3000", "authorization": "Bearer secret"}).status_code == 403
    assert client.get("/x", headers=foreign).status_code == 403
    assert client.get("/x", headers={"origin": "http://127.0.0.1:8401"}).status_code == 200


def test_behind_tls_a_page_that_came_without_it_is_foreign() -> None:
    client = web("https://127.0.0.1:8401")
    assert client.get("/x", headers={"origin": "https://127.0.0.1:8401"}).status_code == 200
    assert client.get("/x", headers={"origin": "http://127.0.0.1:8401"}).status_code == 403
    assert web().get("/x", headers={"origin": "https://127.0.0.1:8401"}).status_code == 200  # a proxy before us ends TLS
    twice = [("origin", "http://127.0.0.1:8401"), ("origin", "https://evil.example")]
    assert web().get("/x", headers=twice).status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8401", "127.0.0.1.evil.example", "localhost.evil.example", "", "10.0.0.7:8401"]
)
def test_a_name_that_leads_here_is_not_enough(host: str) -> None:
    response = web().get("/x", headers={"host": host})
    assert response.status_code == 421
    assert "sidecar.admin_hosts" in response.json()["error"]


@pytest.mark.parametrize("host", ["127.0.0.1:8401", "localhost", "LOCALHOST:1", "[::1]:8401", "127.9.9.9", "Metrics.svc:80"])
def test_names_of_this_address(host: str) -> None:
    assert web(hosts=("metrics.SVC",)).get("/x", headers={"host": host}).status_code == 200


def test_the_address_of_the_connection_is_a_name() -> None:
    """Prometheus in Kubernetes asks by a pod's address."""
    assert web("http://10.0.0.7:8401").get("/x").status_code == 200


def test_a_change_needs_the_token_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    client = web()
    assert client.post("/x", content=b"{}").status_code == 415
    for wrong in ("", "Bearer", "Bearer wrong", "Basic secret", "secret", "Bearer s\u00e9cret"):
        assert client.post("/x", json={}, headers={"authorization": wrong.encode()}).status_code == 401
    assert client.post("/x", json={}, headers={"authorization": "Bearer secret"}).text == "changed"
    monkeypatch.delenv(TOKEN)
    refused = client.post("/x", json={}, headers={"authorization": "Bearer "})
    assert refused.status_code == 403
    assert TOKEN in refused.json()["error"]
    assert web(is_open=True).post("/x", json={}).text == "changed"
    assert web(is_open=True).post("/x", content=b"x").status_code == 415


def test_a_token_may_be_of_any_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "s\u00e9cret")
    assert web().post("/x", json={}, headers={"authorization": "Bearer s\u00e9cret".encode()}).text == "changed"


def test_names_in_a_host_header() -> None:
    given = {"a:1": "a", "A": "a", "[::1]:8": "::1", "[::1]": "::1", "::1": ":", ":80": ":80"}
    assert {host: name_of(host) for host in given} == given


def test_a_line_break_behind_a_path_makes_no_admin_of_an_operator(tmp_path: Path) -> None:
    async def thaw(request: Request) -> PlainTextResponse:
        return PlainTextResponse("thawed")

    file = tmp_path / "access.yaml"
    hashed = {role: sha256(role.encode()).hexdigest() for role in ("operator", "admin")}
    file.write_text("tokens:\n" + "".join(f"- {{name: {role}, role: {role}, sha256: {digest}}}\n" for role, digest in hashed.items()))
    client = TestClient(
        Starlette(routes=[Route("/rules/thaw", thaw, methods=["POST"])], middleware=[Middleware(Guard, (), Access(file))]),
        base_url="http://127.0.0.1:8401",
    )
    operator, admin = ({"authorization": f"Bearer {role}"} for role in ("operator", "admin"))
    assert client.post("/rules/thaw", json={}, headers=admin).text == "thawed"
    assert client.post("/rules/thaw", json={}, headers=operator).status_code == 403
    for path in ("/rules/thaw%0A", "/rules/thaw%0D%0A", "/rules/thaw%0a"):
        assert client.post(path, json={}, headers=operator).status_code == 400

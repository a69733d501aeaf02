"""Into a Grafana, over its HTTP API. No Grafana installs from a package registry, so a server of ours plays the part of its API that is used: what it keeps, what it refuses, by its documentation."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from deploy import dashboards as files
from monitor.grafana.dashboards import dashboards
from monitor.grafana.provision import CONTACT, FOLDER, SOURCE, Grafana, GrafanaError
from tests.stack import free_port

TOKEN = "token"


class Api:
    """Keeps what is put into it. `fails`: what a path answers instead."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.annotations: list[dict[str, Any]] = []
        self.writes: list[str] = []
        self.fails: dict[str, int] = {}
        self.token = TOKEN

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        for start, status in self.fails.items():
            if path.startswith(start):
                return status, {"message": f"refused with {status}"}
        if method != "GET":
            self.writes.append(f"{method} {path}")
        if path == "/api/annotations":
            if method == "GET":
                since, until, tags = int(query["from"][0]), int(query["to"][0]), set(query["tags"])
                return 200, [each for each in self.annotations if since <= each["time"] <= until and tags <= set(each["tags"])]
            self.annotations.append(body)
            return 200, {"id": len(self.annotations)}
        if path == "/api/v1/provisioning/contact-points":
            if method == "GET":
                return 200, [value for key, value in self.kept.items() if key.startswith(path)]
            self.kept[f"{path}/{body['uid']}"] = body
            return 202, body
        if path == "/api/dashboards/db":
            key = f"/api/dashboards/uid/{body['dashboard']['uid']}"
            version = self.kept[key]["dashboard"]["version"] + 1 if key in self.kept else 1
            self.kept[key] = {"dashboard": {**body["dashboard"], "id": 7, "version": version}, "meta": {"folderUid": body["folderUid"]}}
            return 200, {"status": "success"}
        if method == "GET":
            return (200, self.kept[path]) if path in self.kept else (404, {"message": "not found"})
        if method == "PUT":
            self.kept[path] = body
            return 200, body
        key = {"/api/folders": "/api/folders/", "/api/datasources": "/api/datasources/uid/"}[path] + body["uid"]
        if key in self.kept:
            return 409, {"message": "exists"}
        self.kept[key] = body
        return 200, body


@contextmanager
def grafana() -> Iterator[tuple[str, Api]]:
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            parts = urlsplit(self.path)
            known = self.headers.get("authorization") == f"Bearer {api.token}"
            status, said = (
                api.answer(self.command, parts.path, parse_qs(parts.query), body) if known else (401, {"message": "Unauthorized"})
            )
            sent = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = _any

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", api
    finally:
        server.shutdown()
        server.server_close()


def verdict(seq: int) -> dict[str, Any]:
    return {"seq": seq, "time": 1e9 + seq, "rule": "stop_panic", "action": "halt", "position": 3}


def test_the_files_are_current() -> None:
    """If this fails: python -m deploy.dashboards"""
    assert {path.name: path.read_text() for path in files.FOLDER.iterdir()} == files.files()


def test_all_is_there_and_the_second_time_changes_nothing() -> None:
    with grafana() as (url, api):
        told: list[str] = []
        for _ in range(2):
            Grafana(url, TOKEN, told.append).provision("http://prometheus:9090", "http://on-call/", [verdict(5), verdict(6)])
    assert set(api.kept) == {
        f"/api/folders/{FOLDER}", f"/api/datasources/uid/{SOURCE}", f"/api/v1/provisioning/contact-points/{CONTACT}",
        *(f"/api/dashboards/uid/barograph-{name}" for name in dashboards()),
    }  # fmt: skip
    assert len(api.writes) == 8  # folder, source, three dashboards, contact point, two annotations: each once
    assert told[:7] == [
        "folder: made", "data source: made", "dashboard fleet: made", "dashboard incident: made", "dashboard health: made", "contact point: made", "annotations: 2 made",
    ]  # fmt: skip
    assert all(line.endswith("was there") for line in told[7:])
    for name in dashboards():
        kept = api.kept[f"/api/dashboards/uid/barograph-{name}"]
        assert kept["meta"]["folderUid"] == FOLDER
        assert kept["dashboard"]["templating"]["list"][0]["current"]["value"] == SOURCE
    assert [each["time"] for each in api.annotations] == [1_000_000_005_000, 1_000_000_006_000]
    assert {"barograph", "verdict", "rule:stop_panic", "action:halt"} <= set(api.annotations[0]["tags"])


def test_what_has_changed_is_brought_up_to_date_and_what_others_added_stays() -> None:
    with grafana() as (url, api):
        Grafana(url, TOKEN).provision("http://old:9090", "http://old/")
        api.kept["/api/dashboards/uid/barograph-fleet"]["dashboard"]["title"] = "Somebody's"
        api.kept[f"/api/datasources/uid/{SOURCE}"]["basicAuth"] = True
        told: list[str] = []
        Grafana(url, TOKEN, told.append).provision("http://new:9090", "http://new/", [verdict(7)])
    assert told == [
        "folder: was there", "data source: changed", "dashboard fleet: changed", "dashboard incident: was there", "dashboard health: was there",
        "contact point: changed", "annotations: 1 made",
    ]  # fmt: skip
    source = api.kept[f"/api/datasources/uid/{SOURCE}"]
    assert (source["url"], source["basicAuth"]) == ("http://new:9090", True)
    assert api.kept["/api/dashboards/uid/barograph-fleet"]["dashboard"]["title"] == "Barograph / Fleet"
    assert api.kept[f"/api/v1/provisioning/contact-points/{CONTACT}"]["settings"]["url"] == "http://new/"


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/api/folders", 403, "folder barograph: 403: the token may not do this; expected the role Admin"),
        ("/api/folders", 500, "folder barograph: 500: Grafana itself failed; its log says why"),
        ("/api/datasources", 409, "data source barograph-prometheus: 409: somebody else changed it meanwhile"),
        ("/api/dashboards/db", 412, "dashboard fleet: 412: it is another one of that name"),
        ("/api/v1/provisioning", 404, "contact point barograph-contact: 404: "),
    ],
)
def test_what_grafana_refuses_is_one_line_that_says_what_to_do(path: str, status: int, expected: str) -> None:
    with grafana() as (url, api):
        api.fails[path] = status
        with pytest.raises(GrafanaError, match=expected) as caught:
            Grafana(url, TOKEN).provision("http://p", "http://w")
    assert "\n" not in str(caught.value)


def test_a_wrong_token_is_told_from_a_grafana_that_is_not_there() -> None:
    with grafana() as (url, _), pytest.raises(GrafanaError, match="401: it does not know this token; expected one of a service account"):
        Grafana(url, "wrong").provision("http://p", None)
    with pytest.raises(GrafanaError, match="it cannot be reached"):
        Grafana(f"http://127.0.0.1:{free_port()}", TOKEN).provision("http://p", None)

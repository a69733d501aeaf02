"""What the page is told: by whom, how much, and nothing of what was said unless somebody asked for it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from monitor.admin import feed, files
from monitor.admin.access import TOKEN, Access
from monitor.admin.feed import MISSING, Feed, in_tenths
from monitor.admin.live import MAX_VIEWS, Views
from probes.bank import Bank
from tests.monitor.admin.test_health import Ward

REQUEST = "0123456789abcdef01234567"
CANARY = "canary-of-the-text"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def ward(bank: Bank, tmp_path: Path) -> Ward:
    return Ward(bank, tmp_path)


def people(folder: Path) -> Access:
    roles = ("viewer", "auditor", "operator", "admin")
    entries = [f"- {{name: {role}-1, role: {role}, sha256: {hashlib.sha256(role.encode()).hexdigest()}}}" for role in roles]
    (folder / "access").write_text("tokens:\n" + "\n".join(entries))
    return Access(folder / "access")


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def floats(packed: str) -> list[float]:
    return np.frombuffer(base64.b64decode(packed), "<f4").tolist()


def tenths(packed: str) -> list[int]:
    return np.frombuffer(base64.b64decode(packed), np.int8).tolist()


def only(ward: Ward) -> str:
    (track,) = list(ward.tracks)
    return track.shown


class TestFiles:
    def test_the_page_has_a_strict_policy(self, ward: Ward) -> None:
        for path in ("/page", "/page/files/page.js", "/page/files/page.css", "/page/files/nothing.js"):
            headers = ward.web.get(path).headers
            assert headers["content-security-policy"].startswith(
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'"
            )
            assert "unsafe" not in headers["content-security-policy"]
            assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")

    def test_the_root_leads_to_it(self, ward: Ward) -> None:
        answer = ward.web.get("/", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, "page")

    def test_a_file_that_is_known_is_not_sent_again(self, ward: Ward) -> None:
        first = ward.web.get("/page/files/page.js")
        again = ward.web.get("/page/files/page.js", headers={"if-none-match": f'"other", W/{first.headers["etag"]}'})
        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")

    def test_no_other_file_is_served(self, ward: Ward) -> None:
        for path in ("/page/files/..%2fpage.py", "/page/files/%2e%2e", "/page/files/page.py", "/page/files//etc/passwd", "/page/files/"):
            assert ward.web.get(path).status_code in (404, 421), path

    @pytest.mark.smoke
    def test_nothing_is_inline_and_nothing_is_foreign(self) -> None:
        assert (files.FOLDER / "index.html").is_file()
        for path in files.FOLDER.iterdir():
            text = path.read_text("utf-8")
            assert (
                "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "").replace("//\n", "") or path.suffix == ".js"
            ), path
            for bad in (
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "https://",
                "@import",
                " style=",
                "onclick=",
            ):
                assert bad not in text, f"{path}: {bad}"
            assert len(text.splitlines()) <= 300, path

    def test_every_file_that_a_file_names_is_there(self, ward: Ward) -> None:
        names = {path.name for path in files.FOLDER.iterdir()}
        for name in names:
            assert ward.web.get(f"/page/files/{name}").status_code == 200
        modules = {
            line.split('"./')[1].split('"')[0]
            for path in files.FOLDER.glob("*.js")
            for line in path.read_text().splitlines()
            if 'from "./' in line
        }
        assert modules <= names
        assert modules | {"page.js", "page.css", "views.css", "index.html", "icon.svg"} == names


class TestFeed:
    def test_a_viewer_hears_everything_once_and_then_what_came(self, ward: Ward) -> None:
        rig, follow = ward.rig, Feed(ward.tracks, 1)
        rig.frame([(7, 0, 0.5), (8, 0, 9.0)], begins=[(7, REQUEST, 0), (8, REQUEST, 1)])
        first = follow.step()
        assert [(each["tokens"], tenths(each["z"])) for each in first["came"]] == [(1, [5]), (1, [90])]
        assert [(each["rule"], each["mode"], each["position"]) for each in first["verdicts"]] == [
            ("high", "armed", 0),
            ("look", "shadow", 0),
        ]
        assert not {"came", "more", "over", "gone", "verdicts"} & set(follow.step())
        for position in range(1, 4):
            rig.frame([(7, position, position / 10)])
        step = follow.step()
        assert [(number, at, tenths(z)) for number, at, z in step["more"]] == [(0, 1, [1, 2, 3])]
        rig.frame([(7, 4, -0.4)], ends=[(7, 5)])
        (over,) = follow.step()["over"]
        assert (over[:4], tenths(over[4])) == ([0, 5, False, 4], [-4])
        assert "over" not in follow.step()

    def test_a_slow_viewer_gets_the_last_and_costs_no_memory(self, ward: Ward) -> None:
        rig, follow = ward.rig, Feed(ward.tracks, 1)
        rig.frame(begins=[(7, REQUEST, 0)])
        follow.step()
        for position in range(500):
            rig.frame([(7, position, 1.0)])
        ((_, at, z),) = follow.step()["more"]
        assert (at, len(tenths(z))) == (500 - 64, 64)
        assert "more" not in follow.step()

    def test_a_page_begins_with_no_more_than_a_strip(self, ward: Ward) -> None:
        rig = ward.rig
        rig.frame(begins=[(7, REQUEST, 0)])
        for position in range(700):
            rig.frame([(7, position, 1.0)])
        (came,) = Feed(ward.tracks, 1).step()["came"]
        assert (came["tokens"], came["first"], len(tenths(came["z"]))) == (700, 700 - feed.STRIP, feed.STRIP)

    def test_what_is_gone_is_said(self, ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("monitor.pipeline.tracks.MAX_OVER", 1)
        follow = Feed(ward.tracks, 1)
        ward.rig.frame([(7, 0, 0.0)], begins=[(7, REQUEST, 0)], ends=[(7, 1)])
        assert len(follow.step()["came"]) == 1
        ward.rig.frame([(8, 0, 0.0)], begins=[(8, "other", 0)], ends=[(8, 1)])
        assert follow.step()["gone"] == [0]

    def test_no_id_that_a_tap_could_use(self, ward: Ward) -> None:
        ward.rig.frame([(7, 0, 9.0)], begins=[(7, REQUEST, 0)])
        said = json.dumps(Feed(ward.tracks, 1).step())
        name = only(ward)
        said += ward.web.get(f"/page/streams/{name.replace('#', '%23')}").text + ward.web.get("/page/verdicts/0").text
        assert name in said
        assert REQUEST[:6] not in said

    def test_scores_travel_in_tenths(self) -> None:
        assert in_tenths(np.array([0.04, -0.26, 99, -99, np.nan, np.inf])).tolist() == [0, -3, 127, -127, MISSING, MISSING]

    @pytest.mark.anyio
    async def test_it_counts_as_a_view(self, ward: Ward) -> None:
        views = Views(ward.rig.pipeline)
        running = [views.counted(Feed(ward.tracks, 0).events()) for _ in range(MAX_VIEWS)]
        for each in running:
            await anext(each)
        assert views.full
        for each in running:
            await each.aclose()
        assert not views.full

    def test_a_probe_that_nobody_knows(self, ward: Ward) -> None:
        answer = ward.web.get("/page/live?probe=joy")
        assert answer.status_code == 404
        assert "there are: desperation, panic" in answer.json()["error"]


class TestPictures:
    def test_a_stream_with_all_scores_and_signals(self, ward: Ward) -> None:
        ward.rig.frame(begins=[(7, REQUEST, 0)])
        for position in range(40):
            ward.rig.frame([(7, position, position / 16)])
        path = f"/page/streams/{only(ward).replace('#', '%23')}"
        said = ward.web.get(path).json()
        assert (said["n"], said["first"], said["tokens"], said["ended"]) == (40, 0, 40, 0)
        assert floats(said["scores"]["panic"]) == [i / 16 for i in range(40)]
        assert floats(said["signals"]["panic.last"]) == [i / 16 for i in range(40)]
        assert said["lines"] == [
            {"rule": "high", "signal": "panic.last", "label": "> 3", "value": 3.0, "ends": False},
            {"rule": "look", "signal": "panic.last", "label": "> 2", "value": 2.0, "ends": False},
        ]
        later = ward.web.get(path + "?from=38").json()
        assert (later["first"], floats(later["scores"]["panic"])) == (38, [38 / 16, 39 / 16])
        assert floats(later["signals"]["panic.last"]) == [38 / 16, 39 / 16]
        assert "text" not in later
        for strange in ("-1", "x", "9" * 30, "²"):
            assert ward.web.get(path, params={"from": strange}).status_code == 200

    def test_a_verdict_with_its_stream(self, ward: Ward) -> None:
        ward.rig.frame([(7, 0, 5.0)], begins=[(7, REQUEST, 0)])
        said = ward.web.get("/page/verdicts/0").json()
        assert (said["rule"], said["action"], said["mode"], said["when"], said["signals"]) == (
            "high",
            "halt",
            "armed",
            "panic.last > 3",
            {"panic.last": 5.0},
        )
        assert said["picture"]["spans"] == [["high", "armed", "halt", 0, -1], ["look", "shadow", "alert", 0, -1]]
        assert [line["label"] for line in said["picture"]["lines"]] == ["> 3"]
        assert ward.web.get("/page/verdicts/99").status_code == 404

    def test_few_wait_for_a_picture(self, ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("monitor.admin.page.MAX_WAITING", 0)
        ward.rig.frame([(7, 0, 5.0)], begins=[(7, REQUEST, 0)])
        assert ward.web.get("/page/verdicts/0").status_code == 503

    def test_what_is_not_kept_is_said(self, ward: Ward) -> None:
        answer = ward.web.get("/page/streams/abc%230")
        assert answer.status_code == 404
        assert "ledger" in answer.json()["error"]

    def test_about_and_state(self, ward: Ward) -> None:
        about, state = ward.web.get("/page/about").json(), ward.web.get("/page/state").json()
        assert (about["person"], about["role"], about["commands"], about["texts"]) == ("near", "viewer", False, 0)
        assert [probe["name"] for probe in about["probes"]] == list(ward.rig.pipeline.bank.names)
        assert about["probes"][0]["auroc"] > 0.9
        assert (state["tokens"], state["frames_lost"], state["decisions"], state["today"]["rules"]) == (0, 0, [], {})
        ward.rig.frame([(7, 0, 5.0)], begins=[(7, REQUEST, 0)])
        assert ward.web.get("/page/state").json()["today"]["rules"] == {"high": {"armed": 1}, "look": {"shadow": 1}}
        json.dumps(state, allow_nan=False)


class TestTexts:
    def spoken(self, ward: Ward) -> str:
        ward.rig.frame([(7, 0, 5.0)], begins=[(7, REQUEST, 0)])
        if ward.gateway.texts is not None:
            ward.gateway.texts.left((REQUEST, 0), 0, 1, {"delta": {"content": CANARY}})
        return f"/page/streams/{only(ward).replace('#', '%23')}"

    def told(self, web: TestClient, path: str, headers: dict[str, str]) -> str:
        return web.get(path, headers=headers).text + web.get("/page/verdicts/0", headers=headers).text

    def test_by_default_nobody_is_told(self, bank: Bank, tmp_path: Path) -> None:
        ward = Ward(bank, tmp_path, people(tmp_path))
        path = self.spoken(ward)
        for headers in ({}, bearer("admin")):
            assert '"text"' not in self.told(ward.web, path, headers)

    def test_those_who_command_or_audit_are_told(self, bank: Bank, tmp_path: Path) -> None:
        ward = Ward(bank, tmp_path, people(tmp_path), page={"texts": 4})
        path = self.spoken(ward)
        for headers in ({}, bearer("viewer"), bearer("wrong")):
            assert CANARY not in self.told(ward.web, path, headers), headers
            assert ward.web.get("/page/about", headers=headers).json()["texts"] == 0
        for role in ("auditor", "operator", "admin"):
            assert self.told(ward.web, path, bearer(role)).count(CANARY) == 2
        assert CANARY not in ward.rig.said()

    def test_text_that_leaves_behind_its_scores_is_not_missed(self, bank: Bank, tmp_path: Path) -> None:
        ward = Ward(bank, tmp_path, people(tmp_path), page={"texts": 4})
        path = self.spoken(ward)
        assert ward.web.get(path, params={"from": 1, "said": 0}, headers=bearer("admin")).json()["text"] == [[0, 1, CANARY]]
        assert ward.web.get(path, params={"from": 1, "said": 1}, headers=bearer("admin")).json()["text"] == []

    def test_whoever_is_near_is_told_where_the_operator_said_so(self, bank: Bank, tmp_path: Path) -> None:
        ward = Ward(bank, tmp_path, people(tmp_path), page={"texts": 4, "near": True})
        path = self.spoken(ward)
        assert CANARY in self.told(ward.web, path, {})
        assert CANARY not in self.told(ward.web, path, bearer("viewer"))

    def test_who_comes_by_a_proxy_before_loopback_is_not_near(self, bank: Bank, tmp_path: Path) -> None:
        ward = Ward(bank, tmp_path, page={"texts": 4, "near": True}, admin_hosts=("barograph.example",))
        path = self.spoken(ward)
        assert CANARY not in self.told(ward.web, path, {"host": "barograph.example"})
        assert CANARY in self.told(ward.web, path, {})

    def test_nobody_is_near_on_an_address_that_others_reach(self, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(TOKEN, "secret")
        ward = Ward(bank, tmp_path, admin="0.0.0.0:8401", page={"texts": 4, "near": True})
        path = self.spoken(ward)
        assert ward.web.get(path).status_code == 401
        assert CANARY in self.told(ward.web, path, bearer("secret"))

    def test_a_foreign_page_is_told_nothing(self, bank: Bank, tmp_path: Path) -> None:
        ward = Ward(bank, tmp_path, page={"texts": 4, "near": True})
        path = self.spoken(ward)
        answer = ward.web.get(path, headers={"origin": "https://evil.example"})
        assert answer.status_code == 403
        assert not any(name.startswith("access-control") for name in ward.web.get(path).headers)


def test_the_page_itself_needs_no_token(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "secret")
    ward = Ward(bank, tmp_path, admin="0.0.0.0:8401")
    for path in ("/", "/page", "/page/files/page.js", "/page/files/page.css"):
        assert ward.web.get(path).status_code == 200, path
    for path in ("/page/about", "/page/files", "/page/chat"):
        assert ward.web.get(path).status_code in (401, 405), path
    assert ward.web.post("/page/files/page.js", json={}).status_code == 401

"""The sidecar's image: what is in it, that it can be made again, and that it judges, records and ends well in a container that may do nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from deploy.images.archive import Archive
from monitor import __version__
from tests import ledgers
from tests.images.conftest import ROOT, build
from tests.images.container import UID, Container, owned
from tests.stack import MODEL, eventually, free_port

pytestmark = pytest.mark.timeout(900)  # the first of them builds

TOKEN = "for-tests"
LIMIT_MB = 120  # compressed, as it travels


@dataclass(frozen=True)
class Place:
    """What a sidecar gets from outside: two folders that it may write, and a file that it may read."""

    run: Path
    data: Path
    config: Path
    ports: dict[str, int]

    @property
    def mounts(self) -> list[tuple[Path, str, str]]:
        return [
            (self.run, "/run/barograph", "rw"),
            (self.data, "/var/lib/barograph", "rw"),
            (self.config, "/etc/barograph/barograph.yaml", "ro"),
        ]

    def get(self, which: str, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.ports[which]}{path}")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    ports = {name: free_port() for name in ("gateway", "admin", "engine")}
    config = tmp_path / "barograph.yaml"
    config.write_text(yaml.safe_dump({
        "socket": "/run/barograph/tap.sock",
        "gateway": {"listen": f"127.0.0.1:{ports['gateway']}", "upstream": f"http://127.0.0.1:{ports['engine']}"},
        "sidecar": {"admin": f"127.0.0.1:{ports['admin']}", "ledger": "/var/lib/barograph/ledger"},
    }))  # fmt: skip
    return Place(owned(tmp_path / "run"), owned(tmp_path / "data"), config, ports)


@pytest.fixture
def sidecar(image: Archive, root: Path, tmp_path: Path, place: Place) -> Iterator[Container]:
    with Container(image, root, tmp_path / "sidecar", ["sidecar"], place.mounts, {"BAROGRAPH_ADMIN_TOKEN": TOKEN}) as running:
        eventually(lambda: running.alive() and place.get("admin", "/live").status_code == 200, "the sidecar answers")
        yield running


def test_it_holds_python_and_its_wheels_alone(image: Archive) -> None:
    files = image.files()
    packages = {path.split("/")[3] for path in files if path.startswith("/opt/barograph/")}
    assert {"monitor", "probes", "rules"} <= packages
    assert not packages & {"torch", "transformers", "nnsight", "pip", "setuptools"}
    assert not [path for path in files if path.endswith(("/sh", "/bash", "/dash", "/busybox"))]
    programs = {path for path, (about, _) in files.items() if about.isfile() and about.mode & 0o111 and "/bin/" in path}
    assert programs == {"/usr/bin/python3.11", "/opt/barograph/bin/barograph"}
    assert not [path for path, (about, _) in files.items() if about.mode & 0o6000]
    assert not [path for path in files if re.search(r"^/(root|build|home)|/\.cache|\.whl$", path)]
    writable = {path for path, (about, _) in files.items() if about.uid == UID or (about.mode & 0o002 and not about.issym())}
    assert writable == {"/tmp", "/var/lib/barograph", "/run/barograph"}
    assert image.compressed < LIMIT_MB * 1_000_000


def test_it_says_what_it_is(image: Archive) -> None:
    about = image.config["config"]
    assert (about["User"], about["Entrypoint"], about["Cmd"]) == (f"{UID}:{UID}", ["barograph"], ["sidecar"])
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in about["Labels"].items()}
    assert labels["version"] == __version__
    assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", labels["base.name"])
    assert re.fullmatch(r"[0-9a-f]{64}", labels["barograph.wheel.sha256"])


def test_the_bill_of_materials_names_what_was_locked(image: Archive) -> None:
    parts = json.loads(next(image.path.parent.glob("*.cdx.json")).read_text())["components"]
    found = {kind: {part["name"].lower().replace("_", "-"): part["version"] for part in parts if part.get("purl", "").startswith(f"pkg:{kind}/")}
             for kind in ("pypi", "deb")}  # fmt: skip
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+) ", (ROOT / "deploy" / "images" / "sidecar.lock").read_text(), re.MULTILINE))
    assert found["pypi"] == {**locked, "barograph": __version__}
    status = {path.rsplit("/", 1)[1] for path in image.files() if "/dpkg/status.d/" in path}
    assert set(found["deb"]) == status
    assert {"libc6", "libssl3", "python3.11-minimal"} <= status


def test_a_second_build_is_the_same_to_the_byte(image: Archive, tmp_path: Path) -> None:
    again = build(tmp_path)
    one, other = (
        {path: (about.mode, about.uid, about.mtime, digest) for path, (about, digest) in each.files().items()} for each in (image, again)
    )
    assert {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)} == set()
    assert image.digest == again.digest


def test_an_unpinned_base_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "deploy" / "images.sh", "sidecar", tmp_path], capture_output=True, text=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path), "PYTHON": sys.executable, "BASE": "docker.io/library/debian:12"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "expected NAME@sha256:DIGEST" in done.stderr


def test_it_says_its_version_and_trusts_the_web(image: Archive, root: Path, tmp_path: Path) -> None:
    with Container(image, root, tmp_path / "version", ["--version"], []) as asked:
        assert asked.finish() == (0, f"barograph {__version__}\n")
    probe = "import ssl, ctypes, zoneinfo, asyncio, uuid, lzma, bz2; print(len(ssl.create_default_context().get_ca_certs()) > 100)"
    with Container(image, root, tmp_path / "trust", ["-c", probe], [], entrypoint=["python3.11"]) as asked:
        assert asked.finish() == (0, "True\n")


def test_without_a_configuration_it_says_what_is_missing(image: Archive, root: Path, tmp_path: Path) -> None:
    with Container(image, root, tmp_path / "bare", ["sidecar"], []) as asked:
        code, said = asked.finish()
    assert (code, said.count("\n")) == (2, 1)
    assert "/etc/barograph/barograph.yaml" in said


def test_it_runs_as_nobody_who_may_nothing(sidecar: Container, place: Place) -> None:
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{sidecar.pid()}/status").read_text().splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(UID)] * 4
    assert status["Gid"].split() == [str(UID)] * 4
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    metrics = place.get("admin", "/metrics")
    assert metrics.status_code == 200
    assert "barograph_tokens_judged_total 0.0" in metrics.text
    refused = httpx.post(f"http://127.0.0.1:{place.ports['gateway']}/v1/chat/completions", json={"messages": []})
    assert refused.status_code == 503  # no tap has proved itself


def test_a_reply_is_judged_recorded_and_sealed(image: Archive, root: Path, tmp_path: Path, place: Place, sidecar: Container) -> None:
    """Engine and sidecar share one folder and one user, as they do in a pod."""
    there = "/opt/tests"
    mounts = [
        (place.run, "/run/barograph", "rw"),
        (ROOT / "benchmarks", f"{there}/benchmarks", "ro"),
        (ROOT / "tests", f"{there}/tests", "ro"),
    ]
    command = ["-m", "tests.images.engine", str(place.ports["engine"]), "/run/barograph/tap.sock"]
    # runc makes the places of mounts in the root's folder: it is unpacked once and no layer of the image.
    with Container(
        image, root, tmp_path / "engine", command, mounts, {"PYTHONPATH": f"/opt/barograph:{there}"}, entrypoint=["python3.11"]
    ) as engine:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 20, "seed": 1}
        url = f"http://127.0.0.1:{place.ports['gateway']}/v1/chat/completions"

        def judged() -> httpx.Response | None:
            assert engine.alive()
            assert sidecar.alive()
            answer = httpx.post(url, json=body, timeout=20)
            return answer if answer.status_code == 200 else None

        answer = eventually(judged, "a reply comes through")
        assert answer.headers["x-barograph"].startswith("judged")
        assert answer.json()["usage"]["completion_tokens"] == 20

        def counted() -> bool:
            """Twenty, and those of an earlier try that was too slow."""
            found = re.search(r"^barograph_tokens_judged_total (\S+)$", place.get("admin", "/metrics").text, re.MULTILINE)
            return found is not None and float(found[1]) >= 20

        eventually(counted, "its tokens are counted")
        assert sidecar.stop() == 0
    records = ledgers.records(place.data / "ledger")
    assert {"sidecar", "tap", "stream", "reply"} <= {record["kind"] for record in records}
    assert (records[-1]["kind"], records[-1]["event"]) == ("sidecar", "stop")
    with Container(image, root, tmp_path / "key", ["audit", "key"], place.mounts) as asked:
        code, key = asked.finish()
    assert code == 0, key
    with Container(image, root, tmp_path / "verify", ["audit", "verify", "--json", "--key", key.strip()], place.mounts) as asked:
        code, said = asked.finish()
    assert code == 0, said
    assert json.loads(said)["records"] == len(records)  # all of them sealed

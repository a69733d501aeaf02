"""compose.yaml: Docker Compose's own library loads it, nobody reaches the engine around the gateway, and each part understands its configuration."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy import dashboards
from monitor import __version__
from monitor.admin.access import Access, Role
from monitor.config import Config
from monitor.grafana.dashboards import dashboards as made
from monitor.grafana.provision import SOURCE
from tests.stack import Stack, environment, free_port

DEPLOY = Path(dashboards.__file__).parent
FOLDER = DEPLOY / "compose"
LOADER = Path(__file__).parent / "loader"
OURS = ("engine", "sidecar", "fetch", "topics")
needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="needs Go, which builds Docker Compose's library")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
needs_amtool = pytest.mark.skipif(shutil.which("amtool") is None, reason="needs amtool")


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which the secrets are made."""
    folder = tmp_path_factory.mktemp("compose") / "deploy"
    shutil.copytree(DEPLOY, folder, ignore=shutil.ignore_patterns("__pycache__", "secrets"))
    subprocess.run([folder / "compose" / "secrets.sh"], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("loader") / "loader"
    subprocess.run(["go", "build", "-o", binary, "."], cwd=LOADER, check=True)
    return binary


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return found


def loaded(loader: Path, deploy: Path, *files: str) -> Any:
    done = subprocess.run([loader, *files], cwd=deploy, capture_output=True, text=True, env=environment(MODEL="a/model"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_go
def test_docker_composes_library_loads_it(loader: Path, deploy: Path) -> None:
    project = loaded(loader, deploy, "compose.yaml")
    assert project["services"].keys() == services().keys()
    engine = project["services"]["engine"]
    assert "a/model" in engine["command"]
    assert engine["environment"].keys() == {"BAROGRAPH_TAP_KEY", "HF_HUB_OFFLINE"}  # the engine has no token of the sidecar's
    assert project["services"]["sidecar"]["environment"]["BAROGRAPH_TAP_KEY"] == engine["environment"]["BAROGRAPH_TAP_KEY"]
    assert [each["driver"] for each in engine["deploy"]["resources"]["reservations"]["devices"]] == ["nvidia"]
    on_cpu = loaded(loader, deploy, "compose.yaml", "compose/cpu.yaml")["services"]["engine"]
    assert "nvidia" not in json.dumps(on_cpu)
    assert on_cpu["network_mode"] == "none"
    wrong = (deploy / "compose.yaml").read_text().replace("    network_mode: none\n", "    network_mode: none\n    networks: [edge]\n")
    (deploy / "wrong.yaml").write_text(wrong)
    assert subprocess.run([loader, "wrong.yaml"], cwd=deploy, capture_output=True).returncode == 1


@needs_go
def test_what_is_mounted_is_there(loader: Path, deploy: Path) -> None:
    project = loaded(loader, deploy, "compose.yaml")
    binds = [volume["source"] for each in project["services"].values() for volume in each.get("volumes", []) if volume["type"] == "bind"]
    files = [each["file"] for each in project["secrets"].values()]
    assert len(binds) > 8
    assert [path for path in (*binds, *files) if not Path(path).exists()] == []


def test_each_may_do_little() -> None:
    for name, service in services().items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] or name == "kafka", name
        assert {"mem_limit", "pids_limit"} <= service.keys(), name
        assert not service.keys() & {"privileged", "cap_add", "pid", "ipc", "devices"}, name
        assert re.search(r":v?\d+\.\d+\.\d+\}$", service["image"]), name  # a version; by its variable, a digest
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port} beyond this machine"
    for name in OURS:
        assert services()[name]["user"] == "65532:65532"
        assert services()[name]["image"].endswith(f":{__version__}}}")


def test_the_engine_is_reached_by_the_sidecar_only() -> None:
    whole = services()
    assert whole["engine"]["network_mode"] == "none"
    assert not whole["engine"].keys() & {"networks", "ports", "expose"}
    assert {name for name, each in whole.items() if any(str(volume).startswith("sockets:") for volume in each.get("volumes", []))} == {
        "engine", "sidecar",
    }  # fmt: skip
    sockets = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["volumes"]["sockets"]["driver_opts"]
    assert sockets["type"] == "tmpfs"
    assert {"uid=65532", "mode=0700"} <= set(sockets["o"].split(","))


def test_the_sidecars_configuration_fits() -> None:
    config, whole = Config.load(FOLDER / "barograph.yaml"), services()
    mounted = dict(str(volume).split(":")[:2] for volume in whole["sidecar"]["volumes"])
    assert str(config.socket.parent) == mounted["sockets"]
    assert isinstance(config.engine.listen, Path)
    assert str(config.engine.listen.parent) == mounted["sockets"]
    assert config.gateway.upstream == f"unix:{config.engine.listen}"
    assert str(config.sidecar.ledger.parent) == mounted["ledger"]
    assert str(config.sidecar.access) in mounted.values()
    assert float(whole["sidecar"]["stop_grace_period"].rstrip("s")) > config.gateway.grace_s + 15
    assert {port.rsplit(":", 1)[1] for port in whole["sidecar"]["ports"]} == {str(config.gateway.listen[1]), str(config.sidecar.admin[1])}
    assert config.sidecar.kafka is not None
    assert config.sidecar.otel is not None
    assert config.sidecar.kafka.bootstrap.split(":")[0] in whole
    assert re.split(r"[/:]+", config.sidecar.otel.endpoint)[1] in whole
    assert "sidecar" in config.sidecar.admin_hosts  # by which Prometheus reaches it
    assert f"${{MODEL:-{config.engine.model}}}" in whole["engine"]["command"]


def test_secrets_are_made_once_and_fit_each_other(deploy: Path) -> None:
    folder = deploy / "compose" / "secrets"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len({value.partition("=")[2] or value for value in before.values()}) == len(before)
    access = Access(folder / "access.yaml")
    roles = {name: access.who(f"Bearer {before[f'{name}.token']}") for name in ("prometheus", "alertmanager")}
    assert {name: person and person.role for name, person in roles.items()} == {"prometheus": Role.VIEWER, "alertmanager": Role.OPERATOR}
    subprocess.run([deploy / "compose" / "secrets.sh"], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_the_sidecar_lets_in_whom_it_should(deploy: Path, tmp_path: Path) -> None:
    """With compose's own settings, but for places and ports: broker and collector are away, and it serves all the same."""
    port, secrets = free_port(), deploy / "compose" / "secrets"
    own = yaml.safe_load((FOLDER / "barograph.yaml").read_text())["sidecar"]
    settings = {"sidecar": {**own, "admin": f"0.0.0.0:{port}", "ledger": str(tmp_path / "ledger"), "access": str(secrets / "access.yaml")}}
    stack = Stack(tmp_path, settings, engine=False)
    stack.ports["admin"] = port
    with stack:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"host": f"sidecar:{own['admin'].split(':')[1]}"}) as network:
            bearer = {
                name: {"authorization": f"Bearer {(secrets / f'{name}.token').read_text()}"} for name in ("prometheus", "alertmanager")
            }
            assert network.get("/metrics", headers=bearer["prometheus"]).status_code == 200
            assert network.get("/metrics").status_code == 401
            assert network.post("/alertmanager", json={"alerts": []}, headers=bearer["alertmanager"]).status_code == 200
            assert network.post("/alertmanager", json={"alerts": []}, headers=bearer["prometheus"]).status_code == 403
            assert network.get("/metrics", headers={"host": "elsewhere:8401", **bearer["prometheus"]}).status_code in (403, 421)
        check = services()["sidecar"]["healthcheck"]["test"]
        assert check[:3] == ["CMD", "python3", "-c"]
        asked = subprocess.run([sys.executable, "-c", check[3].replace(":8401", f":{port}")], capture_output=True)
        assert asked.returncode == 0


@needs_promtool
def test_prometheus_understands_its_configuration(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    (tmp_path / "prometheus.yaml").write_text((FOLDER / "prometheus.yaml").read_text().replace("/run/secrets/prometheus-token", str(token)))
    shutil.copy(DEPLOY / "prometheus" / "rules.yaml", tmp_path)
    done = subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout
    asked = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    for address in (
        asked["scrape_configs"][0]["static_configs"][0]["targets"][0],
        asked["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"][0],
    ):
        assert address.split(":")[0] in services()
    (job,) = asked["scrape_configs"]
    assert job["job_name"].startswith("barograph")  # as the rules want it


@needs_amtool
def test_alertmanager_tells_people_of_all_and_the_sidecar_of_its_fleet(tmp_path: Path) -> None:
    def told(*labels: str) -> str:
        command = ["amtool", "config", "routes", "test", f"--config.file={FOLDER / 'alertmanager.yaml'}", *labels]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert subprocess.run(["amtool", "check-config", FOLDER / "alertmanager.yaml"], capture_output=True).returncode == 0
    assert told("alertname=panic_spreads", "barograph=fleet") == "sidecar,people"
    assert told("alertname=BarographDown") == "people"


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    sources = yaml.safe_load((FOLDER / "grafana" / "datasources" / "barograph.yaml").read_text())["datasources"]
    (prometheus,) = (each for each in sources if each["type"] == "prometheus")
    assert (prometheus["uid"], prometheus["isDefault"]) == (SOURCE, True)  # the dashboards' variable takes the default one
    for text in made().values():
        assert [each["query"] for each in json.loads(text)["templating"]["list"] if each["type"] == "datasource"] == ["prometheus"]
    for each in prometheus["jsonData"]["exemplarTraceIdDestinations"]:
        assert each["datasourceUid"] in {source["uid"] for source in sources}
    for each in sources:
        assert re.split(r"[/:]+", each["url"])[1] in services()
    (provider,) = yaml.safe_load((FOLDER / "grafana" / "dashboards" / "barograph.yaml").read_text())["providers"]
    assert f"./grafana:{provider['options']['path']}:ro" in services()["grafana"]["volumes"]


@pytest.mark.parametrize(("binary", "file"), [("otelcol", "collector.yaml"), ("jaeger", "jaeger.yaml")])
def test_collector_and_jaeger_understand_theirs(binary: str, file: str) -> None:
    """Where make test-otel has built them."""
    text = (DEPLOY / "otel.sh").read_text()
    (versions,) = re.findall(r"^collector=(\S+) jaeger=(\S+)$", text, re.MULTILINE)
    program = Path(environment().get("XDG_CACHE_HOME") or Path.home() / ".cache") / "barograph" / f"otel-{'-'.join(versions)}" / binary
    if not program.exists():
        pytest.skip("needs what deploy/otel.sh builds")
    done = subprocess.run([program, "validate", f"--config={FOLDER / file}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

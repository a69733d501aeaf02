"""The units: systemd understands them and finds them tight, their paths and times fit the configuration, and a sidecar under load lives within its filter."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from deploy import dashboards
from monitor.config import Config
from tests.load import Load
from tests.stack import ADMIN_TOKEN, Stack, environment, eventually

FOLDER = Path(dashboards.__file__).parent / "systemd"
UNITS = ("barograph-sidecar.service", "barograph-engine.service")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
# Exposure in tenths, as systemd-analyze counts it. The engine has a graphics card and compiles.
EXPOSURE = {"barograph-sidecar.service": 13, "barograph-engine.service": 17}


def text(name: str) -> str:
    return (FOLDER / name).read_text()


def setting(name: str, key: str) -> str:
    (value,) = re.findall(rf"^{key}=(.*)$", text(name), re.MULTILINE)
    return str(value)


def copied(folder: Path) -> list[Path]:
    """The units with programs that are there: what they start is not installed where tests run."""
    for name in UNITS:
        (folder / name).write_text(re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", text(name), flags=re.MULTILINE))
    return [folder / name for name in UNITS]


@needs_systemd
def test_systemd_understands_them(tmp_path: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *copied(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_they_expose_little(tmp_path: Path, name: str) -> None:
    copied(tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={EXPOSURE[name]}", tmp_path / name],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-400:]
    loose = tmp_path / "loose.service"
    loose.write_text((tmp_path / name).read_text().replace("NoNewPrivileges=yes", "").replace("ProtectSystem=strict", ""))
    assert subprocess.run([*done.args[:-1], loose], capture_output=True).returncode == 1


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None or os.getuid() != 0, reason="needs systemd-sysusers, and root")
def test_the_user_is_made_and_secrets_are_roots(tmp_path: Path) -> None:
    etc = tmp_path / "etc" / "barograph"
    etc.mkdir(parents=True)
    for name in ("barograph.yaml", "secrets.env", "tap.env", "engine.env"):
        (etc / name).touch(mode=0o666)
    for tool, file in (("sysusers", "sysusers.conf"), ("tmpfiles", "tmpfiles.conf")):
        create = ["--create"] if tool == "tmpfiles" else []
        subprocess.run([f"systemd-{tool}", f"--root={tmp_path}", *create, FOLDER / file], check=True, capture_output=True)
    made = next(line.split(":") for line in (tmp_path / "etc" / "passwd").read_text().splitlines() if line.startswith("barograph:"))
    assert made[5] == setting(UNITS[0], "WorkingDirectory")
    modes = {path.name: (path.stat().st_uid, path.stat().st_gid, f"{path.stat().st_mode & 0o777:o}") for path in (etc, *etc.iterdir())}
    group = int(made[3])
    assert modes == {
        "barograph": (0, group, "750"), "barograph.yaml": (0, group, "640"), "engine.env": (0, group, "640"),
        "secrets.env": (0, 0, "600"), "tap.env": (0, 0, "600"),
    }  # fmt: skip
    named = {line.split("/")[-1] for name in UNITS for line in text(name).splitlines() if line.startswith("EnvironmentFile=")}
    assert named <= modes.keys()


def test_paths_and_times_fit_the_configuration() -> None:
    config = Config.load(FOLDER / "barograph.yaml")
    run = Path("/run") / setting(UNITS[0], "RuntimeDirectory")
    assert setting(UNITS[1], "RuntimeDirectory") == run.name
    assert config.socket.parent == run
    assert config.gateway.upstream == f"unix:{config.engine.listen}"
    assert isinstance(config.engine.listen, Path)
    assert config.engine.listen.parent == run
    assert config.sidecar.ledger.parent == Path("/var/lib") / setting(UNITS[0], "StateDirectory")
    for name in UNITS:
        assert float(setting(name, "TimeoutStopSec")) > config.gateway.grace_s + 15
        assert "--config /etc/barograph/barograph.yaml" in setting(name, "ExecStart")
        assert setting(name, "User") == "barograph"
    (model,) = re.findall(r"^MODEL=(.*)$", text("engine.env"), re.MULTILINE)
    assert model == config.engine.model


class Filtered(Stack):
    """A stack whose sidecar lives within the filter of its unit."""

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.deploy.filtered", FOLDER / UNITS[0], sys.executable, "-m", "monitor", name,
                 "--config", self.config_path],
                stdout=log, stderr=log, env=environment(BAROGRAPH_ADMIN_TOKEN=ADMIN_TOKEN),
            )  # fmt: skip


@needs_systemd
def test_a_sidecar_under_load_lives_within_its_filter(tmp_path: Path) -> None:
    """Replies, the page, a reload, a command, a hold on the ledger, an end: no call is asked for that the unit forbids."""
    with Filtered(tmp_path, engine=False) as stack:
        with Load(stack, clients=4):
            eventually(lambda: stack.metric("barograph_tokens_judged_total") > 500, "tokens are judged")
            assert httpx.get(stack.admin("/page")).status_code == 200
            stack.processes["sidecar"].send_signal(signal.SIGHUP)
            for path, body in (("/rules/reload", {}), ("/commands", {"verb": "freeze"}), ("/audit", {"act": "hold", "name": "case"})):
                assert stack.change(path, {**body, "reason": "to see it run"}).status_code == 200
            before = stack.metric("barograph_tokens_judged_total")
            eventually(lambda: stack.metric("barograph_tokens_judged_total") > before + 100, "tokens are judged still")
        assert stack.stop("sidecar") == 0, stack.log("sidecar")
    assert stack.ledger("sidecar")[-1]["event"] == "stop"


@needs_systemd
@pytest.mark.parametrize(
    "forbidden", ["import os; os.chroot('/')", "import os; os.setpriority(0, 0, 5)", "import mmap; mmap.mmap(-1, 4096, prot=7)"]
)
def test_the_filter_bites(forbidden: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.filtered", FOLDER / UNITS[0], sys.executable, "-c", forbidden], capture_output=True
    )
    assert done.returncode == -signal.SIGSYS

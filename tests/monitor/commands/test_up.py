"""`barograph up` before its children run, and a stop while they start. The rest is in tests/e2e/test_cli.py."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from monitor import wire
from monitor.commands.up import Up, check_addresses
from monitor.config import Config
from monitor.errors import BarographError
from tests.stack import environment, eventually, free_port


def config(folder: Path, gateway: int = 0, admin: int = 0, engine: str | None = None) -> Config:
    return Config.model_validate({
        "socket": folder / "tap.sock",
        "engine": {"listen": engine or f"unix:{folder / 'engine.sock'}"},
        "gateway": {"listen": f"127.0.0.1:{gateway or free_port()}", "upstream": f"unix:{folder / 'engine.sock'}"},
        "sidecar": {"admin": f"127.0.0.1:{admin or free_port()}", "ledger": folder / "ledger"},
    })  # fmt: skip


def test_free_addresses_pass_and_a_dead_socket_is_free(tmp_path: Path) -> None:
    check_addresses(config(tmp_path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / "engine.sock"))
    check_addresses(config(tmp_path))


@pytest.mark.parametrize(("which", "setting"), [("gateway", "gateway.listen"), ("admin", "sidecar.admin")])
def test_a_taken_port_is_named_with_its_setting(tmp_path: Path, which: str, setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BarographError) as caught:
            check_addresses(config(tmp_path, **{which: port}))  # type: ignore[arg-type]
    assert (
        str(caught.value)
        == f"127.0.0.1:{port} is taken (Address already in use); is barograph up already? else set {setting} to another address"
    )


def test_a_taken_socket_and_one_port_twice(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as taken:
        taken.bind(str(tmp_path / "engine.sock"))
        taken.listen()
        with pytest.raises(BarographError, match=r"engine\.sock is taken .* set engine\.listen"):
            check_addresses(config(tmp_path))
    port = free_port()
    with pytest.raises(BarographError, match=rf"127\.0\.0\.1:{port} is both gateway\.listen and sidecar\.admin"):
        check_addresses(config(tmp_path, gateway=port, admin=port))


def test_a_gateway_that_looks_elsewhere_is_said(tmp_path: Path) -> None:
    with pytest.raises(BarographError, match=r"set gateway\.upstream to http://127\.0\.0\.1:1"):
        check_addresses(config(tmp_path, engine="127.0.0.1:1"))


def test_both_children_get_one_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []

    class Child:
        stdout = ()

        def __init__(self, *_: object, env: dict[str, str], **__: object) -> None:
            given.append(env)

    monkeypatch.setattr(subprocess, "Popen", Child)
    for _ in range(2):
        up = Up(config(tmp_path), None, None, None)
        up._start("sidecar", 0)
        up._start("engine", 0)
    keys = [env[wire.TAP_KEY] for env in given]
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert len(keys[0]) > 30


def started(settings: Config, folder: Path) -> subprocess.Popen[bytes]:
    path = folder / "c.yaml"
    path.write_text(
        f"socket: {settings.socket}\nengine: {{listen: 'unix:{folder}/engine.sock'}}\n"
        f"gateway: {{listen: '127.0.0.1:{settings.gateway.listen[1]}', upstream: 'unix:{folder}/engine.sock'}}\n"
        f"sidecar: {{admin: '127.0.0.1:{settings.sidecar.admin[1]}', ledger: {settings.sidecar.ledger}}}\n"
    )
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "monitor", "up", "--config", str(path)], stdout=log, stderr=log, env=environment())


def test_ready_means_that_the_engine_answers_on_its_socket(tmp_path: Path) -> None:
    settings, log = config(tmp_path), tmp_path / "log"
    up = started(settings, tmp_path)
    try:
        eventually(lambda: "Ctrl-C stops" in log.read_text(), "up is ready", 120)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(tmp_path / "engine.sock")), base_url="http://engine") as client:
            health = client.get("/health").json()
        assert (health["status"], health["tap"], health["proof"]["ok"]) == ("ok", "connected", True)
        # Lines are broken somewhere, which depends on the folder's name.
        assert f"unix:{tmp_path}/engine.sock,behindthegateway" in "".join(log.read_text().split())
        assert (tmp_path / "engine.sock").stat().st_mode & 0o777 == 0o600
    finally:
        up.terminate()
        assert up.wait(timeout=30) == 0
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_it_starts_is_clean(tmp_path: Path, number: signal.Signals) -> None:
    settings = config(tmp_path)
    up = started(settings, tmp_path)
    eventually(settings.socket.exists, "the sidecar has begun")
    up.send_signal(number)
    assert up.wait(timeout=30) == 0
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert "ended with code" not in said
    check_addresses(settings)  # nobody is left

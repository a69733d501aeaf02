"""What the kubelet asks of the pod, asked of a real sidecar with the configuration that the chart made, and of a server on a Unix socket."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.certs import Authority
from tests.helm.chart import Values, render
from tests.stack import eventually, free_port


@contextlib.contextmanager
def sidecar(folder: Path, values: Values) -> Iterator[tuple[dict[str, Any], int]]:
    """The container of the chart and the port of its admin address. Its folders lie in `folder`, for nobody is in a container here."""
    gateway, admin = free_port(), free_port()
    rendered = render({**values, "listen": {"gateway": gateway, "admin": admin}})
    container = rendered.at("Deployment spec/template/spec/initContainers/barograph")
    text = yaml.safe_dump(rendered.config)
    for place, here in {"/run/barograph": folder / "run", "/var/lib/barograph": folder, "/etc/barograph": folder}.items():
        text = text.replace(place, str(here))
    (folder / "run").mkdir()
    file = folder / "barograph.yaml"
    file.write_text(text)
    arguments = [argument.replace("/etc/barograph", str(folder)) for argument in container["args"]]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "monitor", *arguments], stdout=log, stderr=log)
    try:
        yield container, admin
    finally:
        process.terminate()
        process.wait(30)


def ask(probe: dict[str, Any], port: int, host: str) -> int:
    get = probe["httpGet"]
    return httpx.get(
        f"{get['scheme'].lower()}://127.0.0.1:{port}{get['path']}", headers={"host": host}, timeout=5, verify=False
    ).status_code


def test_the_sidecar_answers_the_probes_that_the_chart_asks(tmp_path: Path) -> None:
    with sidecar(tmp_path, {}) as (container, port):
        here = f"127.0.0.1:{port}"
        eventually(lambda: ask(container["startupProbe"], port, here) == 200, "the sidecar lives")
        assert ask(container["livenessProbe"], port, here) == 200
        assert ask(container["readinessProbe"], port, here) == 503, "no engine serves, and no tap is there"
        for service in ("barograph-admin", "barograph-admin.models", "barograph-admin.models.svc"):
            assert ask(container["livenessProbe"], port, f"{service}:{port}") == 200, "helm test and Prometheus come by this name"
        assert ask(container["livenessProbe"], port, f"elsewhere:{port}") == 421
        assert (tmp_path / "run" / "tap.sock").is_socket(), "it is there before the engine starts"
        assert (tmp_path / "ledger").is_dir()


def test_with_a_certificate_the_probes_and_the_engines_hook_still_ask(tmp_path: Path) -> None:
    """The kubelet takes any certificate; `barograph idle` takes this one, which is all that the engine's container has."""
    certificate, key = Authority(tmp_path / "authority").issue("admin")
    secret = tmp_path / "tls" / "admin"
    secret.mkdir(parents=True)
    (secret / "tls.crt").write_bytes(certificate.read_bytes())
    (secret / "tls.key").write_bytes(key.read_bytes())
    with sidecar(tmp_path, {"tls": {"admin": {"secret": "admin"}}}) as (container, port):
        eventually(lambda: ask(container["startupProbe"], port, f"127.0.0.1:{port}") == 200, "the sidecar lives")
        assert ask(container["readinessProbe"], port, f"127.0.0.1:{port}") == 503
        (secret / "tls.key").unlink()
        assert idle(tmp_path, port) == 0
        (secret / "tls.crt").unlink()
        assert idle(tmp_path, port) == 2, "without the certificate it can trust nobody"


def idle(folder: Path, port: int) -> int:
    command = [sys.executable, "-m", "monitor", "idle", "--config", str(folder / "barograph.yaml")]
    return subprocess.run([*command, "--admin", f"https://127.0.0.1:{port}", "--seconds", "2"], timeout=60).returncode


@pytest.mark.parametrize(
    ("answer", "good"), [(b"HTTP/1.1 200 OK\r\n\r\n", True), (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False), (b"", False)]
)
def test_the_engine_is_asked_on_its_socket(tmp_path: Path, answer: bytes, good: bool) -> None:
    command = render({}).at("Deployment spec/template/spec/containers/engine/readinessProbe/exec/command")
    place = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        asked: list[bytes] = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        done = probe(command, place)
        thread.join()
    assert (done == 0) == good
    assert asked[0].startswith(b"GET /health HTTP/1.1\r\nHost: ")


def test_an_engine_that_is_not_there_does_not_answer(tmp_path: Path) -> None:
    assert (
        probe(render({}).at("Deployment spec/template/spec/containers/engine/readinessProbe/exec/command"), tmp_path / "engine.sock") != 0
    )


def probe(command: list[str], place: Path) -> int:
    command = [each.replace("/run/barograph/engine.sock", str(place)) for each in command]
    return subprocess.run([sys.executable, *command[1:]], env=os.environ, stderr=subprocess.DEVNULL, timeout=20).returncode

"""A sidecar behind certificates, as a client, a stranger and our own commands meet it."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from monitor.config import Config
from monitor.http.protocol import HEADERS_S
from tests.certs import Authority
from tests.stack import ADMIN_TOKEN, Stack, environment, eventually


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def stack(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    cert, key = authority.issue("sidecar")
    files = {"cert_file": str(cert), "key_file": str(key)}
    made = Stack(
        tmp_path_factory.mktemp("stack"), {"gateway": {"tls": {**files, "client_ca_file": str(authority.file)}}, "sidecar": {"tls": files}}, engine=False
    )  # fmt: skip
    near = Config.load(made.config_path).sidecar.near
    try:
        made.start("sidecar")
        eventually(lambda: httpx.get(near.url("/live"), verify=near.trust).status_code == 200, "the sidecar answers")
        yield made
    finally:
        made.close()


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.file)


def test_a_client_with_a_certificate_is_answered_and_one_without_is_not(stack: Stack, authority: Authority) -> None:
    url = f"https://127.0.0.1:{stack.ports['gateway']}/v1/chat/completions"
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    known = trusting(authority)
    known.load_cert_chain(*authority.issue("client"))
    answer = httpx.post(url, json=body, verify=known)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_tap")
    with pytest.raises(httpx.TransportError):
        httpx.post(url, json=body, verify=trusting(authority))
    with pytest.raises(httpx.TransportError):
        httpx.post(url.replace("https", "http"), json=body)
    assert httpx.post(url, json=body, verify=known).status_code == 503


def test_our_own_commands_reach_it_and_so_does_an_operator(stack: Stack, authority: Authority) -> None:
    for command, expected in (("orders", "nothing is stopped or throttled"), ("watch --once --json", '"taps":0'), ("idle", "")):
        done = subprocess.run(
            [sys.executable, "-m", "monitor", *command.split(), "--config", str(stack.config_path)], capture_output=True, text=True, timeout=60,
            env=environment(BAROGRAPH_ADMIN_TOKEN=ADMIN_TOKEN, HTTPS_PROXY="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9", NO_PROXY=""),
        )  # fmt: skip
        assert (done.returncode, expected in done.stdout) == (0, True), (command, done)
    url = f"https://127.0.0.1:{stack.ports['admin']}/metrics"
    text = httpx.get(url, verify=trusting(authority)).text
    assert "barograph_certificate_expires_seconds" in text


def test_a_renewed_certificate_is_served_without_a_restart(stack: Stack, authority: Authority) -> None:
    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", stack.ports["admin"]))

    def chat() -> str:
        near = Config.load(stack.config_path).sidecar.near
        return httpx.post(near.url("/page/chat"), json={"messages": [{"role": "user", "content": "x"}]}, verify=near.trust).text

    before = shown()
    assert '"status":503' in chat()  # it reached the gateway, which has no tap
    authority.issue("sidecar", days=30)
    eventually(lambda: shown() != before, "the renewed certificate is served")
    near = Config.load(stack.config_path).sidecar.near
    assert httpx.get(near.url("/live"), verify=near.trust).status_code == 200
    eventually(lambda: '"status":503' in chat(), "the page's chat goes on")
    (authority.folder / "sidecar.pem").write_text("torn")
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}

    def reasons() -> str:
        url = f"https://127.0.0.1:{stack.ports['admin']}/health"
        return " ".join(httpx.get(url, headers=headers, verify=trusting(authority)).json()["reasons"])

    eventually(lambda: "tls: certificate not read anew" in reasons(), "health says that it could not be read")
    authority.issue("sidecar")
    eventually(lambda: "tls" not in reasons(), "health is well again")


def test_a_handshake_that_never_ends_takes_no_room_from_others(stack: Stack) -> None:
    silent = [socket.create_connection(("127.0.0.1", stack.ports["admin"]), timeout=10) for _ in range(200)]
    try:
        near = Config.load(stack.config_path).sidecar.near
        assert httpx.get(near.url("/live"), verify=near.trust, timeout=10).status_code == 200
        for each in silent:
            each.settimeout(HEADERS_S + 5)
            assert each.recv(1) == b""  # as soon as slow headers are refused
    finally:
        for each in silent:
            each.close()

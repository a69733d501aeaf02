"""What the gateway does: halts at a token, and fails as its settings say."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitor import wire
from tests.stack import MODEL, PATIENCE_S, Stack, eventually

HALT = "rules:\n- {rule: stop, desc: d, accept_unproven: [panic], when: panic.max(6) > -99, do: {halt: {message: Stopped.}}, mode: %s}\n"


def text(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk.get("choices"))


@pytest.fixture(scope="module")
def halting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A rule that every stream meets at its sixth token."""
    with Stack(tmp_path_factory.mktemp("halt"), rules=HALT % "armed") as running:
        yield running


def test_a_halt_cuts_at_its_token(halting: Stack) -> None:
    chunks = list(halting.chunks("Count to twenty.", max_tokens=40))
    assert len(chunks) == 6
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert chunks[-1]["choices"][0]["delta"]["content"] == "Stopped."
    assert chunks[-1]["barograph"]["verdicts"] == [{"rule": "stop", "action": "halt", "mode": "armed", "position": 5}]
    eventually(lambda: httpx.get(halting.engine("/health")).json()["running"] == 0, "the engine stopped")
    verdict = halting.ledger("verdict")[0]
    assert (verdict["rule"], verdict["position"], verdict["mode"], verdict["action"]) == ("stop", 5, "armed", "halt")


def test_a_halt_cuts_at_the_same_token_without_streaming(halting: Stack) -> None:
    released = text(list(halting.chunks("Count to twenty.", max_tokens=40)))
    choice = halting.chat("Count to twenty.", max_tokens=40).json()["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["content"] == released


def test_every_choice_is_halted_by_itself(halting: Stack) -> None:
    answer = halting.chat("Count to twenty.", max_tokens=40, n=2, temperature=1, seed=1).json()
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["content_filter"] * 2
    assert answer["usage"]["completion_tokens"] == 10


def test_a_short_reply_is_not_halted(halting: Stack) -> None:
    assert halting.chat("Count to twenty.", max_tokens=5).json()["choices"][0]["finish_reason"] == "length"


def test_shadow_never_acts(tmp_path: Path) -> None:
    with Stack(tmp_path, rules=HALT % "shadow") as shadow:
        chunks = list(shadow.chunks("Count to twenty.", max_tokens=12))
        assert len(chunks) == 12
        assert [verdict["mode"] for chunk in chunks for verdict in chunk["barograph"]["verdicts"]] == ["shadow"]


class TestFailures:
    """One stack through a bad day."""

    @pytest.fixture(scope="class")
    def day(self, tmp_path_factory: pytest.TempPathFactory) -> Any:
        with Stack(tmp_path_factory.mktemp("day"), {"gateway": {"judge_timeout_s": 1.5, "client_stall_s": 1.0}}) as running:
            yield running

    def test_the_engine_dies_mid_stream(self, day: Stack) -> None:
        chunks = []
        for chunk in day.chunks("Tell me a very long story.", max_tokens=2000):
            chunks.append(chunk)
            if len(chunks) == 5:
                day.stop("engine", signal.SIGKILL)
        assert chunks[-1]["error"]["code"] in ("missing_score", "upstream_error")
        eventually(lambda: day.metric("barograph_taps_connected") == 0, "the tap is gone")
        assert day.ledger("stream")[-1]["event"] == "lost"

    def test_without_a_tap_nothing_passes(self, day: Stack) -> None:
        answer = day.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_tap")
        assert httpx.get(day.admin("/health")).status_code == 503
        assert day.metric('barograph_failure_decisions_total{condition="no_tap",decision="closed"}') == 1
        assert day.ledger("failure")[-1]["condition"] == "no_tap"

    def test_the_engine_comes_back(self, day: Stack) -> None:
        day.start("engine")
        day.wait_ready()
        assert day.chat().status_code == 200

    def test_the_sidecar_comes_back(self, day: Stack) -> None:
        assert day.stop("sidecar") == 0
        day.start("sidecar")
        day.wait_ready()
        assert day.chat().status_code == 200
        seqs = [record["seq"] for record in day.ledger()]
        assert seqs == list(range(len(seqs)))

    def test_strangers_on_the_socket_do_no_harm(self, day: Stack) -> None:
        for packet in (b"x", wire.encode(wire.Frame(1, 0, 0)), b"\x00" * 60_000):
            with wire.open_socket() as stranger:
                stranger.connect(str(day.runtime / "tap.sock"))
                stranger.send(packet)
                time.sleep(0.1)
        assert day.chat().status_code == 200
        assert day.metric("barograph_packets_refused_total") == 3
        assert "Traceback" not in day.log("sidecar")

    def test_a_score_that_never_comes_is_closed(self, day: Stack) -> None:
        """A frozen sidecar socket cannot be staged from outside, but a tap without a stream can: begin is never sent."""
        with wire.open_socket() as other:
            other.connect(str(day.runtime / "tap.sock"))
            hello = {"version": wire.VERSION, "source": "z", "pid": 1, "engine": "e", "model": MODEL, "dtype": "d"}
            bank = day.ledger("tap")[0]["bank"]
            names = httpx.get(day.admin("/health")).json()["probes"]
            other.send(wire.encode(wire.Hello(**hello, bank=bank, probes=names, layers=[1] * len(names))))
            other.send(wire.encode(wire.Check(True, 4, 0.0, "")))
            day.stop("engine")
            with UntappedEngine(day.ports["engine"]):
                answer = day.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "missing_score")
        day.start("engine")
        day.wait_ready()

    def test_a_client_that_reads_nothing_is_dropped(self, day: Stack) -> None:
        # Log probabilities, so that much is said soon: the kernel's buffers take megabytes before anybody waits.
        body = (
            b'{"model":"%s","messages":[{"role":"user","content":"Tell me a very long story."}],"max_tokens":6000,"stream":true,"n":16,"logprobs":true,"top_logprobs":20}'
            % MODEL.encode()
        )
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", day.ports["gateway"]))
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Barograph-Scores: 1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                % len(body)
                + body
            )
            eventually(lambda: day.metric("barograph_gateway_clients_stalled_total") == 1, "the client is dropped", seconds=120)
            eventually(lambda: httpx.get(day.engine("/health")).json()["running"] == 0, "the engine stopped")

    def test_both_stop_cleanly(self, day: Stack) -> None:
        assert day.stop("engine") == 0
        assert day.stop("sidecar") == 0
        assert not (day.runtime / "tap.sock").exists()
        for name in ("engine", "sidecar"):
            assert "Traceback" not in day.log(name), day.log(name)


class UntappedEngine:
    """A second embedded engine with its tap off: it answers, and no score ever comes."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __enter__(self) -> None:
        import subprocess
        import sys
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "c.yaml"
        path.write_text(f"socket: {self.folder.name}/none.sock\nengine: {{listen: '127.0.0.1:{self.port}'}}\ntap: {{enabled: false}}\n")
        self.process = subprocess.Popen([sys.executable, "-m", "monitor", "engine", "-c", str(path)], stdout=subprocess.DEVNULL)
        eventually(lambda: httpx.get(f"http://127.0.0.1:{self.port}/health").status_code == 200, "the engine answers", 120)

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=PATIENCE_S)
        self.folder.cleanup()

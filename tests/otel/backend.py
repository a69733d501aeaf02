"""A real OpenTelemetry collector that passes on to a real Jaeger, both on loopback and in memory."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml

from tests.stack import eventually, free_port

ADDRESS = "127.0.0.1"
QUIET = {"metrics": {"level": "none"}, "logs": {"level": "warn"}}  # what each says of itself


class Server:
    """One of them. The kernel kills it when the tests die, whatever they die of."""

    def __init__(self, binary: Path, folder: Path, ready: str, config: dict[str, Any]) -> None:
        self._log, self._ready = folder / f"{binary.name}.log", ready
        file = folder / f"{binary.name}.yaml"
        file.write_text(yaml.safe_dump(config))
        self._command = ["setpriv", "--pdeathsig", "KILL", binary, "--config", file]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        eventually(self._up, f"{self._command[3]} answers", 120)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop_answering(self) -> None:
        """It takes connections, as its kernel does, and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        return httpx.get(self._ready, timeout=5).status_code < 500


class Jaeger(Server):
    """`query` asks it as its page does."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.otlp, self.query = (f"{ADDRESS}:{free_port()}" for _ in range(2))
        super().__init__(binary, folder, f"http://{self.query}/api/services", {
            "extensions": {
                "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 10_000}}}},
                "jaeger_query": {
                    "storage": {"traces": "memory"}, "http": {"endpoint": self.query}, "grpc": {"endpoint": f"{ADDRESS}:{free_port()}"},
                },
            },
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": self.otlp}}}},
            "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
            "service": {
                "extensions": ["jaeger_storage", "jaeger_query"], "telemetry": QUIET,
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            },
        })  # fmt: skip

    def trace(self, number: str) -> list[dict[str, Any]]:
        """Its spans; none where it has none."""
        answer = httpx.get(f"http://{self.query}/api/traces/{number}", timeout=20)
        assert answer.status_code in (200, 404), answer.text
        return [span for trace in answer.json().get("data") or () for span in trace["spans"]]


class Collector(Server):
    """`endpoint` is what the sidecar is configured with. Spans go to Jaeger, metrics and log lines to `behind`, the address of whoever takes them."""

    def __init__(self, binary: Path, folder: Path, jaeger: Jaeger, behind: str) -> None:
        address = f"{ADDRESS}:{free_port()}"
        self.endpoint = f"http://{address}"
        super().__init__(binary, folder, self.endpoint, {
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": address}}}},
            "processors": {"batch": {"timeout": "100ms"}},
            "exporters": {"otlp_http": {"endpoint": f"http://{jaeger.otlp}"}, "otlp_http/behind": {"endpoint": behind, "compression": "none"}},
            "service": {
                "telemetry": QUIET,
                "pipelines": {
                    signal_: {"receivers": ["otlp"], "processors": ["batch"], "exporters": [exporter]}
                    for signal_, exporter in (("traces", "otlp_http"), ("metrics", "otlp_http/behind"), ("logs", "otlp_http/behind"))
                },
            },
        })  # fmt: skip

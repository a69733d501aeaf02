"""`barograph up`: engine and sidecar as two processes, with progress, until one stops or Ctrl-C."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape

from monitor import models, wire
from monitor.config import Config
from monitor.errors import BarographError
from monitor.http.near import host
from monitor.http.serving import LIFELINE

START_LIMIT_S = 900.0  # a first start downloads and converts a model


class Up:
    """Starts both, waits until the tap is connected, prints the URLs, and takes both down together."""

    def __init__(self, config: Config, config_path: Path | None, model: str | None, bank: Path | None) -> None:
        self.config = config
        self.console = Console()
        self._flags = [
            flag for name, value in (("--config", config_path), ("--model", model), ("--bank", bank)) if value is not None for flag in (name, str(value))
        ]  # fmt: skip
        self._key = secrets.token_urlsafe(32)  # by which the sidecar knows the tap of this engine
        self._children: dict[str, subprocess.Popen[str]] = {}
        self._stop = threading.Event()
        self._status = ""

    def run(self) -> int:
        started = time.monotonic()
        models.check(self.config.engine.model)  # what the children would refuse is said once, before they start
        self.config.load_bank()
        check_addresses(self.config)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop.set())
        read_end, write_end = os.pipe()
        try:
            for name in ("sidecar", "engine"):
                self._start(name, read_end)
            code = self._await_ready()
            if code is None:
                self._print_urls(time.monotonic() - started)
                code = self._await_end()
            return code
        finally:
            os.close(write_end)  # the children hold the other end: they stop when it closes
            self._take_down()

    def _start(self, name: str, lifeline: int) -> None:
        child = subprocess.Popen(
            [sys.executable, "-m", "monitor", name, *self._flags], stdout=subprocess.PIPE, stderr=None, text=True,
            pass_fds=[lifeline], env=os.environ | {LIFELINE: str(lifeline), wire.TAP_KEY: self._key}, start_new_session=True,
        )  # fmt: skip
        self._children[name] = child
        threading.Thread(target=self._listen, args=(child,), daemon=True).start()

    def _listen(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            self._status = line.strip()

    def _await_ready(self) -> int | None:
        """None when all is well, else the exit code."""
        deadline = time.monotonic() + START_LIMIT_S
        near = self.config.sidecar.near
        with self.console.status("starting") as status:
            while time.monotonic() < deadline:
                if (code := self._ended()) is not None:
                    return code
                status.update(escape(self._status) or "starting")
                try:
                    if (
                        httpx.get(near.url("/health"), timeout=1, verify=near.trust, trust_env=False).status_code == 200
                        and self._engine_answers()
                    ):
                        return None
                except httpx.HTTPError:
                    pass
                self._stop.wait(0.2)
        self.console.print(f"[red]not ready after {START_LIMIT_S:.0f} s[/red]")
        return 1

    def _engine_answers(self) -> bool:
        upstream = upstream_of(self.config.engine.listen) if self.config.gateway.wrap else self.config.gateway.upstream
        path = upstream.removeprefix("unix:") if upstream.startswith("unix:") else None
        with httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://engine" if path else upstream, timeout=1) as client:
            return client.get("/health").status_code == 200

    def _await_end(self) -> int:
        while (code := self._ended()) is None:
            self._stop.wait(0.2)
        return code

    def _ended(self) -> int | None:
        if self._stop.is_set():
            return 0
        for name, child in self._children.items():
            if child.poll() is not None:
                if child.returncode != 2:  # 2: the child has said what is wrong
                    self.console.print(f"[red]{name} ended with code {child.returncode}[/red]")
                return child.returncode or 1
        return None

    def _take_down(self) -> None:
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()
        for child in self._children.values():
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _print_urls(self, seconds: float) -> None:
        config = self.config
        say = self.console.print
        say(
            f"[bold]Barograph[/bold] watches [bold]{escape(models.served_name(config.engine.model))}[/bold] (ready after {seconds:.1f} s)\n"
        )
        say(f"  OpenAI API   {config.gateway.near.url('/v1')}", highlight=False)
        if config.gateway.wrap:
            say(f"  wrapped      {escape(config.gateway.upstream)}, its text read by the model above", highlight=False)
        else:
            say(f"  engine       {escape(host(config.engine.listen))}, behind the gateway", highlight=False)
        say(f"  page         {config.sidecar.near.url('/page')}", highlight=False)
        say(f"  metrics      {config.sidecar.near.url('/metrics')}", highlight=False)
        say(f"  health       {config.sidecar.near.url('/health')}", highlight=False)
        say(f"  ledger       {escape(str(config.sidecar.ledger))}\n", highlight=False)
        say(
            "  Open the page to look on, and its playground to chat. In another terminal: [bold]barograph watch[/bold], [bold]barograph demo[/bold] for ten chats. Ctrl-C stops.",
            highlight=False,
        )


def check_addresses(config: Config) -> None:
    """What the children will listen on must be free, lest somebody else's answer be taken for theirs. Raises BarographError."""
    engine, upstream = config.engine.listen, config.gateway.upstream
    if not config.gateway.wrap and upstream.startswith("unix:") and upstream != host(engine):
        raise BarographError(
            f"the engine listens on {host(engine)} and the gateway looks for it at {upstream}; "
            f"set gateway.upstream to {upstream_of(engine)}, or leave both out"
        )
    ours: dict[str, str] = {}
    for setting, address in (("gateway.listen", config.gateway.listen), ("sidecar.admin", config.sidecar.admin), ("engine.listen", engine)):
        where = host(address)
        if where in ours:
            raise BarographError(f"{where} is both {ours[where]} and {setting}; set one of them to another address")
        ours[where] = setting
        reason = _taken(address)
        if reason:
            raise BarographError(f"{where} is taken ({reason}); is barograph up already? else set {setting} to another address")


def upstream_of(engine: tuple[str, int] | Path) -> str:
    return host(engine) if isinstance(engine, Path) else f"http://{host(engine)}"


def _taken(address: tuple[str, int] | Path) -> str:
    """Why nobody else can listen there; empty when one can."""
    if isinstance(address, Path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return "" if probe.connect_ex(str(address)) else "somebody listens there"
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return error.strerror or str(error)
    return ""

"""A real sidecar under load, and all that may happen to it. What must hold whatever happens is checked all the while and at the end."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import httpx

from benchmarks.synthetic.engine import SyntheticEngine
from benchmarks.synthetic.tap import GoodTap, Tap
from monitor import wire
from tests import ledgers, tansu
from tests.abuse.client import Client, Found
from tests.stack import Stack, eventually, free_port

STEP_S, CLIENTS = 0.03, 16
RULES = """
rules:
- {rule: high, desc: d, when: panic.last > 3.0, do: halt, mode: armed, accept_unproven: [panic]}
- {rule: long, desc: d, when: panic.last > 1.0, for: 3 tokens, do: alert, mode: shadow}
- {rule: often, desc: d, when: desperation.last > %s, do: alert, mode: shadow}
"""
SETTINGS: dict[str, Any] = {
    "gateway": {
        "judge_timeout_s": 3.0, "grace_s": 2.0, "client_stall_s": 3.0, "upstream_idle_s": 6.0, "tenant_header": "x-tenant",
        "tenants": ["acme"], "max_requests": 256,
    },
    "audit": {"checkpoint_s": 1.0},
}  # fmt: skip
TAP_KEY = "0123456789abcdef" * 4
GROWTH_MIB = 48  # that a sidecar's memory may grow by in a run of minutes: twice what it does
BACK_S = 60.0
CLOCK = Path(__file__).with_name("clock")


class World:
    """Entered, it runs: a broker, a sidecar, an engine without a model, clients. `found` is what they saw; `wrong` what must not be."""

    def __init__(self, folder: Path, seed: int = 0, clients: int = CLIENTS) -> None:
        self.found = Found()
        self.memory: dict[int, tuple[float, float]] = {}  # process → MiB when it was warm, and last
        self.report: dict[str, Any] = {}
        self._born: dict[int, float] = {}
        self._kills: list[float] = []
        self._folder, self._seed = folder, seed
        self._count = clients
        self._things = ExitStack()
        self.clock = folder / "clock"
        self.can_mount = os.getuid() == 0

    async def __aenter__(self) -> World:
        os.environ[wire.TAP_KEY] = TAP_KEY
        self._things.callback(os.environ.pop, wire.TAP_KEY, None)
        self.disk = self._folder / "disk"
        self.disk.mkdir()
        if self.can_mount:
            done = await asyncio.to_thread(
                subprocess.run, ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(self.disk)], capture_output=True
            )
            self.can_mount = done.returncode == 0
            if self.can_mount:
                self._things.callback(subprocess.run, ["umount", "--lazy", str(self.disk)], capture_output=True)
        try:
            await asyncio.to_thread(self._start)
            self.stack.start("sidecar")
            await asyncio.to_thread(eventually, self._live, "the sidecar answers", 60)
            await self.start_engine()
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
            url = self.stack.gateway("/v1/chat/completions")
            self._clients = [Client(self.found, url, self._seed * 1000 + number) for number in range(self._count)]
            self._tasks = [asyncio.create_task(self._work(client)) for client in self._clients]
            self._tasks.append(asyncio.create_task(self._look()))
            await self.serves_again()
        except BaseException:
            self._things.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            for task in self._tasks:
                task.cancel()
            ended = await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._session.close()
            if kind is None:
                for each in ended:
                    if isinstance(each, Exception):
                        self.found.say(f"a client failed: {each!r}")
                await asyncio.to_thread(self._settle)
        finally:
            self.engine.die()
            await asyncio.to_thread(self._things.close)

    # What abuses do.

    async def start_engine(self, tap: Tap | None = None) -> None:
        self.engine: SyntheticEngine = SyntheticEngine(tap or GoodTap(self.stack.runtime / "tap.sock"), STEP_S)
        await self.engine.__aenter__()
        await self.engine.listen(self.stack.ports["engine"])

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Meanwhile connections may break off: a process is ended."""
        for client in self._clients:
            client.cuts += 1
        try:
            yield
        finally:
            for client in self._clients:
                client.cuts += 1

    def signal_sidecar(self, number: int) -> None:
        self.stack.processes["sidecar"].send_signal(number)

    async def end_sidecar(self, number: int) -> None:
        """It has 30 s."""
        process = self.stack.processes.pop("sidecar")
        with self.cut():
            process.send_signal(number)
            self._kills.append(time.monotonic())
            try:
                code = await asyncio.to_thread(process.wait, 30)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
                code = -99
        if code != (0 if number == signal.SIGTERM else -number):
            self.found.say(f"the sidecar ended with {code} after signal {number}")

    def rules(self, threshold: float) -> None:
        """Another version of the rules, put in place at once."""
        fresh = self._folder / "rules.new"
        fresh.write_text(RULES % threshold)
        fresh.replace(self._folder / "rules.yaml")

    async def serves_again(self) -> None:
        """Until replies come whole and halted again, as before. Whoever is not back after a minute is wrong."""
        before, until = dict(self.found.ends), time.monotonic() + BACK_S
        while any(self.found.ends[end] <= before.get(end, 0) for end in ("whole", "halted")):
            if time.monotonic() > until:
                self.found.say(f"not back after {BACK_S:g} s: {dict(self.found.ends)}; sidecar: {self.stack.log('sidecar')[-500:]}")
                return
            await asyncio.sleep(0.1)

    @contextmanager
    def broker_stalls(self) -> Iterator[None]:
        self._broker.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._broker.send_signal(signal.SIGCONT)

    # What runs meanwhile.

    def _start(self) -> None:
        port = free_port()
        self._broker = self._things.enter_context(tansu.running(port, self._folder / "broker.log"))
        self.bootstrap = f"127.0.0.1:{port}"
        settings = {**SETTINGS, "sidecar": {"ledger": str(self.disk / "ledger"), "kafka": {"bootstrap": self.bootstrap}}}
        self.clock.write_text("0")
        env = {"ABUSE_CLOCK": str(self.clock), "PYTHONPATH": os.pathsep.join([str(CLOCK), *filter(None, [os.environ.get("PYTHONPATH")])])}
        self.stack = Stack(self._folder, settings, RULES % 0.5, engine=False, env=env)
        self.stack.ledger_path = self.disk / "ledger"
        self._things.callback(self.stack.close)

    def _live(self) -> bool:
        return httpx.get(self.stack.admin("/live")).status_code == 200

    async def _work(self, client: Client) -> None:
        while True:
            await client.ask(self._session)

    async def _look(self) -> None:
        """Memory, and whether the sidecar has ended by itself."""
        while True:
            await asyncio.sleep(0.5)
            process = self.stack.processes.get("sidecar")
            if process is None:
                continue
            if process.poll() is not None:
                self.found.say(f"the sidecar ended by itself with {process.returncode}: {self.stack.log('sidecar')[-1000:]}")
                return
            if (now := resident_mib(process.pid)) is not None:
                warm = self.memory.get(process.pid)
                age = time.monotonic() - self._born.setdefault(process.pid, time.monotonic())
                self.memory[process.pid] = (now if warm is None or age < 8 else warm[0], now)

    # What is asked at the end.

    def _settle(self) -> None:
        """The sidecar ends well; the ledger proves itself; what clients were told is in it; what is in it reached the broker."""
        eventually(lambda: self.stack.metric("barograph_kafka_waiting") == 0, "the broker has everything")
        process = self.stack.processes.pop("sidecar")
        process.send_signal(signal.SIGTERM)
        if (code := process.wait(timeout=30)) != 0:
            self.found.say(f"the sidecar ended with {code} at the end")
        done = subprocess.run(
            [sys.executable, "-m", "monitor", "audit", "verify", str(self.stack.ledger_path), "--json", "--key", self._vkey()],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        if done.returncode != 0:
            self.found.say(f"the ledger does not verify: {done.stdout[-500:]} {done.stderr[-500:]}")
        self.report = json.loads(done.stdout or "{}")
        records = ledgers.records(self.stack.ledger_path)
        fired = {
            _request(record): record["position"] for record in records if record.get("rule") == "high" and record.get("event") == "fired"
        }
        for request, position in self.found.halts.items():
            if fired.get(request) != position:
                self.found.say(f"a client was told of a halt of {request} at {position}; the ledger has {fired.get(request)}")
        self._kept(records)
        self._published({record["seq"] for record in records if record["kind"] == "verdict"})
        if "Traceback" in self.stack.log("sidecar"):
            self.found.say("a traceback in the log: " + self.stack.log("sidecar").partition("Traceback")[2][:1500])
        for pid, (warm, last) in self.memory.items():
            if last - warm > GROWTH_MIB:
                self.found.say(f"process {pid} grew from {warm:.0f} to {last:.0f} MiB")

    def _kept(self, records: list[dict[str, Any]]) -> None:
        """Each reply that a client had whole is in the ledger with its tokens, all of them judged; nothing happened to a stream twice."""
        replies = {record["request"]: record["tokens"] for record in records if record["kind"] == "reply"}
        ends = [record for record in records if (record["kind"], record.get("event")) == ("stream", "end")]
        ended_by = {_request(record): record["rules"] for record in ends}
        judged = {_request(record): record["judged"] for record in ends}
        long = {
            _request(record): record["position"]
            for record in records
            if record["kind"] == "verdict" and (record["event"], record["rule"]) == ("fired", "long")
        }
        steady = {_request(record): record["rules"] for record in records if (record["kind"], record.get("event")) == ("stream", "begin")}
        missing, unfired = [], []
        for request, (tokens, ended, expected) in self.found.whole.items():
            if any(0 <= kill - ended < 1 for kill in self._kills):
                continue  # its record, which follows the reply, may not have been written yet
            if request not in replies or request not in judged:
                missing.append(request)
            elif steady.get(request) == ended_by[request] and long.get(request) != expected:
                unfired.append((request, long.get(request), expected))
            elif replies[request] != tokens or judged[request] < tokens:
                self.found.say(f"{request} had {tokens} tokens; the ledger says {replies[request]}, of which {judged[request]} were judged")
        if len(missing) > self.report.get("lost", 0):
            self.found.say(
                f"{len(missing)} replies came whole and are not in the ledger, which names {self.report.get('lost')} lost records: {missing[:3]}"
            )
        if len(unfired) > self.report.get("lost", 0):
            self.found.say(
                f"{len(unfired)} verdicts are missing in the ledger or stand at another token, such as (stream, is, expected) {unfired[0]}"
            )
        twice = collections.Counter(
            (record["stream"], record["event"], record["rule"], record["position"]) for record in records if record["kind"] == "verdict"
        )
        if again := [each for each, count in twice.items() if count > 1]:
            self.found.say(f"{len(again)} verdicts stand twice in the ledger, such as {again[0]}")

    def _published(self, wanted: set[int]) -> None:
        sent = {message["seq"] for message in tansu.consume(self.bootstrap, len(wanted), 60)}
        if missing := wanted - sent:
            self.found.say(f"{len(missing)} of {len(wanted)} verdicts never reached the broker, such as {sorted(missing)[:3]}")

    def _vkey(self) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "monitor", "audit", "key", "--config", str(self.stack.config_path)], capture_output=True, text=True, check=True
        )  # fmt: skip
        return done.stdout.strip()

    def said(self) -> dict[str, Any]:
        """The figures of a run."""
        growth = max((last - warm for warm, last in self.memory.values()), default=0.0)
        return {
            "requests": sum(self.found.ends.values()), "ends": dict(sorted(self.found.ends.items())), "tokens": self.found.tokens, "scores_not_shown": self.found.unshown,
            "halts": len(self.found.halts), "records": self.report.get("records", 0), "lost_and_named": self.report.get("lost", 0),
            "memory_growth_mib": round(growth, 1), "wrong": self.found.wrong,
        }  # fmt: skip


def _request(record: dict[str, Any]) -> str:
    """The request whose stream a record is about."""
    return str(record["stream"]).partition("#")[0]


def resident_mib(pid: int) -> float | None:
    """Memory that a process has; None when it is no more."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return None


def raw_tap(path: Path) -> socket.socket:
    found = wire.open_socket()
    found.connect(str(path))
    found.setblocking(False)
    return found


def full(folder: Path) -> Path:
    """A file that takes what the disk has left."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as out:
        for size in (1 << 20, 512):
            with contextlib.suppress(OSError):
                while True:
                    out.write(b"\0" * size)
    return file

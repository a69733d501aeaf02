"""The socket: who is let in, for how long, and that its file comes back."""
# ruff: noqa: ASYNC240 (a test may block)

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest

from monitor import wire
from monitor.pipeline import receiver as receiving
from monitor.pipeline.bounds import MAX_CONNECTIONS, MAX_SILENT
from monitor.pipeline.receiver import Receiver
from probes.bank import Bank
from tests.monitor.pipeline.rig import Rig

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def rig(bank: Bank, tmp_path: Path) -> Rig:
    rig = Rig(bank, tmp_path / "ledger")
    rig.pipeline.disconnect(rig.source)
    return rig


@pytest.fixture
def path() -> Iterator[Path]:
    """A socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="barograph-") as folder:
        yield Path(folder) / "tap.sock"


@asynccontextmanager
async def listening(rig: Rig, path: Path) -> AsyncIterator[Receiver]:
    receiver = Receiver(path, rig.pipeline)
    receiver.start()
    watch = asyncio.create_task(receiver.watch())
    try:
        yield receiver
    finally:
        watch.cancel()
        receiver.close()


@contextmanager
def tap(path: Path, *messages: wire.Message) -> Iterator[socket.socket]:
    with wire.open_socket() as connection:
        connection.connect(str(path))
        for message in messages:
            connection.send(wire.encode(message))
        yield connection


async def until(check: Callable[[], object], what: str) -> None:
    for _ in range(6000):
        if check():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never: {what}")


def refused(rig: Rig, reason: str) -> float:
    return rig.sample("barograph_packets_refused_total", reason=reason) or 0


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def test_who_says_nothing_is_dropped_and_a_tap_gets_in_all_the_same(rig: Rig, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "LOOK_S", 0.02)
    monkeypatch.setattr(receiving, "HELLO_S", 0.5)
    async with listening(rig, path) as receiver:
        silent = []
        for _ in range(4 * MAX_SILENT):
            connection = wire.open_socket()
            connection.connect(str(path))
            silent.append(connection)
            await asyncio.sleep(0)
        await until(lambda: refused(rig, "silent") >= 3 * MAX_SILENT, "the oldest made room")
        assert len(receiver._peers) <= MAX_SILENT
        with tap(path, rig.hello, wire.Check(True, 8, 0.0)):
            await until(lambda: rig.pipeline.scoring, "a tap is heard")
            await until(lambda: all(map(is_closed, silent)), "they are closed")
            await asyncio.sleep(0.6)
            assert rig.pipeline.scoring  # it said hello, and may then be quiet
        for connection in silent:
            connection.close()


async def test_connections_are_bounded(rig: Rig, path: Path) -> None:
    async with listening(rig, path) as receiver:
        taps = []
        for i in range(MAX_CONNECTIONS + 30):
            connection = wire.open_socket()
            connection.connect(str(path))
            try:
                connection.send(wire.encode(msgspec.structs.replace(rig.hello, source=str(i))))
            except OSError:
                pass  # refused already
            taps.append(connection)
            await asyncio.sleep(0.001)
        await until(lambda: refused(rig, "connections") == 30, "the others are refused")
        assert len(receiver._peers) == MAX_CONNECTIONS
        taps[0].close()
        await until(lambda: len(receiver._peers) == MAX_CONNECTIONS - 1, "one left")
        with tap(path, rig.hello):
            await until(lambda: len(rig.pipeline.sources) == MAX_CONNECTIONS, "another took its place")
        for connection in taps:
            connection.close()


async def test_a_tap_past_a_bound_is_dropped_and_counted_by_its_reason(rig: Rig, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    many = wire.Live([wire.Begin(i, "r", i % 1000) for i in range(wire.MAX_STREAMS + 1)])
    long = msgspec.structs.replace(rig.hello, model="x" * 60_000)
    async with listening(rig, path):
        for reason, messages in (("begins", (rig.hello, many)), ("hello", (long,)), ("wire", (many,)), ("wire", (rig.hello, rig.hello))):
            before = refused(rig, reason)
            with tap(path, *messages) as connection:
                await until(lambda c=connection: is_closed(c), f"{reason}: the tap is dropped")
            assert refused(rig, reason) == before + 1
        for _ in range(50):
            with tap(path, long) as connection:
                await until(lambda c=connection: is_closed(c), "dropped")
    assert len(caplog.text) < 10_000  # a refusal of one kind is said now and then only


async def test_a_secret_is_asked_for(rig: Rig, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(wire.TAP_KEY, "open-sesame")
    async with listening(rig, path):
        with tap(path, msgspec.structs.replace(rig.hello, secret="guessed-it")) as stranger:
            await until(lambda: is_closed(stranger), "the stranger is dropped")
        assert refused(rig, "secret") == 1
        with tap(path, msgspec.structs.replace(rig.hello, secret="open-sesame"), wire.Check(True, 8, 0.0)):
            await until(lambda: rig.pipeline.scoring, "the engine's tap is heard")
    said = caplog.text + rig.said()
    assert "BAROGRAPH_TAP_KEY" in said
    assert "sesame" not in said
    assert "guessed" not in said


async def test_a_socket_whose_file_is_gone_is_made_again(rig: Rig, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "LOOK_S", 0.02)
    async with listening(rig, path) as receiver:
        with tap(path, rig.hello, wire.Check(True, 8, 0.0)):
            await until(lambda: rig.pipeline.scoring, "a tap is heard")
            path.unlink()
            await until(path.is_socket, "the file is there again")
            assert path.stat().st_mode & 0o777 == 0o600
            with tap(path, msgspec.structs.replace(rig.hello, source="second")):
                await until(lambda: len(rig.pipeline.sources) == 2, "another tap connects; the first stayed")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:  # left behind by somebody
            path.unlink()
            dead.bind(str(path))
        await until(lambda: receiver._file() == receiver._place, "it is ours again")
        assert receiver.failed == ""
        with tap(path, rig.hello):
            await until(lambda: len(rig.pipeline.sources) == 1, "taps connect")
    assert not path.exists()


async def test_a_place_that_another_listens_on_is_left_to_it_and_said(rig: Rig, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "LOOK_S", 0.02)
    async with listening(rig, path) as receiver:
        path.unlink()
        with wire.open_socket() as other:
            other.bind(str(path))
            other.listen(1)
            await until(lambda: "taken by another process" in receiver.failed, "it is noticed")
        await until(lambda: receiver.failed == "", "the other went, and the place is ours again")
        with tap(path, rig.hello):
            await until(lambda: rig.pipeline.sources, "taps connect")


async def test_a_file_in_the_way_is_said_and_not_deleted(rig: Rig, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "LOOK_S", 0.02)
    async with listening(rig, path) as receiver:
        path.unlink()
        path.write_text("precious")
        await until(lambda: "expected a path" in receiver.failed, "it is noticed")
        assert path.read_text() == "precious"
        path.unlink()
        await until(lambda: receiver.failed == "" and path.is_socket(), "ours again")
    assert os.listdir(path.parent) == []

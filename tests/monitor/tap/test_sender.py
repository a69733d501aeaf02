"""The sender against real sockets: slow, absent and returning sidecars."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from monitor import wire
from monitor.tap.sender import QUEUE, Sender
from tests.stack import eventually

HELLO = wire.Hello(wire.VERSION, "s", 1, "e", "m", "d", "b", ["p", "q"], [1, 1])


@pytest.fixture
def path() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="barograph-"))
    yield folder / "tap.sock"
    shutil.rmtree(folder)


def listen(path: Path) -> socket.socket:
    listener = wire.open_socket()
    listener.bind(str(path))
    listener.listen(1)
    listener.setblocking(True)
    return listener


def accept(listener: socket.socket) -> socket.socket:
    listener.settimeout(5)
    connection, _ = listener.accept()
    connection.settimeout(1)
    return connection


def connected(path: Path) -> tuple[socket.socket, Sender, socket.socket]:
    listener = listen(path)
    sender = Sender(path, HELLO)
    connection = accept(listener)
    eventually(lambda: sender.connected, "it is connected")
    return listener, sender, connection


def drain(connection: socket.socket) -> list[wire.Message]:
    messages = []
    try:
        while packet := connection.recv(wire.MAX_PACKET):
            messages.append(wire.decode(packet))
    except TimeoutError:
        pass
    return messages


def send(sender: Sender, stream: int, position: int) -> None:
    sender.scores(np.array([stream], "<u4"), np.array([position], "<u4"), np.zeros((1, 2), "<f4"))


def test_hello_then_live_then_frames(path: Path) -> None:
    listener, sender, connection = connected(path)
    sender.begin(wire.Begin(0, "r", 0))
    send(sender, 0, 0)
    sender.end(wire.End(0, 1))
    messages = drain(connection)
    assert messages[:2] == [HELLO, wire.Live([])]
    assert [(len(frame.begins), len(frame.streams), len(frame.ends)) for frame in messages[2:]] == [(1, 0, 0), (0, 4, 0), (0, 0, 1)]
    sender.close()
    for each in (connection, listener):
        each.close()


def test_without_a_sidecar_nothing_waits_and_the_newest_are_kept(path: Path) -> None:
    sender = Sender(path, HELLO)
    sender.begin(wire.Begin(5, "r", 0))
    started = time.perf_counter()
    for position in range(2 * QUEUE):
        send(sender, 5, position)
    assert time.perf_counter() - started < 2.0, "the engine waited"
    assert sender.dropped == QUEUE + 1
    listener = listen(path)
    messages = drain(accept(listener))
    frames = [message for message in messages if isinstance(message, wire.Frame)]
    assert messages[1] == wire.Live([wire.Begin(5, "r", 0)]), "a stream whose begin was dropped is announced again"
    assert [int.from_bytes(frame.positions, "little") for frame in frames] == list(range(QUEUE, 2 * QUEUE))
    assert frames[-1].dropped > 0
    sender.close()
    listener.close()


def test_a_sidecar_that_does_not_read_costs_drops_not_time(path: Path) -> None:
    listener, sender, connection = connected(path)
    started = time.perf_counter()
    for position in range(5000):
        send(sender, 0, position)
    assert time.perf_counter() - started < 5.0
    assert sender.dropped > 0
    frames = [message for message in drain(connection) if isinstance(message, wire.Frame)]
    # What the kernel took came in order; then a gap that the sequence shows; then the newest.
    sequence = [frame.seq for frame in frames]
    assert sequence == sorted(sequence)
    assert sequence[-1] == 5000
    assert sum(b - a - 1 for a, b in zip(sequence, sequence[1:], strict=False)) == sender.dropped
    sender.close()
    for each in (connection, listener):
        each.close()


def test_it_comes_back_after_the_sidecar_restarted(path: Path) -> None:
    listener = listen(path)
    sender = Sender(path, HELLO)
    accept(listener).close()
    listener.close()
    path.unlink()
    listener = listen(path)
    sender.begin(wire.Begin(1, "r", 0))
    connection = accept(listener)
    assert drain(connection)[0] == HELLO
    sender.close()
    for each in (connection, listener):
        each.close()


def test_every_sidecar_hears_how_the_tap_proved_itself(path: Path) -> None:
    check = wire.Check(True, 8, 0.05)
    listener, sender, connection = connected(path)
    sender.prove(check)
    assert drain(connection) == [HELLO, wire.Live([]), check]
    for each in (connection, listener):
        each.close()
    path.unlink()
    listener = listen(path)
    connection = accept(listener)
    assert drain(connection) == [HELLO, wire.Live([]), check]
    sender.fail("broken")
    first, second = drain(connection)
    assert first == wire.Check(False, 0, 0.0, "broken")
    assert isinstance(second, wire.Frame)
    assert second.failed == "broken"
    sender.close()
    for each in (connection, listener):
        each.close()


def test_it_connects_only_when_told(path: Path) -> None:
    listener = listen(path)
    listener.settimeout(0.5)
    sender = Sender(path, HELLO, connect=False)
    with pytest.raises(TimeoutError):
        listener.accept()
    sender.start()
    sender.start()
    connection = accept(listener)
    assert drain(connection)[0] == HELLO
    sender.close()
    for each in (connection, listener):
        each.close()


def test_a_sidecar_that_dies_with_a_word_unread_is_missed_all_the_same(path: Path) -> None:
    """An idle engine reads nothing: what the sidecar said last must not hide that it is gone."""
    listener, sender, connection = connected(path)
    connection.send(wire.encode(wire.Steer(1, 1, "p", -0.1, 4)))
    connection.send(b"")
    time.sleep(0.5)
    assert sender.connected, "an unread word is no end"
    connection.close()
    again = accept(listener)
    eventually(lambda: sender.connected, "it is back")
    assert sender.hear() == [], "what the one before said is gone with it"
    again.send(b"x")
    eventually(lambda: sender.hear() == [b"x"], "it hears the new one")
    sender.close()
    listener.close()


def test_many_answers_are_sent_in_packets_that_a_sidecar_takes(path: Path) -> None:
    listener, sender, connection = connected(path)
    sender.steered([wire.Steered(i) for i in range(wire.MAX_STREAMS + 5)])
    frames = [message for message in drain(connection) if isinstance(message, wire.Frame)]
    assert [len(frame.steered) for frame in frames] == [wire.MAX_STREAMS, 5]
    sender.close()
    listener.close()

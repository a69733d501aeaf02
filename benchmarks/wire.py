"""Seqpacket or pyzmq: what one frame costs the engine to send, and how long it takes to the sidecar.

The same frames (8 rows, 3 and 171 probes) go through the standard library's seqpacket socket and through a ZeroMQ PUSH/PULL
pair on ipc://, to a receiver in another process that answers with the time of arrival. Interleaved rounds of one run.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import zmq

from benchmarks.report import emit
from monitor import wire

ROUNDS, FRAMES, ROWS = 10, 400, 8
PAUSE_S = 0.0005  # a step of a model takes longer than this; without a pause a queue would be measured


def receive_seqpacket(path: str, results: Connection) -> None:
    with wire.open_socket() as listener:
        listener.bind(path)
        listener.listen(1)
        results.send("ready")
        listener.setblocking(True)
        connection, _ = listener.accept()
        while packet := connection.recv(wire.MAX_PACKET):
            arrived = time.monotonic_ns()
            frame = wire.decode(packet)
            assert isinstance(frame, wire.Frame)
            results.send(arrived - frame.time_ns)


def receive_zmq(path: str, results: Connection) -> None:
    receiver = zmq.Context().socket(zmq.PULL)
    receiver.bind(f"ipc://{path}")
    results.send("ready")
    while packet := receiver.recv():
        arrived = time.monotonic_ns()
        frame = wire.decode(packet)
        assert isinstance(frame, wire.Frame)
        results.send(arrived - frame.time_ns)


def run(kind: str, probes: int, folder: str) -> tuple[list[float], list[float]]:
    """Microseconds to send and to arrive, one of each a frame."""
    here, there = multiprocessing.Pipe()
    path = os.path.join(folder, f"{kind}-{time.monotonic_ns()}")
    process = multiprocessing.Process(target=receive_seqpacket if kind == "seqpacket" else receive_zmq, args=(path, there), daemon=True)
    process.start()
    here.recv()
    sender: Any
    if kind == "seqpacket":
        sender = wire.open_socket()
        sender.connect(path)
        send = sender.send
    else:
        sender = zmq.Context().socket(zmq.PUSH)
        sender.connect(f"ipc://{path}")
        send = lambda packet: sender.send(packet, zmq.NOBLOCK)  # noqa: E731
        time.sleep(0.1)
    streams = np.arange(ROWS, dtype="<u4").tobytes()
    scores = np.random.default_rng(0).normal(size=(ROWS, probes)).astype("<f4").tobytes()
    costs, latencies = [], []
    for seq in range(FRAMES):
        started = time.monotonic_ns()
        send(wire.encode(wire.Frame(seq, 0, started, streams, streams, scores)))
        costs.append((time.monotonic_ns() - started) / 1e3)
        latencies.append(here.recv() / 1e3)
        time.sleep(PAUSE_S)
    send(b"")
    sender.close()
    process.join(timeout=5)
    process.terminate()
    return costs, latencies


def main() -> None:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for probes in (3, 171):
            for kind in ("seqpacket", "pyzmq"):
                found[f"{kind}_{probes}"] = ([], [])
            for turn in range(ROUNDS):
                for kind in ("seqpacket", "pyzmq") if turn % 2 else ("pyzmq", "seqpacket"):
                    costs, latencies = run(kind, probes, folder)
                    found[f"{kind}_{probes}"][0].extend(costs)
                    found[f"{kind}_{probes}"][1].extend(latencies)
    figures = {
        key: {
            f"{what}_us_p{q}": round(float(np.percentile(values, q)), 1)
            for what, values in zip(("send", "arrive"), both, strict=True)
            for q in (50, 99)
        }
        for key, both in found.items()
    }
    emit("wire", rows=ROWS, frames=ROUNDS * FRAMES, **figures)


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()

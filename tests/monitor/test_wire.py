from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor import wire
from monitor.errors import WireError


def hello(**changes: object) -> wire.Hello:
    fields = {
        "version": wire.VERSION,
        "source": "s",
        "pid": 1,
        "engine": "e",
        "model": "m",
        "dtype": "d",
        "bank": "b",
        "probes": ["p", "q"],
        "layers": [1, 1],
    }
    return wire.Hello(**{**fields, **changes})


def test_a_frame_round_trips() -> None:
    streams, positions, scores = np.array([7, 9], "<u4"), np.array([0, 4], "<u4"), np.array([[1, 2], [3, np.nan]], "<f4")
    frame = wire.Frame(1, 0, 5, streams.tobytes(), positions.tobytes(), scores.tobytes(), [wire.Begin(7, "r", 0)], [wire.End(9, 5)])
    again = wire.decode(wire.encode(frame))
    assert again == frame
    assert isinstance(again, wire.Frame)
    for got, expected in zip(again.arrays(2), (streams, positions, scores), strict=True):
        assert np.array_equal(got, expected, equal_nan=True)


def test_a_full_packet_fits() -> None:
    for probes in (1, 3, 171, wire.MAX_PROBES):
        n = wire.rows_per_packet(probes)
        frame = wire.Frame(2**40, 2**40, 2**60, b"x" * 4 * n, b"x" * 4 * n, b"x" * 4 * n * probes)
        assert n > 0
        assert len(wire.encode(frame)) <= wire.MAX_PACKET
    live = wire.Live([wire.Begin(2**32 - 1, "x" * wire.MAX_REQUEST_ID, 99)] * wire.MAX_STREAMS)
    assert len(wire.encode(live)) <= wire.MAX_PACKET


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (wire.encode(hello(version=99)), "wire version 99; this sidecar speaks 2"),
        (wire.encode(hello(probes=[])), "0 probes"),
        (wire.encode(hello(layers=[1])), "2 probes and 1 layers"),
        (msgspec.msgpack.encode({"type": "pickle"}), "is no message"),
        (b"", "is no message"),
        (b"\x80\x04\x95", "is no message"),
        (b"x" * (wire.MAX_PACKET + 1), "expected at most"),
    ],
)
def test_bad_packets_are_refused(packet: bytes, expected: str) -> None:
    with pytest.raises(WireError, match=expected):
        wire.decode(packet)


@pytest.mark.parametrize(
    "frame",
    [wire.Frame(1, 0, 0, b"abc", b"", b""), wire.Frame(1, 0, 0, b"abcd", b"", b"abcdefgh"), wire.Frame(1, 0, 0, b"abcd", b"abcd", b"abcd")],
)
def test_sizes_that_disagree_are_refused(frame: wire.Frame) -> None:
    with pytest.raises(WireError, match="frame 1"):
        frame.arrays(2)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_wild_bytes_never_crash(packet: bytes) -> None:
    try:
        message = wire.decode(packet)
    except WireError:
        return
    if isinstance(message, wire.Frame):
        try:
            message.arrays(2)
        except WireError:
            pass


def test_the_kernel_names_the_peer(tmp_path: Path) -> None:
    import socket

    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with a, b:
        assert wire.peer(a) == (os.getpid(), os.getuid(), os.getgid())


def test_a_long_path_is_refused_in_words() -> None:
    with pytest.raises(WireError, match="expected at most 107"):
        wire.check_path(Path("/tmp/" + "x" * 200))

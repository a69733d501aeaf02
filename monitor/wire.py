"""What travels between tap and sidecar: msgspec over a Unix seqpacket socket, one message a packet.

Messages are tagged structs in msgpack, never pickle. The first packet of a connection is a `Hello`; a sidecar
refuses another `version`. Only `Steer` goes the other way, and only to a tap whose `Hello` names probes that it steers along. Arrays travel as little-endian bytes beside their shape. A packet is at most
`MAX_PACKET` bytes; a step with more rows is sent as several frames.

Why seqpacket: it keeps message boundaries, the kernel tells who the peer is (SO_PEERCRED), nothing listens on
a network, and `send` never blocks the engine. `benchmarks/wire.py` measures it beside pyzmq.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor.errors import WireError

VERSION = 2
TAP_KEY = "BAROGRAPH_TAP_KEY"  # the environment's name of the secret that engine and sidecar share
# The kernel's default limit of a socket buffer is 208 KiB: a packet must fit with room for others behind it.
MAX_PACKET = 128 * 1024
MAX_STEER = 1024  # bytes of what the sidecar says to a tap
MAX_PROBES = 1024
GRADES = ("activations", "text")  # of the model that writes, or of a reader of what it wrote
MAX_STREAMS = 1024  # running at once in one engine; a `Live` of them fits a packet
MAX_REQUEST_ID = 64


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Who is speaking: one engine, one model, one bank."""

    version: int
    source: str
    pid: int
    engine: str
    model: str
    dtype: str
    bank: str
    probes: list[str]
    layers: list[int]
    passport: dict[str, str] = {}
    secret: str = ""  # BAROGRAPH_TAP_KEY of the engine's environment: what shows that the tap is the engine's
    grade: str = "activations"
    steers: list[str] = []  # probes along which this tap can push


class Check(msgspec.Struct, frozen=True, tag="check"):
    """How the tap proved itself on the live engine: scores of `tokens` produced tokens, computed anew in float64 from hidden states
    that were read another way, differ by at most `worst` standard deviations. `why` says what failed when not `ok`.
    """

    ok: bool
    tokens: int
    worst: float
    why: str = ""


class Begin(msgspec.Struct, frozen=True, array_like=True):
    """A stream starts. `stream` counts up for the life of a source and is never used again."""

    stream: int
    request: str
    index: int


class End(msgspec.Struct, frozen=True, array_like=True):
    """A stream is over after `tokens` produced tokens."""

    stream: int
    tokens: int


class Live(msgspec.Struct, frozen=True, tag="live"):
    """All streams that are running now. Sent after a `Hello` and after drops, so that a lost `Begin` or `End` heals."""

    begins: list[Begin]


class Steered(msgspec.Struct, frozen=True, array_like=True):
    """What became of the push with this number: it began at the token `first`; it is over after `tokens` pushed tokens; or it was refused.

    `tokens` is 0 while it goes on. `why` is empty unless it was refused.
    """

    push: int
    first: int = 0
    tokens: int = 0
    why: str = ""


class Frame(msgspec.Struct, frozen=True, tag="frame"):
    """The scores of one forward step.

    Row i says: the token at `positions[i]` (from 0, of the produced tokens) of the stream `streams[i]` has the
    scores `scores[i, :]`. `seq` counts the frames of a source; a jump in it is a gap of dropped frames, and
    `dropped` is their running total. `begins` hold before the rows, `ends` after them. `failed` says why the tap
    gave up scoring; it is empty while all is well.
    """

    seq: int
    dropped: int
    time_ns: int
    streams: bytes = b""
    positions: bytes = b""
    scores: bytes = b""
    begins: list[Begin] = []
    ends: list[End] = []
    failed: str = ""
    steered: list[Steered] = []

    def arrays(self, probes: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]:
        """Streams [n], positions [n] and scores [n, probes]. Raises WireError when the sizes disagree."""
        try:
            streams = np.frombuffer(self.streams, "<u4")
            positions = np.frombuffer(self.positions, "<u4")
            scores = np.frombuffer(self.scores, "<f4").reshape(len(streams), probes)
        except ValueError as error:
            raise WireError(f"frame {self.seq}: {error}; expected 4-byte numbers for {probes} probes") from None
        if len(positions) != len(streams):
            raise WireError(f"frame {self.seq}: {len(positions)} positions for {len(streams)} streams")
        return streams, positions, scores


class Steer(msgspec.Struct, frozen=True, tag="steer"):
    """Push the stream along the probe's pattern for its next `tokens` tokens, by `dose` times the residual's norm. `push` numbers it.

    The sidecar's only word to a tap. `tokens` 0 ends the push with this number.
    """

    push: int
    stream: int
    probe: str
    dose: float
    tokens: int


Message = Hello | Check | Live | Frame

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_steer_decoder = msgspec.msgpack.Decoder(Steer)


def encode(message: Message | Steer) -> bytes:
    return _encoder.encode(message)


def decode_steer(packet: bytes) -> Steer:
    """What a tap hears. Raises WireError on anything else."""
    try:
        return _steer_decoder.decode(packet)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"packet of {len(packet)} bytes from the sidecar is no steer: {error}") from None


def decode(packet: bytes) -> Message:
    """Raises WireError on anything that is not a message of this version."""
    if len(packet) > MAX_PACKET:
        raise WireError(f"packet of {len(packet)} bytes; expected at most {MAX_PACKET}")
    try:
        message = _decoder.decode(packet)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"packet of {len(packet)} bytes is no message: {error}") from None
    if isinstance(message, Hello):
        if message.version != VERSION:
            raise WireError(f"tap speaks wire version {message.version}; this sidecar speaks {VERSION}")
        if not 0 < len(message.probes) <= MAX_PROBES or len(message.layers) != len(message.probes):
            raise WireError(
                f"hello with {len(message.probes)} probes and {len(message.layers)} layers; expected 1 to {MAX_PROBES}, as many of each"
            )
    return message


def rows_per_packet(probes: int) -> int:
    """How many rows fit into one packet of half the size, which leaves room for the envelope, begins and ends."""
    return max(1, MAX_PACKET // 2 // (8 + 4 * probes))


def open_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)


def check_path(path: Path) -> None:
    """The kernel takes at most 107 bytes; a longer path fails with a riddle."""
    if len(str(path).encode()) > 107:
        raise WireError(f"socket path {path} is {len(str(path).encode())} bytes long; expected at most 107")


def peer(connection: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the other side, as the kernel knows them."""
    size = struct.calcsize("3i")
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid, gid

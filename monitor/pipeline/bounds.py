"""What a tap may claim, and how much of anything it may make grow. Past a bound it is refused, and `reason` is counted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monitor import wire
from monitor.errors import WireError

MAX_CONNECTIONS = 64
MAX_SILENT = 16  # of them without a hello; the one that has been silent for longest makes room for the next
HELLO_S = 5.0  # how long a connection may take to say hello
MAX_TABLE = 4 * wire.MAX_STREAMS  # streams of all taps
MAX_NUMBER = 2**32 - 1  # stream numbers travel in four bytes
MAX_COUNT = 1 << 48  # frames of one tap
MAX_POSITION = 1 << 24  # no generation is as long
MAX_SCORE = 60000.0  # deviations; what is kept in half precision would be infinite beyond, and sums would lose all that comes after it
MAX_WORD = 256  # characters of whatever a hello names
MAX_WHY = 200  # characters of a reason that a tap gives
MAX_RECORDED = 32  # refused begins of one tap that are recorded one by one; all are counted
IDLE_S = 600.0  # a stream without a token for so long is taken for one whose end was lost


class Refused(WireError):
    """A peer went past a bound. `reason` is the label under which it is counted."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def check_hello(hello: wire.Hello) -> None:
    """Raises Refused for names of unreasonable length: they go to the ledger, to health and into logs."""
    words = {"source": hello.source, "engine": hello.engine, "model": hello.model, "dtype": hello.dtype, "bank": hello.bank}
    for what, word in words.items():
        if len(word) > MAX_WORD:
            raise Refused("hello", f"hello with a {what} of {len(word)} characters; expected at most {MAX_WORD}")
    if hello.grade not in wire.GRADES:
        raise Refused("hello", f"hello with grade '{hello.grade[:MAX_WORD]}'; expected one of {', '.join(wire.GRADES)}")
    if len(hello.steers) > wire.MAX_PROBES or not set(hello.steers) <= set(hello.probes):
        raise Refused(
            "hello", f"hello that steers along {len(hello.steers)} probes; expected some of the {len(hello.probes)} that it reads"
        )
    if len(hello.passport) > MAX_WORD or any(len(word) > MAX_WORD for item in hello.passport.items() for word in item):
        raise Refused(
            "hello", f"hello with a passport of {len(hello.passport)} fields; expected short words, at most {MAX_WORD} characters each"
        )


def check_begins(begins: Sequence[wire.Begin]) -> None:
    """Raises Refused for a begin that no tap of ours sends."""
    if len(begins) > wire.MAX_STREAMS:
        raise Refused("begins", f"{len(begins)} begins in one packet; expected at most {wire.MAX_STREAMS}")
    for begin in begins:
        if not (0 <= begin.stream <= MAX_NUMBER and 0 <= begin.index < wire.MAX_STREAMS and len(begin.request) <= wire.MAX_REQUEST_ID):
            raise Refused(
                "begins",
                f"a begin of stream {begin.stream}, choice {begin.index}, with a request id of {len(begin.request)} characters; expected "
                f"at most {MAX_NUMBER}, {wire.MAX_STREAMS - 1} and {wire.MAX_REQUEST_ID}",
            )


def readable(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores [n, k] with what no probe gives as not a number, so that it counts as missing. Writes into `scores`."""
    np.copyto(scores, np.float32(np.nan), where=np.abs(scores) > MAX_SCORE)
    return scores


def check_frame(frame: wire.Frame, positions: NDArray[np.uint32]) -> None:
    """Raises Refused for a frame that no tap of ours sends."""
    check_begins(frame.begins)
    if not 0 <= frame.seq < MAX_COUNT or any(not 0 <= end.tokens < MAX_POSITION for end in frame.ends):
        raise Refused(
            "positions", f"frame {frame.seq} with counts that no tap has; expected at most {MAX_COUNT} frames of {MAX_POSITION} tokens"
        )
    if len(frame.steered) > wire.MAX_STREAMS:
        raise Refused("steered", f"{len(frame.steered)} pushes in one packet; expected at most {wire.MAX_STREAMS}")
    if len(frame.ends) > wire.MAX_STREAMS:
        raise Refused("ends", f"{len(frame.ends)} ends in one packet; expected at most {wire.MAX_STREAMS}")
    if len(positions) and int(positions.max()) >= MAX_POSITION:
        raise Refused("positions", f"a token at position {int(positions.max())}; expected less than {MAX_POSITION}")


def check_failed(check: wire.Check) -> str:
    """Why a tap's check of itself is no good; empty when it is."""
    if not check.ok:
        return check.why[:MAX_WHY] or "it gave no reason"
    return (
        ""
        if math.isfinite(check.worst) and 0 < check.tokens < MAX_POSITION
        else f"{check.tokens} tokens with a worst difference of {check.worst}"
    )

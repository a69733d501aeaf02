"""Why a broker cannot be reached. kafka-python says so to its log only, over and over, and raises no more than that it could not."""

from __future__ import annotations

import logging
import time

LOST = "Connection lost: "
FRESH_S = 30.0  # an older reason is of another trouble
VAGUE = ("disconnected", "ECONNREFUSED", "timed out")  # what a refused password also leads to, and what an earlier outage leaves behind


class Reasons(logging.Handler):
    """The first reason since it was last asked for, or the first that says more than that there is no connection. Nothing is printed; whoever asks says it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._why, self._since = "", 0.0
        library = logging.getLogger("kafka")
        library.addHandler(self)
        library.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if LOST not in said:
            return
        why, now = said.partition(LOST)[2], time.monotonic()
        if not self._why or now - self._since > FRESH_S or (_vague(self._why) and not _vague(why)):
            self._why, self._since = why, now

    def of(self, error: BaseException) -> str:
        """An error in words, with the reason where there is one, which is then forgotten."""
        why, self._why = self._why if time.monotonic() - self._since < FRESH_S else "", ""
        return f"{type(error).__name__}: {error}" + (f" ({why})" if why else "")


def _vague(why: str) -> bool:
    return any(word in why for word in VAGUE)


REASONS = Reasons()  # the library's log is one for all its clients

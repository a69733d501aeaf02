"""Why a broker cannot be reached. kafka-python says so to its log only, over and over, and raises no more than that it could not."""

from __future__ import annotations

import logging
import time

LOST = "Connection lost: "
FRESH_S = 30.0  # an older reason is of another trouble


class Reasons(logging.Handler):
    """The first reason since it was last asked for: what follows from a refused password is 'disconnected'. Nothing is printed; whoever asks says it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._why, self._since = "", 0.0
        library = logging.getLogger("kafka")
        library.addHandler(self)
        library.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if LOST in said and (not self._why or time.monotonic() - self._since > FRESH_S):
            self._why, self._since = said.partition(LOST)[2], time.monotonic()

    def of(self, error: BaseException) -> str:
        """An error in words, with the reason where there is one, which is then forgotten."""
        why, self._why = self._why if time.monotonic() - self._since < FRESH_S else "", ""
        return f"{type(error).__name__}: {error}" + (f" ({why})" if why else "")


REASONS = Reasons()  # the library's log is one for all its clients

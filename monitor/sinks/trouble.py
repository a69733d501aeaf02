"""What is wrong with a place that things are sent to: said when it begins, now and then while it lasts, and when it is over."""

from __future__ import annotations

import logging
import time

from monitor.sinks.prometheus import Metrics

AGAIN_S = 60.0  # how often a trouble that lasts is said again


class Trouble:
    """One line when it begins, whatever number of attempts fails. `now` is what health and doctor show, empty when all is well."""

    def __init__(self, metrics: Metrics, sink: str, log: logging.Logger, where: str) -> None:
        """`sink`: one of a few names, a label. `where`: for people."""
        self.now = ""
        self._gauge = metrics.sink_failing.labels(sink)
        self._log = log
        self._where = where
        self._said = 0.0
        self._times = 0
        metrics.troubles[sink] = lambda: self.now and f"{where}: {self.now}"

    def is_that(self, why: str) -> None:
        begins, self.now = not self.now, why
        self._times += 1
        self._gauge.set(1)
        if begins or time.monotonic() - self._said >= AGAIN_S:
            self._log.warning("%s: %s%s", self._where, why, "" if begins else f" (attempts that failed so far: {self._times})")
            self._said = time.monotonic()

    def is_over(self) -> None:
        if not self.now:
            return
        self._log.info("%s: well again, after %d failed attempts", self._where, self._times)
        self.now, self._times = "", 0
        self._gauge.set(0)

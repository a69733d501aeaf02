"""What a long command says while it works: on a terminal a bar with the time left, in a log one line a minute."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

EVERY_S = 60.0
COUNT = re.compile(
    r"(?P<what>(?:read|wrote|scored|calibrating|long context|evaluated|measuring)\b.*?)(?P<done>\d+) of (?P<all>\d+)(?P<unit>.*)", re.DOTALL
)


class Saying:
    """Takes lines. One that counts, such as `read 7 of 40 texts`, moves a bar, or is told once a minute with the time left; any other is printed."""

    def __init__(self, out: TextIO | None = None, prefix: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out if out is not None else sys.stderr
        self._prefix = prefix
        self._clock = clock
        self._console = Console(file=self._out)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._counting = ""
        self._began = (0.0, 0)  # when the first count came, and what it was
        self._told = 0.0

    def __call__(self, text: str) -> None:
        found = COUNT.fullmatch(text)
        if found is None:
            self.close()
            self._line(text)
            return
        what, done, total = (found["what"] + found["unit"]).strip(" ,;:"), int(found["done"]), int(found["all"])
        if what != self._counting:
            self._begin(what, done, total)
        if self._console.is_terminal:
            self._move(done, total)
        else:
            self._tell(text, done, total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._counting = ""

    def _begin(self, what: str, done: int, total: int) -> None:
        self.close()
        self._counting, self._began, self._told = what, (self._clock(), done), self._clock()
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=self._console
            )
            self._task = self._bar.add_task(self._prefix + what, total=total)
            self._bar.start()

    def _move(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
            if done >= total:
                self.close()

    def _tell(self, text: str, done: int, total: int) -> None:
        now = self._clock()
        if now - self._told < EVERY_S:
            return
        self._told = now
        since, first = self._began
        left = (total - done) * (now - since) / (done - first) if done > first else None
        self._line(text + (f", {_minutes(left)} left" if left is not None else ""))

    def _line(self, text: str) -> None:
        print(self._prefix + text, file=self._out, flush=True)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"

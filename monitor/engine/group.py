"""A server in a process group of its own: whatever ends it, and whatever ends us, nothing of it is left."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from monitor.http.serving import LIFELINE

GRACE_S = 25.0  # between a polite signal and the end of all
_PR_SET_PDEATHSIG = 1


class Group:
    """Runs a command until it ends, hands SIGTERM and SIGINT on to it, and then ends the processes that it left behind.

    vLLM's server starts others, which go on when it is killed. When we are killed ourselves, the kernel tells the server; when the one
    who started us is, and has given us a lifeline, that ends as SIGTERM does.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], grace_s: float = GRACE_S) -> None:
        self._command, self._environment, self._grace_s = list(command), environment, grace_s
        self._deadline: float | None = None
        self._lifeline = int(os.environ.get(LIFELINE, -1))

    def run(self) -> int:
        """The command's exit code; 128 and its number when it was a signal."""
        libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

        def follow() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

        # The handlers first: a signal that comes while the server starts is not lost.
        before = {number: signal.signal(number, self._forward) for number in (signal.SIGTERM, signal.SIGINT)}
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(self._command, env=self._environment, process_group=0, preexec_fn=follow)
            if self._deadline is not None:
                self._process.terminate()
            code = self._wait(self._process)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return code if code >= 0 else 128 - code

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + self._grace_s
        if self._process is not None:
            self._process.send_signal(number)

    def _wait(self, server: subprocess.Popen[bytes]) -> int:
        # Looked at without being reaped: until then its number is nobody else's, and the group's neither.
        while os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if self._deadline is not None and time.monotonic() > self._deadline:
                break
            if self._deadline is None and self._lifeline >= 0 and select.select([self._lifeline], [], [], 0)[0]:
                self._forward(signal.SIGTERM, None)
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        return server.wait()

"""A wall clock that a test sets while the process runs: seconds in the file that ABUSE_CLOCK names are added to it.

Debian's libfaketime would do it for every call of libc, and makes `time.sleep` of CPython 3.11 fail.
"""

import os
import time

_file, _real, _real_ns, _monotonic = os.environ.get("ABUSE_CLOCK"), time.time, time.time_ns, time.monotonic
_offset, _looked = 0.0, -1.0


def _now_ns() -> int:
    global _offset, _looked
    if _monotonic() - _looked > 0.1:
        _looked = _monotonic()
        try:
            with open(str(_file)) as file:
                _offset = float(file.read() or 0)
        except (OSError, ValueError):
            pass
    return _real_ns() + int(_offset * 1e9)


if _file:
    time.time, time.time_ns = lambda: _now_ns() / 1e9, _now_ns

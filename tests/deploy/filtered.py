"""Runs a program under the system call filter of a unit, as systemd would: python -m tests.deploy.filtered UNIT PROGRAM …

What the filter forbids kills the whole process here, where systemd answers EPERM: so a program that gets through asked for nothing forbidden.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import pyseccomp as seccomp

# Hints of OpenBLAS about where memory should lie; it goes on without. These get the answer that systemd gives.
EXPECTED_TO_FAIL = ("mbind",)


def members(group: str) -> set[str]:
    """The calls of @group, those of the groups in it too."""
    said = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter", group], capture_output=True, text=True, check=True).stdout
    found: set[str] = set()
    for line in said.splitlines()[1:]:
        name = line.strip()
        if name.startswith("@"):
            found |= members(name)
        elif name and not name.startswith("#"):
            found.add(name)
    return found


def allowed(unit: str) -> set[str]:
    """What the unit's lines SystemCallFilter= leave over, the later ones taking away from those before."""
    found: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        names = line.removeprefix("~").split()
        calls = set().union(*(members(name) if name.startswith("@") else {name} for name in names))
        found = found - calls if line.startswith("~") else found | calls
    return found


def load(unit: str) -> None:
    """From here on, in this process and in all that come of it."""
    filter_ = seccomp.SyscallFilter(seccomp.KILL_PROCESS)
    for name in allowed(unit):
        try:
            filter_.add_rule(seccomp.ALLOW, name)
        except (OSError, RuntimeError, ValueError):
            continue  # of another architecture
    for name in EXPECTED_TO_FAIL:
        filter_.add_rule(seccomp.ERRNO(errno.EPERM), name)
    if "MemoryDenyWriteExecute=yes" in unit:
        both, executed = mmap.PROT_WRITE | mmap.PROT_EXEC, mmap.PROT_EXEC
        deny = seccomp.SyscallFilter(seccomp.ALLOW)
        deny.add_rule(seccomp.KILL_PROCESS, "mmap", seccomp.Arg(2, seccomp.MASKED_EQ, both, both))
        for name in ("mprotect", "pkey_mprotect"):
            deny.add_rule(seccomp.KILL_PROCESS, name, seccomp.Arg(2, seccomp.MASKED_EQ, executed, executed))
        deny.load()
    filter_.load()


if __name__ == "__main__":
    load(Path(sys.argv[1]).read_text())
    os.execvp(sys.argv[2], sys.argv[2:])

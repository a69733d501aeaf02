"""Ledgers for tests: made with a key of their own, closed when the test ends, read back whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monitor.audit import verifier
from monitor.audit.ledger import Ledger
from monitor.audit.note import LocalSigner
from monitor.audit.reader import entries

SIGNER = LocalSigner("example.com/barograph", bytes(range(32)))
KEY = verifier.Key.read(SIGNER.key.vkey)
_open: list[Ledger] = []


def ledger(path: Path, **more: Any) -> Ledger:
    made = Ledger(path, [SIGNER], **more)
    _open.append(made)
    return made


def close_all() -> None:
    while _open:
        _open.pop().close()


def said(path: Path, kept: Ledger | None = None) -> str:
    """Everything that it holds, as text."""
    if kept is not None:
        kept.flush()
    return "\n".join(entry.decode() for entry in entries(path))


def records(path: Path, kept: Ledger | None = None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(path, kept).splitlines()]


def seqs(path: Path, kept: Ledger | None = None) -> list[int]:
    return [each["seq"] for each in records(path, kept)]


def right(path: Path, **more: Any) -> verifier.Report:
    """What the verifier says of it, which is nothing against it."""
    report = verifier.verify(path, [KEY], **more)
    assert report.problems == []
    return report


def copy_of(source: Path, target: Path) -> Path:
    """The files as they lie there."""
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


@contextmanager
def witness(folder: Path, port: int, *logs: str) -> Iterator[str]:
    """Our witness of these logs, in a process of its own. Gives its vkey."""
    known = [word for vkey in logs for word in ("--log", vkey)]
    command = [sys.executable, "-m", "monitor", "audit", "witness", *known, "--folder", str(folder), "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(timeout=60)

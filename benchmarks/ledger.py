"""The ledger: how long a record takes to be durable under load, how many there may be a second, and how fast all is verified.

At each rate records are appended every millisecond, as the pipeline does it, and for one of each millisecond it is measured how long it takes until it is durable,
with checkpoints in between. Beside it, in turns, what the disk alone takes to sync as many bytes that were appended to a plain file: what no ledger can be faster than.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import emit
from monitor.audit import verifier
from monitor.audit.ledger import Ledger
from monitor.audit.note import LocalSigner

FIELDS: dict[str, Any] = {
    "event": "end", "stream": "chatcmpl-0123456789abcdef#0", "source": "engine-1", "tokens": 128, "judged": 128,
    "peak": {"desperation": 1.25, "panic": 0.5, "hostility": -0.75, "calm": 2.125},
}  # fmt: skip
TICK_S = 0.001


async def durable_ms(ledger: Ledger, rate: int, seconds: float) -> list[float]:
    """Milliseconds from append to durable, one of each tick."""
    found: list[float] = []
    waiting: set[asyncio.Task[None]] = set()

    async def wait(number: int, since: float) -> None:
        assert await ledger.durable(number, 30)
        found.append((time.perf_counter() - since) * 1e3)

    start, sent = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        since, number = time.perf_counter(), -1
        while sent < passed * rate:
            number, sent = ledger.append("stream", **FIELDS), sent + 1
        if number >= 0:
            task = asyncio.create_task(wait(number, since))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*waiting)
    return found


def disk_ms(folder: Path, size: int, seconds: float) -> list[float]:
    found = []
    file = os.open(folder / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        until = time.perf_counter() + seconds
        while (since := time.perf_counter()) < until:
            os.write(file, bytes(size))
            os.fdatasync(file)
            found.append((time.perf_counter() - since) * 1e3)
    finally:
        os.close(file)
    return found


def told(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 2), "p99": round(ordered[int(len(ordered) * 0.99)], 2), "max": round(ordered[-1], 2), "samples": len(ordered),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--folder", type=Path, help="on the disk that is meant; by default the temporary folder")
    options = parser.parse_args()
    signer = LocalSigner("benchmark.example/ledger", os.urandom(32))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        rates: dict[int, list[float]] = {1_000: [], 5_000: [], 10_000: []}
        disk: list[float] = []
        ledger = Ledger(folder / "rates", [signer])
        for _ in range(2):
            for rate, found in rates.items():
                found += asyncio.run(durable_ms(ledger, rate, options.seconds))
                disk += disk_ms(folder, 2048, options.seconds / 5)
        ledger.close()

        ledger = Ledger(folder / "flood", [signer])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        for i in range(options.records):
            ledger.append("stream", **FIELDS)
            if i % 10_000 == 0:
                assert ledger.flush(60)
        assert ledger.flush(60)
        flood = time.perf_counter() - started
        ledger.close()
        assert ledger.checkpoint.size == options.records
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        size = sum(path.stat().st_size for path in (folder / "flood" / "tile").rglob("*") if path.is_file())

        started = time.perf_counter()
        report = verifier.verify(folder / "flood", [verifier.Key.read(signer.key.vkey)])
        verified = time.perf_counter() - started
        assert (report.records, report.problems) == (options.records, [])
    emit(
        "ledger",
        durable_ms={str(rate): told(found) for rate, found in rates.items()},
        disk_alone_ms=told(disk),
        ratio_p50_at_5000=round(statistics.median(rates[5_000]) / statistics.median(disk), 2),
        flood_records_per_s=round(options.records / flood),
        verified_records_per_s=round(options.records / verified),
        records=options.records,
        bytes_per_record=round(size / options.records, 1),
        memory_grown_mib=round(grown / 1024, 1),
    )


if __name__ == "__main__":
    main()

"""How a benchmark speaks: one JSON line, which also lands in `benchmarks/results/<name>.json`."""

from __future__ import annotations

import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """The machine in words: processor, cores, memory, and the accelerator if there is one."""
    fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{names.get('model name', platform.machine())}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def emit(name: str, **figures: Any) -> None:
    """Print the line and keep it."""
    print(keep(name, **figures))


def keep(name: str, **figures: Any) -> str:
    """Keep the line, which is returned. A long benchmark does so as it goes, so that being cut short loses nothing."""
    line = json.dumps({"benchmark": name, "machine": machine(), **figures})
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(line + "\n")
    return line


def spread(values: list[float], digits: int = 4) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, digits), "q1": round(low, digits), "q3": round(high, digits), "n": len(values)}

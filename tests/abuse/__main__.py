"""Abuse a sidecar for as long as you like: python -m tests.abuse --seconds 86400 --seed 7

The order of what is done follows from the seed; a run that fails prints it, and the same seed does the same again. With --report the results go into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import keep, machine
from tests.abuse.abuses import ABUSES, NotHere
from tests.abuse.report import PAGE, page
from tests.abuse.world import CLIENTS, World


async def each(folder: Path, names: list[str], seed: int = 0) -> dict[str, Any]:
    """Every abuse once, in this order."""
    return await _run(folder, seed, iter(names))


async def sequence(folder: Path, seed: int, seconds: float) -> dict[str, Any]:
    """Abuses in the order of a seed, one or two at a time, until the time is over."""
    chance, until = random.Random(seed), time.monotonic() + seconds

    def names() -> Any:
        while time.monotonic() < until:
            yield chance.choice(list(ABUSES))

    return await _run(folder, seed, names())


async def _run(folder: Path, seed: int, names: Any) -> dict[str, Any]:
    chance, done, started = random.Random(seed), [], time.monotonic()
    async with World(folder, seed) as world:
        for name in names:
            before, began, wrong = sum(world.found.ends.values()), time.monotonic(), len(world.found.wrong)
            try:
                await ABUSES[name](world, random.Random(chance.random()))
            except NotHere as why:
                print(f"{name} left out: {why}", file=sys.stderr)
                continue
            await world.serves_again()
            done.append({
                "abuse": name, "seconds": round(time.monotonic() - began, 1), "requests": sum(world.found.ends.values()) - before,
                "wrong": len(world.found.wrong) - wrong,
            })  # fmt: skip
            print(f"{done[-1]}", file=sys.stderr, flush=True)
    return {"seed": seed, "clients": CLIENTS, "seconds": round(time.monotonic() - started), "done": done, **world.said()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="so long, in the order of the seed; by default each abuse once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(ABUSES), action="append", help="these, in this order")
    parser.add_argument("--report", action="store_true", help=f"keep the figures in benchmarks/results and write {PAGE.name}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.seconds is not None:
            found = asyncio.run(sequence(Path(folder), options.seed, options.seconds))
        else:
            found = asyncio.run(each(Path(folder), options.only or list(ABUSES), options.seed))
    if options.report:
        print(keep("abuse", **found))
        PAGE.write_text(page({**found, "machine": machine()}), "utf-8")
    else:
        print(json.dumps(found))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())

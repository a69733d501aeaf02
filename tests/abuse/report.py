"""docs/reliability.md, from what a run found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tests.abuse.abuses import ABUSES

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
HEAD = """# Reliability

What was done to a running sidecar, and what came of it. This page is written by the run itself: `python -m tests.abuse --seconds 900 --report` (`make soak` runs for a day, `make abuse` for minutes, as CI does).

A real sidecar process with strict hold judges {clients} clients' replies without a pause. Its engine has no model, so that every token's score is known; tap, sockets, broker (Tansu, which speaks Kafka's protocol) and disk are real. Meanwhile, in an order that follows from a
seed, it is treated as below. All the while and at the end these must hold, or the run names the seed and fails:

- **No unjudged token.** Every token that a client of an event stream gets was scored, with the score that the tap gave it, and none comes from a halt's position on.
- **One score a token**: a chunk's scores are those of its own tokens, in their places.
- **Every request ends** within 40 s: whole, halted, with an error that says why, or by a broken connection where the sidecar itself was killed, and only there.
- **No acknowledged record is lost**: the ledger verifies, each halt that a client was told of is in it, and each verdict in it reaches the broker.
- **It lives**: it never exits by itself, ends with code 0 after SIGTERM, logs no traceback, serves again within 60 s after each of these, and its memory stays where it was.

"""


def page(found: dict[str, Any]) -> str:
    times, wrong, requests, seconds = Counter(), Counter(), Counter(), Counter()  # type: ignore[var-annotated]
    for each in found["done"]:
        name = each["abuse"]
        times[name] += 1
        wrong[name] += each["wrong"]
        requests[name] += each["requests"]
        seconds[name] += each["seconds"]
    rows = [
        f"| {name.replace('_', ' ')} | {str(abuse.__doc__).strip()} | {times[name]} | {requests[name]:,} | {seconds[name] / times[name]:.1f} | {wrong[name] or 'none'} |"
        for name, abuse in ABUSES.items() if times[name]
    ]  # fmt: skip
    ends = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in found["ends"].items())
    return (
        HEAD.format(clients=found["clients"])
        + "| what | how | times | requests meanwhile | seconds until it served again, mean | violations |\n| --- | --- | --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + f"\n\nSeed {found['seed']}, {found['seconds']:,} s on {found['machine']} (`benchmarks/results/abuse.json`), {sum(times.values())} abuses: {found['requests']:,} requests, "
        f"{found['tokens']:,} tokens, {found['halts']:,} halts that clients were told of, {found['records']:,} records, of which {found['lost_and_named']} lost and named. "
        f"The largest growth of a process's memory, from its 8th second on: {found['memory_growth_mib']} MiB. Violations: {len(found['wrong']) or 'none'}.\n\n"
        f"How requests ended: {ends}. `nobody there` are those that came while no sidecar ran; `refused` and `closed` name their reason, as [gateway.md](gateway.md) lists them.\n\n"
        "The wall clock is set for the sidecar's process only, not for the machine. A disk that lies about what it has is another test (`tests/monitor/audit/test_power.py`), "
        "a real Apache Kafka that is killed another (`tests/kafka`), and a real vLLM that is killed another (`tests/vllm`).\n"
    )

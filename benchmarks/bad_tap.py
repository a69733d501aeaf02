"""Streamed generations behind a tap that delays, drops, repeats and reorders its frames: does any token leave that was not judged?

The engine is synthetic (benchmarks/synthetic), so that what was scored and when is known to the token. Of every event that reaches a client
it is asked whether the scores of all its tokens had left the tap by then, and whether a token at or after a halt is in it.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks.report import emit
from benchmarks.synthetic.engine import MODEL, SyntheticEngine
from benchmarks.synthetic.recording import Recorded
from benchmarks.synthetic.tap import BadTap, Faults
from tests.stack import Stack, eventually

LIMIT = 3.0
RULES = f"rules: [{{rule: high, desc: d, when: panic.last > {LIMIT}, do: halt, mode: armed, accept_unproven: [panic]}}]\n"
SETTINGS: dict[str, Any] = {"gateway": {"judge_timeout_s": 0.4}}
ENDS_S = 30.0  # in which every request must end


class Client:
    """One request of one or two choices. Counts what is wrong in `unjudged` and `after_halt`."""

    def __init__(
        self, engine: SyntheticEngine, tap: BadTap, counts: collections.Counter[str], late: list[int], chance: random.Random
    ) -> None:
        self._engine, self._tap, self._counts, self._late, self._chance = engine, tap, counts, late, chance
        self._halts = [halt_of(each, engine.probes.index("panic")) for each in engine.recordings]
        self._text: dict[int, str] = {}
        self._tokens: dict[int, int] = {}

    async def run(self, session: aiohttp.ClientSession, url: str) -> None:
        chance = self._chance
        seed, choices = chance.randrange(len(self._engine.recordings)), chance.choice((1, 1, 1, 2))
        body = {
            "model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": chance.randint(1, 40), "seed": seed, "n": choices,
            "stream": True,
        }  # fmt: skip
        leaves = chance.randint(1, 12) if chance.random() < 0.05 else None
        try:
            async with asyncio.timeout(ENDS_S), session.post(url, json=body) as response:
                if response.status != 200:
                    self._counts[f"status_{response.status}"] += choices
                    return
                self._counts[await self._follow(response, seed, leaves)] += choices
        except TimeoutError:
            self._counts["did_not_end"] += choices
        finally:
            self._counts["generations"] += choices

    async def _follow(self, response: aiohttp.ClientResponse, seed: int, leaves: int | None) -> str:
        events, end = 0, "broken_off"
        async for line in response.content:
            if line.startswith(b"data: [DONE]"):
                return "halted" if end == "halted" else "whole"
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                return f"closed_{event['error']['code']}"
            for part in event["choices"]:
                if part["finish_reason"] == "content_filter":
                    end = "halted"
                    verdict = event["barograph"]["verdicts"][0]
                    self._late.append(max(0, self._tokens.get(part["index"], 0) - verdict["position"]))
                else:
                    self._look(event["id"].removeprefix("chatcmpl-"), part["index"], part["delta"].get("content") or "", seed)
            events += 1
            if leaves is not None and events >= leaves:
                return "client_left"
        return end

    def _look(self, request: str, index: int, text: str, seed: int) -> None:
        """A client has this text now: which tokens is it, and were they judged?"""
        generation = self._engine.made[request, index]
        whole = self._text[index] = self._text.get(index, "") + text
        ends = np.cumsum([len(generation.piece(place)) for place in range(generation.limit)])
        tokens = int(np.searchsorted(ends, len(whole)) + 1)
        assert generation.text(0, tokens) == whole, "the gateway changed the text"
        self._counts["tokens"] += tokens - self._tokens.get(index, 0)
        self._tokens[index] = tokens
        self._counts["unjudged"] += sum((generation.stream, place) not in self._tap.told for place in range(tokens))
        halt = self._halts[(seed + index) % len(self._halts)]
        self._counts["after_halt"] += halt is not None and tokens > halt


def halt_of(recorded: Recorded, probe: int) -> int | None:
    """The first token at which the rule fires."""
    found = np.flatnonzero(recorded.scores[:, probe] > LIMIT)
    return int(found[0]) if len(found) else None


async def run(stack: Stack, generations: int, faults: Faults, at_once: int = 64, step_s: float = 0.01, tokens: int = 2) -> dict[str, Any]:
    """Returns how the generations ended, what was wrong, and how many tokens from a verdict's own on its client got."""
    tap = BadTap(stack.runtime / "tap.sock", faults)
    counts: collections.Counter[str] = collections.Counter({"unjudged": 0, "after_halt": 0, "did_not_end": 0})
    late: list[int] = []
    chance = random.Random(faults.seed)
    async with SyntheticEngine(tap, step_s, tokens) as engine:
        await engine.listen(stack.ports["engine"])
        await asyncio.to_thread(eventually, lambda: stack.metric("barograph_taps_connected") == 1, "the tap is taken")
        url, started = stack.gateway("/v1/chat/completions"), time.perf_counter()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def worker() -> None:
                while counts["generations"] < generations:
                    await Client(engine, tap, counts, late, chance).run(session, url)

            await asyncio.gather(*(worker() for _ in range(at_once)))
        took = time.perf_counter() - started
    after = {f"p{q}": float(np.percentile(late, q, method="higher")) for q in (50, 99, 100)} if late else {}
    return {**dict(sorted(counts.items())), "tokens_after_verdict": after, "seconds": round(took, 1), "tap": tap.counts}


def halts(generations: int) -> dict[str, Any]:
    """How many tokens leave from a verdict's own on, by hold mode: a token a chunk, ten ms a token, and a tap that is on time or 35 ms late."""
    found: dict[str, Any] = {}
    for name, hold in (("strict", "strict"), ("lag 4", {"lag": 4}), ("off", "off")):
        for when, late_s in (("on_time", 0.0), ("late", 0.035)):
            with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), {"gateway": {"hold": hold}}, RULES, engine=False) as stack:
                said = asyncio.run(run(stack, generations, Faults(0, 0, 0, late_s=late_s), tokens=1))
                found.setdefault(name, {})[when] = {"halted": said["halted"], **said["tokens_after_verdict"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faults = Faults(seed=options.seed)
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), SETTINGS, RULES, engine=False) as stack:
        found = asyncio.run(run(stack, options.generations, faults))
        log = stack.log("sidecar")
    emit("bad_tap", faults=vars(faults), hold="strict", **found, tracebacks=log.count("Traceback"), halts=halts(options.generations // 5))


if __name__ == "__main__":
    main()

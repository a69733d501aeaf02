"""What the shipped packs do on neutral traffic: fires in 1,000 tokens of ordinary replies, by replay of what a real run recorded.

The prompts (benchmarks/neutral_prompts.txt) were written for this and are not among those that the bank was calibrated on. Every four of
them share a conversation, for the rules that look at one. Intervals resample whole conversations. Writes the table of docs/rules.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import report
from monitor.audit.recordings import recordings
from monitor.config import Config
from monitor.pipeline import rulefiles
from rules.engine import RuleEngine
from rules.replay import Recording, Replay, replay
from tests.stack import MODEL, Stack, eventually

PROMPTS = (Path(__file__).with_name("neutral_prompts.txt")).read_text("utf-8").splitlines()
TURNS = 4  # requests of a conversation
SAMPLES = 4
TOKENS = 96
AT_ONCE = 12
DRAWS = 2000
DOCS = Path(__file__).parents[1] / "docs" / "rules.md"
BEGIN, END = "<!-- packs: written by benchmarks/packs.py -->", "<!-- /packs -->"


async def talk(stack: Stack) -> None:
    """Conversations of four requests each, several at once; the requests of one follow each other."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def conversation(client: httpx.AsyncClient, name: str, prompts: list[str], seed: int) -> None:
        async with gate:
            for turn, prompt in enumerate(prompts):
                body = {
                    "model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": TOKENS, "temperature": 1.0, "seed": seed + turn,
                }  # fmt: skip
                (await client.post(stack.gateway("/v1/chat/completions"), json=body, headers={"x-conversation": name})).raise_for_status()

    async with httpx.AsyncClient(timeout=600) as client:
        await asyncio.gather(*(
            conversation(client, f"{sample}-{first}", PROMPTS[first : first + TURNS], 1000 * sample + first)
            for sample in range(SAMPLES)
            for first in range(0, len(PROMPTS), TURNS)
        ))  # fmt: skip


def rates(found: Replay, recorded: list[Recording]) -> dict[str, Any]:
    """By rule: fires in 1,000 tokens with a 95 % interval, and the share of replies in which it fires."""
    groups = sorted({each.conversation for each in recorded})
    place = {each.stream: groups.index(each.conversation) for each in recorded}
    tokens = np.zeros(len(groups))
    for each in recorded:
        tokens[place[each.stream]] += len(each.scores)
    draws = np.random.default_rng(0).integers(len(groups), size=(DRAWS, len(groups)))
    out = {}
    for rule in found.rules:
        fires = np.zeros(len(groups))
        for fire in found.of(rule):
            fires[place[fire.stream]] += 1
        low, high = np.quantile(1000 * fires[draws].sum(axis=1) / tokens[draws].sum(axis=1), [0.025, 0.975])
        high = high if fires.any() else 3000 / tokens.sum()  # nothing in n tokens says: less than 3 in n
        out[rule] = {
            "per_1k_tokens": round(found.per_thousand(rule), 3),
            "ci95": [round(float(low), 3), round(float(high), 3)],
            "replies": round(len({fire.stream for fire in found.of(rule)}) / found.streams, 4),
        }
    return out


def table(line: dict[str, Any]) -> str:
    rows = ["| pack | rule | action, mode | fires in 1,000 neutral tokens | replies in which it fires |", "| --- | --- | --- | --- | --- |"]
    for pack, found in line["packs"].items():
        about = {rule.rule: rule for rule in rulefiles.load(Path(pack)).rules}
        for rule, rate in found.items():
            low, high = rate["ci95"]
            what = f"{about[rule].action.name.lower()}, {about[rule].mode}"
            rows.append(
                f"| {pack} | `{rule}` | {what} | {rate['per_1k_tokens']:.2f} [{low:.2f}, {high:.2f}] | {100 * rate['replies']:.1f} % |"
            )
    return "\n".join([
        *rows, "",
        f"Expected false alarms, by replay of {line['tokens']} tokens in {line['streams']} neutral replies of SmolLM2-135M-Instruct ({line['dtype']}), prompts that "
        f"the bank was not calibrated on, 95 % intervals over conversations, for a rule that never fired by the rule of three ({line['machine']}).",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ledger", type=Path, help="replay this recording instead of making one")
    options = parser.parse_args()
    bank = Config().load_bank()
    if options.ledger is not None:
        recorded = recordings(str(options.ledger), bank.names)
    else:
        settings = {"gateway": {"conversation_header": "x-conversation", "max_requests": 64}, "audit": {"level": "scores"}}
        with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), settings) as stack:
            asyncio.run(talk(stack))
            eventually(lambda: stack.metric("barograph_streams_running") == 0, "all streams are over")
            recorded = recordings(str(stack.ledger_path), bank.names)
    packs = {}
    for pack in rulefiles.packs():
        found = replay(RuleEngine(rulefiles.load(Path(pack)), rulefiles.facts(bank)), recorded)
        packs[pack] = rates(found, recorded)
    report.emit(
        "packs", model=MODEL, dtype="bfloat16", tokens=sum(len(each.scores) for each in recorded), streams=len(recorded),
        conversations=len({each.conversation for each in recorded}), packs=packs,
    )  # fmt: skip
    line = json.loads((report.RESULTS / "packs.json").read_text())
    text = DOCS.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCS.write_text(f"{before}{BEGIN}\n{table(line)}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()

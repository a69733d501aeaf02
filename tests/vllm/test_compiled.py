"""The compiled tap on a real server: every produced token has its own score, and only that."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.engine.vllm_process import Reply, VllmProcess
from monitor.tap.recorder import Key, Recorder
from tests.stack import MODEL
from tests.vllm.conftest import fifty, prompts
from tests.vllm.judge import Judge

pytestmark = pytest.mark.timeout(1200)  # two servers start, and each compiles its model
REQUESTS = int(
    os.environ.get("REQUESTS", "200")
)  # a thousand find no more and took a fifth of all these tests' time; `REQUESTS=1000 make test-vllm` asks them
TOLERANCE = 1e-3  # standard deviations; float32 on both sides


@pytest.fixture(scope="module")
def recorder(runtime: Path) -> Iterator[Recorder]:
    listening = Recorder(runtime / "tap.sock")
    yield listening
    listening.close()


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


def test_scores_are_those_of_a_reference_and_tokens_those_without_us(
    recorder: Recorder, untapped: dict[Key, Reply], tapped: VllmProcess, judge: Judge
) -> None:
    replies = judge.heard(recorder, lambda suffix: fifty(tapped, suffix))
    assert all(len(each.tokens) == 64 for each in replies.values())
    assert [each.tokens for each in replies.values()] == [each.tokens for each in untapped.values()]
    assert judge.worst(recorder, replies) < TOLERANCE
    assert "compiled; torch.compile on" in recorder.hellos[0].engine
    (check,) = recorder.checks
    assert check.ok, check
    assert check.tokens >= 4


def test_hundreds_of_requests_mix_with_nobody(recorder: Recorder, tapped: VllmProcess, judge: Judge) -> None:
    """Random arrivals, lengths, choices and hang-ups, over both endpoints."""
    texts = prompts(REQUESTS, 120, seed=2)

    async def run(suffix: str) -> dict[Key, Reply]:
        chance = random.Random(7)
        async with tapped.client() as client:
            gate = asyncio.Semaphore(64)

            async def one(i: int, text: str) -> dict[Key, Reply]:
                # No seeds: on CPU this vLLM dies of one when the prompt comes in chunks.
                body: dict[str, Any] = {"max_tokens": chance.randint(1, 16), "n": chance.choice([1, 1, 1, 2]), "temperature": 1}
                chat = chance.random() < 0.5
                body |= {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
                cut = chance.randint(1, 6) if chance.random() < 0.15 else None
                await asyncio.sleep(chance.random())
                async with gate:
                    return await tapped.ask(client, f"r{i}{suffix}", body, "/v1/chat/completions" if chat else "/v1/completions", cut)

            answers = await asyncio.gather(*(one(i, text) for i, text in enumerate(texts)))
            return {key: reply for answer in answers for key, reply in answer.items()}

    replies = judge.heard(recorder, lambda suffix: asyncio.run(run(suffix)))
    assert len(replies) >= REQUESTS
    assert sum(not reply.whole for reply in replies.values()) > REQUESTS / 20
    assert judge.worst(recorder, replies, sample=10) < TOLERANCE
    assert "Traceback" not in tapped.log.read_text(errors="replace")


def test_replies_of_one_request_keep_their_places(recorder: Recorder, tapped: VllmProcess, judge: Judge) -> None:
    async def run() -> dict[Key, Reply]:
        async with tapped.client() as client:
            several = await tapped.ask(
                client, "several", {"model": MODEL, "prompt": prompts(3, 20, seed=3), "max_tokens": 5}, "/v1/completions"
            )
            stopped = await tapped.ask(
                client, "stopped", {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 30, "ignore_eos": False}
            )
        return several | stopped

    replies = asyncio.run(run())
    assert sorted(replies) == [("several", 0), ("several", 1), ("several", 2), ("stopped", 0)]
    # A request with several prompts shows its clients only one prompt's tokens, so only the last is compared with a reference.
    for i in range(3):
        key = ("several", i)
        assert recorder.positions(key) == [0, 1, 2, 3, 4]
    assert judge.worst(recorder, {("stopped", 0): replies["stopped", 0]}) < TOLERANCE

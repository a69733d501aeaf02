"""What a push does: how many hostile replies it calms, and at what cost, dose by dose, against random directions of the same covariance.

Closed loop on the embedded engine: prompts that make the model hostile, sampled with seeds, so that every reply is the same up to the
token at which the rule fires; then its row is pushed for `PUSH` tokens and the rule's average is read again. Cost: the perplexity of the pushed
tokens under the unsteered model, beside that of the same reply without a push, and on neutral prompts the share of tokens that the steered
model would still choose in the unsteered text. Throughput: steps with all rows pushed, each by a dose of its own, and steps with none, in
neighbouring blocks of one run. Nothing here was tuned: doses, tokens and the rule are those of the documentation.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.drain import Drain
from benchmarks.pairs import interval, ratios
from benchmarks.report import emit
from benchmarks.tap_overhead import BLOCK, StepClock
from monitor import models, wire
from monitor.config import Config
from monitor.engine.batcher import Batcher
from monitor.engine.loading import LoadedModel, load
from monitor.engine.sampler import Sampling
from monitor.tap.steer import Limits
from monitor.tap.tap import Tap
from probes.bank import Bank
from probes.canaries import CANARIES
from probes.cause import Steering as Layers
from probes.corpus import Corpus
from probes.reader import Reader
from probes.statistics import clustered
from probes.windows import windowed
from tests.pushes import pushed

PROBE = "hostility"  # whose cause the shipped bank has
DOSES = (-0.05, -0.1, -0.2)
RANDOM = 4  # directions; each steers a share of the replies
SEEDS = 8  # replies to each prompt
TOKENS, PUSH, HALF_LIFE = 112, 48, 8
RATE = 0.01  # of neutral tokens exceed the rule's threshold
NEUTRAL = 24
AT_ONCE = 32
DRAWS = 2000


@dataclass
class Made:
    """One reply: its prompt and tokens, its scores of the probe, and the first pushed token, or the token at which the rule fired where none was."""

    prompt: list[int]
    tokens: list[int]
    scores: NDArray[np.float64]
    fired: int = -1
    first: int = -1

    def average(self) -> NDArray[np.floating]:
        """The rule's average [tokens]."""
        return windowed(self.scores, f"ewma({HALF_LIFE})")


class Loop:
    """An engine whose tap is judged here at once, and pushed where `dose` is not 0."""

    def __init__(self, model: LoadedModel, bank: Bank, batcher: Batcher, path: Path, dose: float, limit: float) -> None:
        self.tap = Tap(model.wrapper, bank, batcher.rows, path, model.name, limits=Limits((PROBE,), 0.2, TOKENS))
        self._batcher, self._dose, self._limit = batcher, dose, limit
        self._column = bank.names.index(PROBE)
        self._numbers: dict[int, str] = {}
        self.made: dict[str, Made] = {}
        self._said: list[bytes] = []
        sender: Any = self.tap.sender
        sender.begin = lambda begin: self._numbers.__setitem__(begin.stream, begin.request)
        sender.end = lambda end: None
        sender.scores = self._judge
        sender.hear = self._say
        sender.steered = self._began

    def _say(self) -> list[bytes]:
        said, self._said = self._said, []
        return said

    def _began(self, steered: list[wire.Steered]) -> None:
        for each in steered:
            if not each.why:  # refused where the rule fired at the last token
                self.made[self._numbers[each.push]].first = each.first

    def _judge(self, streams: NDArray[np.uint32], positions: NDArray[np.uint32], scores: NDArray[np.float32]) -> None:
        for stream, position, row in zip(streams.tolist(), positions.tolist(), scores, strict=True):
            made = self.made[self._numbers[stream]]
            made.scores = np.append(made.scores, float(row[self._column]))
            if made.fired < 0 and position >= HALF_LIFE and made.average()[-1] > self._limit:
                made.fired = position
                if self._dose:
                    self._said.append(wire.encode(wire.Steer(stream, stream, PROBE, self._dose, PUSH)))

    async def run(self, prompts: list[list[int]], sampling: Callable[[int], Sampling], tokens: int) -> list[Made]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(i: int, prompt: list[int]) -> Made:
            made = self.made[f"r{i}"] = Made(prompt, [], np.empty(0))
            async with gate:
                self.tap.begin(f"r{i}", f"r{i}", 0)
                async for token in self._batcher.generate(f"r{i}", prompt, tokens, sampling(i), ends=False):
                    made.tokens.append(token)
                self.tap.end(f"r{i}", tokens)
            made.scores = made.scores[:tokens]
            return made

        found = await asyncio.gather(*(one(i, prompt) for i, prompt in enumerate(prompts)))
        assert not self.tap.failed, self.tap.failed
        return found


@contextmanager
def engine(model: LoadedModel) -> Iterator[Batcher]:
    batcher = Batcher(model.module, set(), AT_ONCE, 32_768, share=False)
    batcher.start()
    try:
        yield batcher
    finally:
        batcher.stop()


def loop(
    model: LoadedModel, bank: Bank, prompts: list[list[int]], dose: float, limit: float, seeds: Sequence[int] = (), tokens: int = TOKENS
) -> list[Made]:
    """Replies to the prompts, each sampled with its seed; greedy without seeds."""
    with tempfile.TemporaryDirectory(prefix="barograph-") as folder, engine(model) as batcher:
        running = Loop(model, bank, batcher, Path(folder) / "none.sock", dose, limit)
        try:
            return asyncio.run(running.run(prompts, lambda i: Sampling(0.8, 1.0, seed=seeds[i]) if seeds else Sampling(0.0), tokens))
        finally:
            running.tap.close()


def along(bank: Bank, direction: NDArray[np.float32]) -> Bank:
    """The bank with another direction to push along; it reads as before."""
    patterns = bank.patterns.copy()
    patterns[bank.names.index(PROBE)] = direction
    return Bank(bank.card, bank.directions, patterns)


@torch.no_grad()
def losses(reader: Reader, made: Made, first: int, end: int) -> NDArray[np.float64]:
    """Negative log-likelihood of the tokens first to end - 1 under the unsteered model."""
    ids = torch.tensor([made.prompt + made.tokens[:end]])
    logits = reader.model(input_ids=ids, use_cache=False).logits[0, len(made.prompt) - 1 + first : -1].float()
    picked = torch.log_softmax(logits, dim=-1)[torch.arange(end - first), torch.tensor(made.tokens[first:end])]
    found: NDArray[np.float64] = -picked.double().numpy()
    return found


@torch.no_grad()
def agreement(reader: Reader, bank: Bank, made: Made, dose: float) -> float:
    """Share of a reply's tokens that the model would choose in its place while it is pushed from the first token on."""
    n = len(made.tokens)
    with pushed(reader.nn, bank, PROBE, len(made.prompt), 0, n, dose):
        logits = reader.model(input_ids=torch.tensor([made.prompt + made.tokens]), use_cache=False).logits[0, len(made.prompt) - 1 : -1]
    return float((logits.argmax(-1).numpy() == np.array(made.tokens)).mean())


def mean(values: NDArray[np.floating], prompts: NDArray[np.intp]) -> tuple[float, list[float]]:
    """With its 95 % bootstrap interval; replies to one prompt are drawn together."""
    return round(float(values.mean()), 3), [round(each, 3) for each in clustered(np.mean, prompts, values, draws=DRAWS)]


def outcome(reader: Reader, plain: list[Made], steered: list[Made], limit: float) -> dict[str, Any]:
    """Of the replies that fired early enough to be pushed to the end: who is under the threshold then, scores, perplexities.

    `gain` is the share that is under it less the share that is without a push, in the same replies.
    """
    prompts, under, gain, before, after, cost, own, differed = [], [], [], [], [], [], [], 0
    for i, (was, now) in enumerate(zip(plain, steered, strict=True)):
        first = was.fired + 1
        end = first + PUSH
        if was.fired < 0 or end > TOKENS:
            continue
        assert now is was or 0 <= now.first - first <= 1, "the push begins with the next token"
        if now.tokens[:first] != was.tokens[:first]:  # rounding in another batch chose another token before
            differed += 1
            continue
        prompts.append(i // SEEDS)
        under.append(float(now.average()[end - 1] < limit))
        gain.append(under[-1] - float(was.average()[end - 1] < limit))
        before.append(was.average()[was.fired])
        after.append(now.average()[end - 1])
        cost.append(losses(reader, now, first, end).mean())
        own.append(losses(reader, was, first, end).mean())
    groups = np.array(prompts)
    share, share95 = mean(np.array(under), groups)
    gained, gained95 = mean(np.array(gain), groups)
    harder, harder95 = mean(np.array(cost) - np.array(own), groups)
    return {
        "replies": len(under), "left_out": differed, "prompts": len(set(prompts)), "under_threshold": share, "under_threshold_ci95": share95,
        "gain": gained, "gain_ci95": gained95, "average_before": round(float(np.mean(before)), 3), "average_after": round(float(np.mean(after)), 3),
        "perplexity": round(float(np.exp(np.mean(cost))), 2), "perplexity_ratio": round(float(np.exp(harder)), 3),
        "perplexity_ratio_ci95": [round(float(np.exp(each)), 3) for each in harder95],
    }  # fmt: skip


def efficacy(model: LoadedModel, reader: Reader, bank: Bank) -> dict[str, Any]:
    limit = next(each.value for each in bank[PROBE].thresholds[f"ewma({HALF_LIFE})"] if each.rate == RATE)
    prompts = [reader.prompt(text) for text in CANARIES[PROBE] for _ in range(SEEDS)]
    random = Layers(reader, Corpus.read()).matched(bank[PROBE].layer, RANDOM)
    seeds = range(len(prompts))
    plain = loop(model, bank, prompts, 0.0, limit, seeds)
    found: dict[str, Any] = {
        "replies": len(prompts),
        "fired": sum(each.fired >= 0 for each in plain),
        "no_push": outcome(reader, plain, plain, limit),
    }
    say(found)
    lines = [line for line in (Path(__file__).parent / "neutral_prompts.txt").read_text().splitlines() if line.strip()][:NEUTRAL]
    neutral = loop(model, bank, [reader.prompt(line) for line in lines], 0.0, np.inf, tokens=48)
    for dose in DOSES:
        steered = loop(model, bank, prompts, dose, limit, seeds)
        found[f"pattern_{dose:g}"] = outcome(reader, plain, steered, limit) | {
            "neutral_agreement": round(float(np.mean([agreement(reader, bank, each, dose) for each in neutral])), 3)
        }
        say(found[f"pattern_{dose:g}"])
        some: dict[int, Made] = {}
        for i, direction in enumerate(random):
            mine = range(i, len(prompts), RANDOM)
            some |= zip(mine, loop(model, along(bank, direction), [prompts[each] for each in mine], dose, limit, mine), strict=True)
        found[f"random_{dose:g}"] = outcome(reader, plain, [some[i] for i in range(len(prompts))], limit) | {
            "neutral_agreement": round(
                float(np.mean([agreement(reader, along(bank, direction), each, dose) for direction in random for each in neutral])), 3
            )
        }
        say(found[f"random_{dose:g}"])
    found["neutral_no_push"] = round(float(np.mean([agreement(reader, bank, each, 0.0) for each in neutral])), 3)
    return found


def throughput(model: LoadedModel, bank: Bank, pairs: int) -> dict[str, Any]:
    """Steps with all rows pushed, each by its own dose, over steps with none."""
    with tempfile.TemporaryDirectory(prefix="barograph-") as folder, Drain(Path(folder) / "tap.sock") as drain, engine(model) as batcher:
        tap = Tap(model.wrapper, bank, batcher.rows, drain.path, model.name, limits=Limits((PROBE,), 0.2, 4096))
        steering: Any = tap._steering
        numbers = itertools.count()

        def push_all() -> None:
            streams = sorted(tap._streams.values())
            doses = np.linspace(-0.2, -0.001, len(streams))
            steers = [wire.Steer(next(numbers), stream, PROBE, float(dose), 4096) for stream, dose in zip(streams, doses, strict=True)]
            steering.hear([wire.encode(each) for each in steers], set(streams).__contains__)

        pushed_rows: list[int] = []

        def stop() -> None:
            pushed_rows.append(sum(int((pusher.doses != 0).sum()) for pusher in steering.pushers.values()))
            steering.stop()

        async def one(turn: int, i: int) -> None:
            key = f"{turn}-{i}"
            tap.begin(key, key, 0)
            async for _ in batcher.generate(key, model.tokenizer("The sea")["input_ids"], 12 * BLOCK, Sampling(0.0), ends=False):
                pass
            tap.end(key, 12 * BLOCK)

        turns = itertools.count()

        async def together() -> None:
            turn = next(turns)
            await asyncio.gather(*(one(turn, i) for i in range(AT_ONCE)))

        timed = asyncio.run(StepClock(model.module, push_all, stop).timed(pairs, together))
        assert not tap.failed, tap.failed
        assert max(pushed_rows) == AT_ONCE, "all rows were pushed"
        tap.close()
    values = ratios(timed)
    return {"rows": AT_ONCE, "ratio": round(float(np.median(values)), 4), "ratio_ci95": interval(values), "pairs": len(values)}


def say(what: Any) -> None:
    print(what, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    options = parser.parse_args()
    bank = Config().load_bank()
    model = load("smollm2", "float32")
    speed = throughput(model, bank, options.pairs)
    say(speed)
    reader = Reader(models.resolve("smollm2"), model.name, device="cpu", dtype="float32")
    emit(
        "steer", engine="transformers", model="SmolLM2-135M-Instruct", dtype="float32", probe=PROBE, push_tokens=PUSH,
        rule=f"{PROBE}.ewma({HALF_LIFE}) > fpr({RATE})", throughput=speed, **efficacy(model, reader, bank),
    )  # fmt: skip


if __name__ == "__main__":
    main()

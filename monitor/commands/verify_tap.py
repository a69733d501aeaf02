"""`barograph verify-tap`: whether the tap on this machine's vLLM tells the truth, what it costs, and proof of it to keep."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from monitor import models, wire
from monitor.config import Config
from monitor.engine.vllm_process import Reply, VllmProcess
from monitor.errors import BarographError
from monitor.pipeline.proof import Finding, Proof
from monitor.tap.recorder import Key, Recorder
from probes.passport import Passport

# Most a score may differ from the reference's, in standard deviations: the root of the mean square over all of them.
# The reference computes in float32; the others' rounding is what the tap cannot help.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
# Two replies may part only where the reference's logits of the two tokens are as near as this, which rounding can turn over.
NEAR = {"float32": 0.01, "bfloat16": 0.5, "float16": 0.1}
PROMPTS = (
    "Write a long story about a lighthouse keeper and the sea.",
    "Explain how bread is made, from the grain to the table.",
    "What should I pack for a week of walking in the mountains?",
    "Describe the street where you would like to live.",
    "How does a bicycle stay upright?",
    "Write a letter to a friend who has moved far away.",
    "Tell me what a day in the life of a tree is like.",
    "List the steps of planting a small garden and say why each matters.",
)
TOKENS = 48
ROUNDS = 10  # pairs of timed rounds, in the order on-off-off-on


Scores = Mapping[Key, NDArray[np.float32]]


def _finding(what: str, ok: bool, text: str) -> Finding:
    return Finding(what=what, ok=ok, text=text)


def complete(replies: Mapping[Key, Reply], recorder: Recorder) -> Finding:
    """Every produced token has exactly one score, in order."""
    wrong = [key for key, reply in replies.items() if recorder.positions(key) != list(range(len(reply.tokens)))]
    tokens = sum(len(reply.tokens) for reply in replies.values())
    lost = f"; {len(wrong)} of {len(replies)} replies are wrong, {recorder.dropped} frames dropped, {recorder.unknown} rows of nobody"
    return _finding("every token has one score", not wrong, f"{tokens} tokens of {len(replies)} replies" + (lost if wrong else ""))


def truthful(scores: Scores, reference: Scores, dtype: str, what: str) -> Finding:
    """Scores [tokens, probes] equal those of the reference. A read of the wrong tensor is far off, not a little."""
    limit = TOLERANCE.get(dtype, TOLERANCE["bfloat16"])
    gap = np.concatenate([(scores[key][: len(reference[key])] - reference[key]).ravel() for key in reference])
    spread = float(np.concatenate([each.ravel() for each in reference.values()]).std())
    rms = float(np.sqrt(np.mean(gap**2)))
    ok = rms <= limit and np.isfinite(rms)
    return _finding(
        what, bool(ok), f"differ by {rms:.2g} (root mean square; at most {limit:g} in {dtype}; the scores themselves spread {spread:.2g})"
    )


def unmixed(scores: Scores, reference: Scores) -> Finding:
    """In a batch, each reply's scores are nearest to its own reference, and not to a batchmate's."""
    keys = list(reference)
    length = min(len(reference[key]) for key in keys)
    own = np.stack([scores[key][:length] for key in keys])
    refs = np.stack([reference[key][:length] for key in keys])
    distance = np.sqrt(((own[:, None] - refs[None]) ** 2).mean(axis=(2, 3)))
    mixed = [keys[i][0] for i in np.flatnonzero(distance.argmin(axis=1) != np.arange(len(keys)))]
    nearest = float(np.min(distance + np.diag([np.inf] * len(keys))))
    return _finding("batchmates do not mix", not mixed, f"{len(keys)} replies at once; the nearest other one is {nearest:.2g} away")


def unchanged(
    with_tap: Mapping[Key, Reply], without: Mapping[Key, Reply], gap: Callable[[list[int], int, int], float], dtype: str
) -> Finding:
    """Greedy replies are the same without the tap, or part where two tokens are as good as equal.

    Below float32 torch.compile keeps a sum unrounded while nobody but the next kernel reads it. The tap reads it, so it is rounded
    as it would be in an eager model. `gap`: for a context, how far apart the reference's logits of two tokens are.
    """
    limit = NEAR.get(dtype, NEAR["bfloat16"])
    gaps = []
    for key, reply in with_tap.items():
        here, there = reply.tokens, without[key].tokens
        if here != there:
            i = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), -1)
            gaps.append(float("inf") if i < 0 else gap(reply.prompt + here[:i], here[i], there[i]))
    text = f"{len(with_tap) - len(gaps)} of {len(with_tap)} greedy replies are the same without it"
    if gaps:
        text += f"; the others part where the reference's logits are {max(gaps):.2g} apart (at most {limit:g} in {dtype})"
    return _finding("the tap changes no token", max(gaps, default=0.0) <= limit, text)


def cost(timed: Sequence[tuple[bool, float]]) -> Finding:
    """Time per output token with the tap and without it, in neighbouring rounds."""
    pairs = [(timed[i], timed[i + 1]) for i in range(0, len(timed) - 1, 2)]
    ratios = np.array([(b if a_on else a) / (a if a_on else b) for (a_on, a), (_, b) in pairs])
    draws = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    step = {on: 1000 * float(np.median([seconds for tapped, seconds in timed if tapped is on])) for on in (True, False)}
    text = f"speed with the tap over without: {np.median(ratios):.3f} [{low:.3f}, {high:.3f}]; {step[True]:.2f} ms v {step[False]:.2f} ms a token"
    return _finding("cost", bool(high >= 0.98), text)


class Verification:
    """Runs vLLM with the tap, and beside it without, asks both the same, and compares with transformers on the same weights."""

    def __init__(
        self, config: Config, model: str, arguments: Sequence[str], reference: str | None, say: Callable[[str], None], rounds: int = ROUNDS
    ) -> None:
        self.rounds = rounds
        self.config, self.model, self.arguments, self.reference_model, self.say = config, model, list(arguments), reference or model, say
        self.bank = config.load_bank()
        self.findings: list[Finding] = []

    def run(self) -> tuple[Proof, wire.Hello]:
        """The proof, and what the tap said it is. Raises BarographError when a server does not start, or no tap spoke."""
        with tempfile.TemporaryDirectory(prefix="barograph-") as name:
            folder = Path(name)
            recorder = Recorder(folder / "tap.sock")
            try:
                with self._server(folder, tap=False) as plain, self._server(folder, tap=True) as tapped:
                    alone, bare, together = asyncio.run(self._ask(plain, tapped, recorder))
            finally:
                recorder.close()
        if not recorder.hellos:
            raise BarographError("vLLM runs, but its tap never spoke; expected this project in the same environment as vLLM")
        hello = recorder.hellos[-1]
        self._compare(alone, bare, together, recorder, hello)
        proof = Proof(
            bank=self.bank.digest, passport=Passport.model_validate(hello.passport), engine=hello.engine, machine=machine(),
            time=datetime.now(UTC).isoformat(timespec="seconds"), findings=tuple(self.findings),
        )  # fmt: skip
        return proof, hello

    def _server(self, folder: Path, tap: bool) -> VllmProcess:
        self.say(f"starting vLLM {'with' if tap else 'without'} the tap")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        settings = self.config.model_dump(mode="json")
        settings["socket"] = str(folder / "tap.sock")
        settings["tap"]["enabled"] = tap
        settings["engine"]["listen"] = f"127.0.0.1:{port}"
        for room, key in (("gateway", "listen"), ("sidecar", "admin")):
            settings[room][key] = "{}:{}".format(*getattr(getattr(self.config, room), key))
        path = folder / f"{'tap' if tap else 'plain'}.yaml"
        path.write_text(yaml.safe_dump(settings))
        log = Path(tempfile.gettempdir()) / f"barograph-verify-{path.stem}.log"
        return VllmProcess(path, port, log, [self.model, *halved(self.arguments)])

    async def _ask(
        self, plain: VllmProcess, tapped: VllmProcess, recorder: Recorder
    ) -> tuple[dict[Key, Reply], dict[Key, Reply], dict[Key, Reply]]:
        """Replies with the tap one by one, the same without it, and with it all at once."""
        self.say("asking both the same, one by one and at once")
        alone: dict[Key, Reply] = {}
        bare: dict[Key, Reply] = {}
        for i, text in enumerate(PROMPTS):
            alone |= await tapped.chats([text], TOKENS, lambda _, i=i: f"alone-{i}")  # type: ignore[misc]
            bare |= await plain.chats([text], TOKENS, lambda _, i=i: f"alone-{i}")  # type: ignore[misc]
        together = await tapped.chats(PROMPTS, TOKENS, lambda i: f"together-{i}")
        timed = []
        for turn in range(2 * self.rounds + 1):
            self.say(f"measuring the cost, side by side: {turn} of {2 * self.rounds} rounds")
            on = turn % 4 in (1, 0)
            replies = await (tapped if on else plain).chats(PROMPTS, TOKENS, lambda i, turn=turn: f"cost-{turn}-{i}")  # type: ignore[misc]
            if turn:  # the first is for warming up
                timed.append((on, float(np.median([(r.times[-1] - r.times[0]) / (len(r.tokens) - 1) for r in replies.values()]))))
        self.findings.append(cost(timed))
        for _ in range(100):
            if all(key in recorder.ends for key in (*alone, *together)):
                break
            await asyncio.sleep(0.05)
        return alone, bare, together

    def _compare(
        self, alone: dict[Key, Reply], bare: dict[Key, Reply], together: dict[Key, Reply], recorder: Recorder, hello: wire.Hello
    ) -> None:  # fmt: skip
        alarm = recorder.failed[0] if recorder.failed else f"{len(recorder.ends)} generations seen"
        graphs = self.config.tap.mode == "traced" or "torch.compile on" in hello.engine
        text = hello.engine.rpartition("; ")[2].rstrip(")")
        self.findings[:0] = [_finding("scores fire", not recorder.failed, alarm), _finding("graphs stay on", graphs, text)]
        self.findings.append(complete(alone | together, recorder))
        if not self.findings[-1].ok:
            return
        self.say("computing the reference with transformers, in float32")
        reference, gap = self._reference(alone | together)
        single, batch = ({key: recorder.array(key) for key in replies} for replies in (alone, together))
        self.findings += [
            truthful(single, {key: reference[key] for key in alone}, hello.dtype, "scores of one reply at a time equal the reference"),
            truthful(batch, {key: reference[key] for key in together}, hello.dtype, "scores in a batch equal the reference"),
            unmixed(batch, {key: reference[key] for key in together}),
            unchanged(alone, bare, gap, hello.dtype),
        ]

    def _reference(self, replies: Mapping[Key, Reply]) -> tuple[Scores, Callable[[list[int], int, int], float]]:
        """Scores of all replies, and how far apart the logits of two tokens are."""
        import torch

        from probes.passport import fingerprint
        from probes.reader import Reader, ReadError
        from probes.reference import reply_scores

        try:
            reader = Reader(models.resolve(self.reference_model), self.config.model_name(), dtype="float32")
        except ReadError as error:
            raise BarographError(f"no reference: {error}") from None
        known = self.bank.card.passport.weights
        same = not known or fingerprint(reader.model) == known
        text = "those that the bank was calibrated on" if same else "not those that the bank was calibrated on: fit one, or recalibrate it"
        self.findings.append(_finding("weights", same, text))

        @torch.no_grad()
        def gap(context: list[int], first: int, second: int) -> float:
            logits = reader.model(torch.tensor([context], device=reader.model.device), logits_to_keep=1).logits[0, -1]
            return float((logits[first] - logits[second]).abs())

        scores = {key: reply_scores(reader.nn, self.bank, reply.prompt + reply.tokens, len(reply.prompt)) for key, reply in replies.items()}
        return scores, gap


def halved(arguments: Sequence[str]) -> list[str]:
    """vLLM's arguments with half the share of a GPU's memory: two servers stand side by side."""
    rest, share = [], 0.9
    given = iter(arguments)
    for each in given:
        if each.split("=")[0] == "--gpu-memory-utilization":
            share = float(each.split("=")[1] if "=" in each else next(given, share))
        else:
            rest.append(each)
    return [*rest, "--gpu-memory-utilization", f"{share / 2:.2f}"]


def machine() -> str:
    """Processor and accelerator in words."""
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    text = f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
    import torch

    return f"{text}, {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else text


def report(proof: Proof, hello: wire.Hello) -> str:
    """Plain text, to paste into a ticket."""
    lines = [
        f"barograph verify-tap, {proof.time}",
        f"machine: {proof.machine}",
        f"engine:  {proof.engine}",
        f"model:   {hello.model} in {hello.dtype}, {len(hello.probes)} probes on layers {', '.join(map(str, sorted(set(hello.layers))))}",
        *(f"{'PASS' if each.ok else 'FAIL'}  {each.what}: {each.text}" for each in proof.findings),
        f"verdict: {'the tap tells the truth here' if proof.ok else 'do not trust this tap; see FAIL'}",
    ]
    return "\n".join(lines)

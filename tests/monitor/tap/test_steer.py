"""Pushes: the operator to the bit, the bookkeeping of who is pushed when, and the real model against transformers' own states."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor import wire
from monitor.engine.batcher import Batcher
from monitor.engine.loading import LoadedModel, load
from monitor.engine.sampler import Sampling
from monitor.tap import project
from monitor.tap.steer import Limits, Pusher, Steering
from monitor.tap.tap import Tap
from probes.bank import Bank, BankError
from probes.reference import reply_scores
from tests.banks import steerable
from tests.monitor.tap.test_tap import Collected, generate
from tests.pushes import pushed

PROBE = "desperation"


@pytest.fixture(scope="module")
def bank(bank: Bank) -> Bank:
    """As if of both probes it had been shown that steering along them does something."""
    return steerable(steerable(bank, PROBE), "panic").with_card("calm", causal=False)


@pytest.fixture(autouse=True)
def _no_failures() -> Iterator[None]:
    project.failures.clear()
    yield
    assert not project.failures


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_rows_without_a_dose_stay_to_the_bit_and_the_others_move_by_it(pair: bool, dtype: torch.dtype, compiled: bool) -> None:
    torch.manual_seed(0)
    hidden, residual = torch.randn(9, 64, dtype=dtype), torch.randn(9, 64, dtype=dtype)
    hidden[3, :], hidden[4, 0], hidden[6, 1] = float("inf"), -0.0, float("nan")
    before = hidden.clone()
    pusher = Pusher(torch.nn.functional.normalize(torch.randn(2, 64)), 16)
    pusher.doses[1, 0], pusher.doses[5, 1] = -0.1, 0.05

    def layer(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        pusher((one, other) if pair else one[None])
        return one + other

    run = torch.compile(layer, fullgraph=True) if compiled else layer
    after = run(hidden, residual)
    kept = [0, 2, 3, 4, 6, 7, 8]
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(hidden[kept].view(bits), before[kept].view(bits))
    torch.testing.assert_close(after, hidden + residual, equal_nan=True)
    for row, (column, dose) in {1: (0, -0.1), 5: (1, 0.05)}.items():
        state = before[row].float() + (residual[row].float() if pair else 0)
        wanted = before[row].float() + dose * state.norm() * pusher.patterns[column]
        torch.testing.assert_close(hidden[row].float(), wanted, atol=3e-2 if dtype == torch.bfloat16 else 1e-5, rtol=0)


def test_a_step_larger_than_the_buffer_is_a_failure_and_no_exception() -> None:
    Pusher(torch.ones(1, 4), 2)(torch.zeros(3, 4))
    assert project.failures.pop() == "ValueError: a step of 3 tokens; expected at most 2"


LIMITS = Limits((PROBE, "panic"), 0.1, 64)


def steer(push: int = 1, stream: int = 7, probe: str = PROBE, dose: float = -0.1, tokens: int = 3) -> bytes:
    return wire.encode(wire.Steer(push, stream, probe, dose, tokens))


def step(steering: Steering, streams: list[int], positions: list[int], made: list[int] | None = None) -> dict[int, float]:
    """Row → dose of desperation and panic together, in a step whose rows are the streams' in order."""
    rows = np.arange(len(streams))
    steering.aim(np.array(streams), np.array(positions), rows, np.array(positions if made is None else made))
    found = sum(pusher.doses.sum(dim=1) for pusher in steering.pushers.values())
    assert isinstance(found, torch.Tensor)
    return {int(row): round(float(found[row]), 4) for row in torch.nonzero(found).flatten()}


def test_a_push_begins_with_the_next_token_and_ends_after_so_many(bank: Bank) -> None:
    steering = Steering(bank, LIMITS, 16)
    assert step(steering, [7, 8], [0, 0]) == {}
    assert steering.idle
    steering.hear([steer(5)], {7, 8}.__contains__)
    assert step(steering, [3, 7, 8], [4, 6, 2]) == {1: -0.1}
    assert steering.answers() == [wire.Steered(5, 6, 0)]
    assert step(steering, [7], [7]) == {0: -0.1}
    assert step(steering, [8], [3]) == {}, "a step without the stream"
    assert step(steering, [8, 7], [4, 8]) == {1: -0.1}
    assert steering.answers() == []
    assert step(steering, [7], [9]) == {}
    assert steering.answers() == [wire.Steered(5, 6, 3)]
    # What was pushed is pushed again when it is computed again, so that a preempted reply goes on from the same states.
    assert step(steering, [7] * 6, [4, 5, 6, 7, 8, 9], [10] * 6) == {2: -0.1, 3: -0.1, 4: -0.1}
    steering.end(7)
    steering.hear([], {8}.__contains__)
    assert step(steering, [7], [8]) == {}
    assert step(steering, [7], [8]) == {}
    assert steering.idle


def test_many_streams_with_doses_of_their_own(bank: Bank) -> None:
    steering = Steering(bank, LIMITS, 256)
    doses = np.linspace(-0.1, 0.1, 50)
    streams = np.random.default_rng(0).permutation(200)[:50]
    steering.hear(
        [steer(i, int(s), "panic" if i % 2 else PROBE, float(d)) for i, (s, d) in enumerate(zip(streams, doses, strict=True))],
        lambda _: True,
    )
    found = step(steering, list(range(200)), [9] * 200)
    assert found == {int(s): pytest.approx(float(d), abs=1e-4) for s, d in zip(streams, doses, strict=True)}
    assert sorted(answer.push for answer in steering.answers()) == list(range(50))


def test_a_push_that_is_ended_early_and_one_that_follows_it(bank: Bank) -> None:
    steering = Steering(bank, LIMITS, 4)
    running = {7}.__contains__
    steering.hear([steer(1)], running)
    step(steering, [7], [5])
    steering.hear([steer(1, tokens=0), steer(2, dose=0.05)], running)
    assert steering.answers() == [wire.Steered(1, 5, 1)]
    assert step(steering, [7], [6]) == {0: 0.05}
    steering.hear([steer(3), steer(3, tokens=0), steer(2, tokens=0), steer(2, tokens=0)], running)
    assert [answer.why for answer in steering.answers()] == ["", "the stream is being pushed already"]
    steering.hear([steer(4), steer(4, tokens=0)], running)
    assert step(steering, [7], [7]) == {}
    assert steering.answers() == [wire.Steered(4, 0, 0)]


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (steer(stream=8), "the stream is over"),
        (steer(probe="joy"), "probe 'joy' is not among tap.steer.probes"),
        (steer(dose=-0.2), "dose -0.2; expected one up to 0.1 either way"),
        (steer(dose=float("nan")), "dose nan; expected one up to 0.1 either way"),
        (steer(dose=0.0), "dose 0; expected one up to 0.1 either way"),
        (steer(tokens=65), "65 tokens; expected 1 to 64"),
        (steer(tokens=-1), "-1 tokens; expected 1 to 64"),
        (steer(push=2**63), "push 9223372036854775808; expected a number up to 2**62"),
    ],
)
def test_what_is_out_of_bounds_is_refused(bank: Bank, packet: bytes, why: str) -> None:
    steering = Steering(bank, LIMITS, 4)
    steering.hear([packet], {7}.__contains__)
    assert [answer.why for answer in steering.answers()] == [why]
    assert step(steering, [7, 8], [1, 1]) == {}


def test_nothing_is_pushed_before_a_push_has_begun(bank: Bank) -> None:
    """A reply that is computed again in pieces, and had not had its first pushed token yet."""
    steering = Steering(bank, LIMITS, 16)
    steering.hear([steer(1, tokens=8)], {7}.__contains__)
    assert step(steering, [7] * 5, [-2, -1, 0, 1, 2], [10] * 5) == {}
    assert step(steering, [7] * 9, list(range(3, 12)), [10] * 9) == {7: -0.1, 8: -0.1}
    assert steering.answers() == [wire.Steered(1, 10)]


@settings(max_examples=200)
@given(st.data())
def test_doses_are_those_of_a_plain_model(bank: Bank, data: st.DataObject) -> None:
    """Pushes, ends and preemptions in any order, against a dictionary."""
    steering = Steering(bank, LIMITS, 64)
    made = dict.fromkeys(range(4), 0)
    plain: dict[int, list[int]] = {}  # stream → number, first, tokens
    for number in range(data.draw(st.integers(1, 25))):
        what, stream = (
            data.draw(st.sampled_from(["push", "step", "step", "again", "stop", "end"])),
            data.draw(st.sampled_from(sorted(made))),
        )
        if what == "push":
            tokens = data.draw(st.integers(1, 4))
            steering.hear([steer(number, stream, tokens=tokens)], made.__contains__)
            known = plain.get(stream)
            if known is None or (known[1] >= 0 and made[stream] > known[1] + known[2]) or known[2] == 0 or known[3]:
                plain[stream] = [number, -1, tokens, 0]
        elif what == "stop" and stream in plain and not plain[stream][3]:
            known = plain[stream]
            steering.hear([steer(known[0], stream, tokens=0)], made.__contains__)
            known[2] = max(0, made[stream] - known[1]) if known[1] >= 0 else 0
            known[3] = 1
        elif what == "end":
            steering.end(stream)
            steering.hear([], made.__contains__)
            plain.pop(stream, None)
            made[stream] = 0
        elif what in ("step", "again"):
            start = data.draw(st.integers(-2, made[stream])) if what == "again" else made[stream]
            positions = list(range(start, made[stream] + 1))
            known = plain.get(stream)
            if known is not None and known[1] < 0 and not known[3]:
                known[1] = made[stream]
            wanted = {
                i: -0.1 for i, p in enumerate(positions) if known is not None and known[1] >= 0 and known[1] <= p < known[1] + known[2]
            }
            if known is not None and known[1] >= 0 and made[stream] >= known[1] + known[2]:
                known[3] = 1
            assert step(steering, [stream] * len(positions), positions, [made[stream]] * len(positions)) == wanted
            made[stream] += 1
    for stream in made:
        steering.end(stream)
    steering.hear([], {}.__contains__)
    assert step(steering, [0], [0]) == {}


@pytest.mark.parametrize("packet", [b"", b"\xc1", b"x" * 1024, wire.encode(wire.Check(True, 1, 0.0)), steer()[:-1]])
def test_what_is_no_steer_changes_nothing(bank: Bank, packet: bytes) -> None:
    steering = Steering(bank, LIMITS, 4)
    steering.hear([packet], {7}.__contains__)
    assert steering.idle


def test_probes_that_cannot_be_steered_along(bank: Bank) -> None:
    with pytest.raises(BankError, match="names the probe 'calm', whose card does not say causal: true"):
        Steering(bank, Limits(("calm",), 0.1, 8), 4)
    with pytest.raises(BankError, match="names the probe 'joyful', which is not live; live are: desperation"):
        Steering(bank, Limits(("joyful",), 0.1, 8), 4)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load("smollm2", "float32")


@pytest.fixture
def rig(model: LoadedModel, bank: Bank) -> Iterator[tuple[Batcher, Tap, Collected, list[bytes], list[wire.Steered]]]:
    folder = Path(tempfile.mkdtemp(prefix="barograph-"))
    batcher = Batcher(model.module, set(model.eos), 16, 8192, share=False)
    tap = Tap(model.wrapper, bank, batcher.rows, folder / "none.sock", model.name, limits=LIMITS)
    collected, said, heard = Collected(tap), [], []
    tap.sender.hear = lambda: [said.pop()] if said else []  # type: ignore[method-assign]
    tap.sender.steered = heard.extend  # type: ignore[method-assign]
    batcher.start()
    yield batcher, tap, collected, said, heard
    batcher.stop()
    tap.close()
    shutil.rmtree(folder)


def states(model: LoadedModel, bank: Bank, prompt: list[int], produced: list[int], first: int, tokens: int, dose: float) -> np.ndarray:
    """Scores [tokens, k] from transformers' own pass over the whole text, where the rows of a push are pushed by hand."""
    before = model.module.config._attn_implementation
    model.module.set_attn_implementation("eager")
    try:
        with pushed(model.wrapper, bank, PROBE, len(prompt), first, tokens, dose):
            return reply_scores(model.wrapper, bank, prompt + produced, len(prompt))
    finally:
        model.module.set_attn_implementation(before)


@pytest.mark.parametrize("beside", ["", "a long prompt"])
def test_one_reply_is_pushed_and_its_neighbours_do_not_notice(rig: Any, model: LoadedModel, bank: Bank, beside: str) -> None:
    batcher, tap, collected, said, heard = rig
    long_prompt = model.tokenizer("the water rose " * 700)["input_ids"]
    prompts = [model.tokenizer(text)["input_ids"] for text in ("Please, I beg you", "The water rose and he", "Once upon a time")]

    async def long(turn: str) -> None:
        await asyncio.sleep(0.5)
        if beside:
            await generate(batcher, tap, f"{turn}9#0", long_prompt, 4, Sampling(0.0))

    async def run(turn: str) -> list[list[int]]:
        reading = asyncio.ensure_future(long(turn))  # its prompt takes several steps, in which it gets no token
        found = await asyncio.gather(
            *(generate(batcher, tap, f"{turn}{i}#0", prompt, 24, Sampling(0.0)) for i, prompt in enumerate(prompts))
        )
        await reading
        return found

    def when_the_first_has_eight(streams: Any, positions: Any, scores: Any) -> None:
        collected._scores(streams, positions, scores)
        numbers = [stream for stream, name in collected.begun.items() if name == "s0#0"]
        if numbers and len(collected.scores.get("s0#0", {})) == 8:
            said.append(steer(1, numbers[0], dose=-0.1, tokens=10))

    plain = asyncio.run(run("p"))
    tap.sender.scores = when_the_first_has_eight
    steered = asyncio.run(run("s"))
    assert heard == [wire.Steered(1, 8, 0), wire.Steered(1, 8, 10)]
    assert not collected.failed
    assert steered[0] != plain[0], "a dose of a tenth of the norm changes what greedy decoding says"
    assert steered[1:] == plain[1:]
    for i in (1, 2):
        for position, row in collected.scores[f"p{i}#0"].items():
            # To the bit where both runs had the same batches, which a prompt that comes when it comes prevents.
            np.testing.assert_allclose(row, collected.scores[f"s{i}#0"][position], atol=1e-4 if beside else 0, rtol=0)
    got = np.stack([collected.scores["s0#0"][p] for p in range(24)])
    np.testing.assert_allclose(got, states(model, bank, prompts[0], steered[0], 8, 10, -0.1), atol=2e-3)
    # The meter never measures its own hand: at the probe's layer and below, the text alone decides the scores.
    here = np.flatnonzero(np.array(bank.layers) <= bank[PROBE].layer)
    unpushed = states(model, bank, prompts[0], steered[0], 0, 0, 0.0)
    np.testing.assert_allclose(got[:, here], unpushed[:, here], atol=2e-3)
    above = np.flatnonzero(np.array(bank.layers) > bank[PROBE].layer)
    assert np.abs(got[8:, above] - unpushed[8:, above]).max() > 0.1

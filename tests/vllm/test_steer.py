"""Pushes on a real vLLM with its compiled graph: those rows, those tokens, and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from monitor import models, wire
from monitor.config import Config
from monitor.engine.vllm_process import Reply, VllmProcess
from monitor.errors import BarographError
from monitor.tap.recorder import Key, Recorder
from probes.reader import Reader
from probes.reference import reply_scores
from tests.pushes import pushed
from tests.stack import eventually
from tests.vllm.conftest import configured, prompts

pytestmark = pytest.mark.timeout(1200)
STREAMS = 24
TOKENS = 48
ATTEMPTS = 5
PUSHED = {i: (1000 + i, -0.02 - 0.008 * i, 10 + i) for i in range(10)}  # number, dose, tokens: each its own
STEER = {"probes": ["hostility"], "max_dose": 0.1, "max_tokens": 64}


@pytest.fixture(scope="module")
def recorder(runtime: Path) -> Iterator[Recorder]:
    listening = Recorder(runtime / "steer.sock")
    yield listening
    listening.close()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, runtime: Path, environment: dict[str, str], recorder: Recorder
) -> Iterator[VllmProcess]:
    with configured(tmp_path_factory.mktemp("steered"), recorder.path, environment, "--no-enable-prefix-caching", steer=STEER) as running:
        yield running


def ask(server: VllmProcess, turn: str) -> dict[Key, Reply]:
    return asyncio.run(server.chats(prompts(STREAMS, 60, seed=4), TOKENS, lambda i: f"{turn}{i}"))


def in_time(server: VllmProcess, recorder: Recorder, pushes: set[int], prepare: Callable[[str], None]) -> tuple[str, dict[Key, Reply]]:
    """What was asked after `prepare(turn)` had said which replies to push, and that turn: the first in which all pushes came in time.

    A machine that starves the recorder for seconds makes a push come when its reply is over, and the tap drop frames.
    """
    for attempt in range(ATTEMPTS):
        turn, dropped = f"{min(pushes)}-{attempt}-", recorder.dropped
        recorder.steered.clear()
        prepare(turn)
        replies = ask(server, turn)
        with contextlib.suppress(AssertionError):
            eventually(lambda: replies.keys() <= recorder.ends.keys(), "all streams have ended")  # noqa: B023
            eventually(lambda: pushes <= {each.push for each in recorder.steered}, "all are answered", 10)
            if recorder.dropped == dropped and not [each for each in recorder.steered if each.why == "the stream is over"]:
                return turn, replies
    raise AssertionError(f"of {ATTEMPTS} turns none had all its pushes in time: {recorder.steered}")


def test_ten_of_many_are_pushed_each_by_its_own_dose(server: VllmProcess, recorder: Recorder) -> None:
    def prepare(turn: str) -> None:
        for i, (number, dose, tokens) in PUSHED.items():
            recorder.steer((f"{turn}{i}", 0), 4, number, "hostility", dose, tokens)

    plain = ask(server, "p")
    assert recorder.hellos[-1].steers == ["hostility"]
    turn, steered = in_time(server, recorder, {number for number, _, _ in PUSHED.values()}, prepare)
    assert not recorder.failed
    assert not [each for each in recorder.steered if each.why]
    began = {each.push: each.first for each in recorder.steered if not each.tokens}
    assert sorted(began) == sorted(number for number, _, _ in PUSHED.values())
    over = {each.push: (each.first, each.tokens) for each in recorder.steered if each.tokens}
    reader = Reader(models.resolve("smollm2"), "smollm2", device="cpu", dtype="float32")
    bank = Config().load_bank()
    for i in range(STREAMS):
        key = (f"{turn}{i}", 0)
        reply = steered[key]
        assert recorder.positions(key) == list(range(TOKENS))
        if i not in PUSHED:
            assert reply.tokens == plain[f"p{i}", 0].tokens, "a neighbour noticed"
            continue
        number, dose, tokens = PUSHED[i]
        first = began[number]
        assert first >= 4
        assert reply.tokens[:first] == plain[f"p{i}", 0].tokens[:first], "what came before the push is as without it"
        if first + tokens < TOKENS:
            assert over[number] == (first, tokens)
        with pushed(reader.nn, bank, "hostility", len(reply.prompt), first, min(tokens, TOKENS - first), dose):
            reference = reply_scores(reader.nn, bank, reply.prompt + reply.tokens, len(reply.prompt))
        assert float(np.abs(recorder.array(key) - reference).max()) < 1e-3, (i, first, dose, tokens)


def test_what_is_out_of_bounds_is_refused_and_costs_nothing(server: VllmProcess, recorder: Recorder) -> None:
    def prepare(turn: str) -> None:
        key = (f"{turn}0", 0)
        recorder.steer(key, 4, 1, "hostility", -0.2, 8)
        recorder.steer(key, 4, 2, "panic", -0.1, 8)
        recorder.say(key, 4, lambda _: b"\xc1nonsense")
        recorder.say(key, 4, lambda _: wire.encode(wire.Check(True, 1, 0.0)))

    _, replies = in_time(server, recorder, {1, 2}, prepare)
    said = {each.push: each.why for each in recorder.steered}
    assert said == {1: "dose -0.2; expected one up to 0.1 either way", 2: "probe 'panic' is not among tap.steer.probes"}
    assert len(replies) == STREAMS
    assert not recorder.failed
    assert "Traceback" not in server.log.read_text(errors="replace")


@pytest.mark.parametrize(
    ("arguments", "mode", "why"),
    [
        ([], "compiled", "tap.steer needs --no-enable-prefix-caching"),
        (["--no-enable-prefix-caching", "--enforce-eager"], "traced", "tap.steer needs tap.mode compiled"),
    ],
)
def test_where_a_push_would_reach_others_the_start_is_refused(
    tmp_path: Path, runtime: Path, environment: dict[str, str], arguments: list[str], mode: str, why: str
) -> None:
    with (
        pytest.raises(BarographError, match=why),
        configured(tmp_path, runtime / "none.sock", environment, *arguments, mode=mode, steer=STEER),
    ):
        pass

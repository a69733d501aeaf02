"""The tap on vLLM's bookkeeping, without vLLM: a small model of transformers behind as much of a runner as the tap sees.

What vLLM itself does with it is in tests/vllm. Here stands what cannot run there: the second model runner, ranks, failures.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from monitor import wire
from monitor.tap import project
from monitor.tap.steer import Limits
from monitor.tap.vllm import VllmTap, _batch, _graphs, owned
from probes.bank import Bank, BankError
from tests.banks import random_bank

LAYERS = (1, 4, 2)


def new(request: str, prompt: list[int], **sampling: Any) -> SimpleNamespace:
    values = {"eos_token_id": 2, "stop_token_ids": [], "max_tokens": 16, **sampling}
    return SimpleNamespace(req_id=request, prompt_token_ids=prompt, prompt_embeds=None, sampling_params=SimpleNamespace(**values))


class Runner:
    """vLLM's first model runner, as far as the tap sees it. `step` gives each request in the batch its tokens of this step."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.device = torch.device("cpu")
        self.execute_model_state: Any = None
        self.asynchronous = False
        self.sampled: list[list[int]] = []
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(
                hf_text_config=model.config, dtype=torch.float32, quantization=None, max_model_len=256, enforce_eager=False
            ),
            scheduler_config=SimpleNamespace(max_num_seqs=4, max_num_batched_tokens=64, async_scheduling=False),
            speculative_config=None,
            compilation_config=SimpleNamespace(max_cudagraph_capture_size=None, mode=3, cudagraph_mode=SimpleNamespace(name="PIECEWISE")),
            cache_config=SimpleNamespace(cache_dtype="auto", enable_prefix_caching=False),
            parallel_config=SimpleNamespace(prefill_context_parallel_size=1, tensor_parallel_size=1, pipeline_parallel_size=1),
            lora_config=None,
            additional_config={},
        )
        self.states: dict[int, np.ndarray] = {}
        for layer in LAYERS:
            model.model.layers[layer].register_forward_hook(  # type: ignore[index, union-attr]
                lambda module, args, output, layer=layer: self.states.__setitem__(layer, output[0].numpy())
            )

    def get_model(self) -> torch.nn.Module:
        return self.model

    def execute_model(self, scheduled: Any) -> None:
        if not scheduled.tokens:
            self.execute_model_state = None
            return
        self.execute_model_state = SimpleNamespace(**self._set_out(scheduled))
        with torch.no_grad():
            self.model(torch.tensor([[token for tokens in scheduled.tokens.values() for token in tokens]]))

    def _set_out(self, scheduled: Any) -> dict[str, Any]:
        self._prepare_inputs(scheduled)
        return {}

    def _prepare_inputs(self, scheduled: Any) -> None:
        counts = [len(tokens) for tokens in scheduled.tokens.values()]
        self.query_start_loc = SimpleNamespace(np=np.concatenate([[0], np.cumsum(counts), [0, 0]]))
        self.input_batch = SimpleNamespace(
            num_reqs=len(counts), req_ids=[*scheduled.tokens, "stale"], num_computed_tokens_cpu=np.array([*scheduled.computed, 99])
        )

    def sample_tokens(self, grammar: Any) -> Any:
        output = SimpleNamespace(sampled_token_ids=self.sampled)
        return SimpleNamespace(get_output=lambda: output) if self.asynchronous else output


class SecondRunner(Runner):
    """vLLM's second model runner: the step's batch is what `prepare_inputs` returns."""

    def _set_out(self, scheduled: Any) -> dict[str, Any]:
        return {"input_batch": self.prepare_inputs(scheduled)}

    def prepare_inputs(self, scheduled: Any) -> Any:
        counts = [len(tokens) for tokens in scheduled.tokens.values()]
        return SimpleNamespace(
            req_ids=list(scheduled.tokens), num_reqs=len(counts), num_draft_tokens_per_req=None,
            query_start_loc_np=np.concatenate([[0], np.cumsum(counts), [0, 0]]), num_computed_tokens_np=np.array(scheduled.computed),
        )  # fmt: skip


def scheduled(tokens: dict[str, list[int]], computed: list[int], news: Any = (), finished: Any = (), drafts: Any = None) -> SimpleNamespace:
    return SimpleNamespace(
        tokens=tokens, total_num_scheduled_tokens=sum(map(len, tokens.values())), computed=computed, scheduled_new_reqs=list(news), finished_req_ids=set(finished),
        scheduled_spec_decode_tokens=drafts or {},
    )  # fmt: skip


class Sent:
    """Stands in the place of the socket."""

    def __init__(self, tap: VllmTap) -> None:
        self.rows: list[tuple[int, int, np.ndarray]] = []
        self.begun: list[wire.Begin] = []
        self.ended: list[tuple[int, int]] = []
        self.failed: list[str] = []
        tap.sender.scores = self._scores  # type: ignore[method-assign]
        tap.sender.begin = self.begun.append  # type: ignore[method-assign]
        tap.sender.end = lambda end: self.ended.append((end.stream, end.tokens))  # type: ignore[method-assign]
        tap.sender.fail = self.failed.append  # type: ignore[method-assign]
        self.checks: list[wire.Check] = []
        tap.sender.prove = self.checks.append  # type: ignore[method-assign]

    def _scores(self, streams: Any, positions: Any, scores: Any) -> None:
        self.rows += [(int(s), int(p), row.copy()) for s, p, row in zip(streams, positions, scores, strict=True)]

    def places(self) -> list[tuple[int, int]]:
        return [(stream, position) for stream, position, _ in self.rows]


def model_of(tiny: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny, dtype="float32").eval()


@pytest.fixture
def runner(tiny: str) -> Runner:
    return Runner(model_of(tiny))


@pytest.fixture
def bank(tmp_path: Path, runner: Runner) -> Bank:
    return Bank.load(random_bank(tmp_path / "bank", LAYERS, 2, runner.model.config))


@pytest.fixture
def tap(tmp_path: Path, runner: Runner, bank: Bank) -> Iterator[VllmTap]:
    made = VllmTap(runner, bank, tmp_path / "none.sock", "tiny", "0.32.0")
    yield made
    made.sender.close()
    project.failures.clear()


def expected(runner: Runner, bank: Bank, row: int) -> np.ndarray:
    weight, bias = bank.affine()
    return np.array([runner.states[layer][row] @ weight[:, k] + bias[k] for k, layer in enumerate(bank.layers)])


def step(runner: Runner, plan: SimpleNamespace, sampled: list[list[int]]) -> Any:
    runner.execute_model(plan)
    runner.sampled = sampled
    return runner.sample_tokens(None)


def test_scores_are_those_of_the_rows_that_were_sampled(runner: Runner, bank: Bank, tap: VllmTap) -> None:
    """Probes are given in the bank's order though layers are read in theirs; a prompt's last row gives the first score."""
    sent = Sent(tap)
    step(runner, scheduled({"a": [5, 6, 7], "b": [8, 9]}, [0, 0], [new("a", [5, 6, 7]), new("b", [8, 9, 10, 11])]), [[20], []])
    assert sent.places() == [(0, 0)]
    assert np.allclose(sent.rows[0][2], expected(runner, bank, 2), atol=1e-4)
    step(runner, scheduled({"b": [10, 11], "a": [20]}, [2, 3]), [[30], [21]])
    assert sent.places()[1:] == [(1, 0), (0, 1)]
    assert np.allclose(sent.rows[1][2], expected(runner, bank, 1), atol=1e-4)
    assert np.allclose(sent.rows[2][2], expected(runner, bank, 2), atol=1e-4)
    step(runner, scheduled({}, [], finished=["a", "b"]), [])
    assert sorted(sent.ended) == [(0, 2), (1, 1)]
    assert sent.failed == []


def test_the_hello_says_what_runs(tap: VllmTap, bank: Bank) -> None:
    hello = tap.sender.hello
    assert "compiled; torch.compile on, CUDA graphs piecewise" in hello.engine
    assert (hello.probes, hello.layers) == (list(bank.names), list(bank.layers))
    assert hello.passport["engine"] == "vllm 0.32.0"


def test_with_asynchronous_scheduling_the_next_step_runs_before_the_tokens_are_known(runner: Runner, bank: Bank, tap: VllmTap) -> None:
    sent = Sent(tap)
    runner.asynchronous = True
    first = step(runner, scheduled({"a": [5, 6]}, [0], [new("a", [5, 6])]), [[20]])
    wanted = expected(runner, bank, 1)
    second = step(runner, scheduled({"a": [20]}, [2]), [[2]])  # the end of the reply
    third = step(runner, scheduled({"a": [2]}, [3]), [[9]])  # under way when it ended
    assert sent.rows == []
    for output in (first, second, third):
        output.get_output()
    assert sent.places() == [(0, 0), (0, 1)]
    assert np.allclose(sent.rows[0][2], wanted, atol=1e-4)


def test_embedding_requests_produce_nothing_and_prompts_may_come_as_embeddings(runner: Runner, tap: VllmTap) -> None:
    sent = Sent(tap)
    pooled = SimpleNamespace(req_id="p", prompt_token_ids=[1], prompt_embeds=None, sampling_params=None)
    embedded = new("e", [])
    embedded.prompt_token_ids, embedded.prompt_embeds = None, torch.zeros(2, 32)
    step(runner, scheduled({"p": [1], "e": [3, 3]}, [0, 0], [pooled, embedded]), [[], [4]])
    assert [begin.request for begin in sent.begun] == ["e"]
    assert sent.places() == [(0, 0)]


def test_an_exception_inside_the_graph_disarms_the_tap_and_the_generation_goes_on(
    runner: Runner, tap: VllmTap, caplog: pytest.LogCaptureFixture
) -> None:
    sent = Sent(tap)
    tap._readers[0].scores = torch.zeros(1, 2)  # no room for a step of two tokens
    with caplog.at_level(logging.ERROR):
        for i in range(3):
            output = step(runner, scheduled({"a": [5, 6]}, [i], [new("a", [5, 6])]), [[20]])
            assert output.sampled_token_ids == [[20]]
    assert sent.failed == ["RuntimeError: ValueError: a step of 2 tokens; expected at most 1"]
    assert sent.rows == []
    assert caplog.text.count("tap disarmed, generation goes on unscored") == 1


@pytest.mark.parametrize("broken", ["begin", "step", "settle", "end"])
def test_an_exception_of_the_bookkeeping_disarms_the_tap(
    runner: Runner, tap: VllmTap, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = Sent(tap)

    def fail(*args: Any) -> Any:
        raise ValueError(broken)

    monkeypatch.setattr(tap._requests, broken, fail)
    output = step(runner, scheduled({"a": [5]}, [0], [new("a", [5])]), [[20]])
    assert output.sampled_token_ids == [[20]]
    assert sent.failed == [f"ValueError: {broken}"]


def test_the_second_model_runner_keeps_its_batch_in_the_state() -> None:
    """As vLLM 0.32 lays it out: arrays longer than the batch, drafts counted for each request."""
    state = SimpleNamespace(input_batch=SimpleNamespace(
        num_reqs=2, req_ids=["b", "a"], query_start_loc_np=np.array([0, 4, 5, 5], np.int32),
        num_computed_tokens_np=np.array([6, 9, 77], np.int32), num_draft_tokens_per_req=np.array([3, 0], np.int32),
    ))  # fmt: skip
    requests, starts, computed, drafts = _batch(SimpleNamespace(execute_model_state=state), None)
    assert (requests, starts.tolist(), computed.tolist()) == (["b", "a"], [0, 4, 5], [6, 9])
    assert drafts is not None
    assert drafts.tolist() == [3, 0]
    state.input_batch.num_draft_tokens_per_req = None
    assert _batch(SimpleNamespace(execute_model_state=state), None)[3] is None


def test_drafts_of_the_first_model_runner(runner: Runner, tap: VllmTap) -> None:
    sent = Sent(tap)
    step(runner, scheduled({"a": [5, 6]}, [0], [new("a", [5, 6])]), [[20]])
    plan = scheduled({"a": [20, 21, 22]}, [2], drafts={"a": [21, 22]})
    step(runner, plan, [[21, 30]])  # the first guess stands, the second does not
    assert sent.places() == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: setattr(c.scheduler_config, "max_num_seqs", 4096), "--max-num-seqs 4096 is more than a tap can follow.*at most 1024"),
        (lambda c: setattr(c.parallel_config, "prefill_context_parallel_size", 2), "supported are tensor, pipeline and data parallelism"),
        (lambda c: setattr(c, "additional_config", "text"), "additional_config is a str; expected a dict"),
    ],
)
def test_what_is_not_supported_ends_the_start(tmp_path: Path, runner: Runner, bank: Bank, change: Any, expected: str) -> None:
    change(runner.vllm_config)
    with pytest.raises(BankError, match=expected):
        VllmTap(runner, bank, tmp_path / "none.sock", "tiny", "0.32.0")


def test_layers_on_two_pipeline_ranks_end_the_start(tmp_path: Path, runner: Runner, bank: Bank) -> None:
    """vLLM puts a layer without parameters where another rank has the real one."""
    runner.model.model.layers[1] = torch.nn.Identity()  # type: ignore[index, union-attr]
    assert owned(runner, bank.layers) == [2, 4]
    with pytest.raises(BankError, match=r"this pipeline rank has only layers \[2, 4\] of the tapped \[1, 2, 4\]; expected all on one rank"):
        VllmTap(runner, bank, tmp_path / "none.sock", "tiny", "0.32.0")


def test_an_earlier_pipeline_rank_scores_the_next_token_of_each_reply(tmp_path: Path, runner: Runner, bank: Bank) -> None:
    """Nobody tells it what was sampled. Its scores leave with the step; what a preemption has it compute again does not."""
    tap = VllmTap(runner, bank, tmp_path / "none.sock", "tiny", "0.32.0", last=False)
    sent = Sent(tap)
    news = [new("a", [5, 6, 7]), new("b", [8, 9, 10, 11])]
    runner.execute_model(scheduled({"a": [5, 6, 7], "b": [8, 9]}, [0, 0], news))
    assert sent.places() == [(0, 0)]
    assert np.allclose(sent.rows[0][2], expected(runner, bank, 2), atol=1e-4)
    runner.execute_model(scheduled({"b": [10, 11], "a": [20]}, [2, 3]))
    runner.execute_model(scheduled({"a": [21]}, [4]))
    runner.execute_model(scheduled({"a": [5, 6, 7, 20]}, [0]))  # preempted, and back in two chunks
    assert sent.places()[1:] == [(1, 0), (0, 1), (0, 2)]
    runner.execute_model(scheduled({"a": [21, 22]}, [4]))
    assert sent.places()[4:] == [(0, 3)]
    runner.execute_model(scheduled({}, [], finished=["a", "b"]))
    assert sorted(sent.ended) == [(0, 4), (1, 1)]
    tap.sender.close()


@pytest.mark.parametrize(
    ("config", "name", "value"), [("scheduler_config", "async_scheduling", True), (None, "speculative_config", "ngram")]
)
def test_an_earlier_pipeline_rank_refuses_a_scheduler_that_guesses(
    tmp_path: Path, runner: Runner, bank: Bank, config: str | None, name: str, value: Any
) -> None:
    setattr(getattr(runner.vllm_config, config) if config else runner.vllm_config, name, value)
    with pytest.raises(BankError, match="an earlier pipeline rank does not hear which guesses stand"):
        VllmTap(runner, bank, tmp_path / "none.sock", "tiny", "0.32.0", last=False)


def test_another_model_than_the_bank_s_ends_the_start(tmp_path: Path, runner: Runner, whole_bank: Bank) -> None:
    with pytest.raises(BankError, match="cannot score tiny"):
        VllmTap(runner, whole_bank, tmp_path / "none.sock", "tiny", "0.32.0")


def test_the_compile_cache_knows_the_tap(runner: Runner, tap: VllmTap) -> None:
    assert runner.vllm_config.additional_config["barograph"]["columns"] == {"1": 2, "2": 2, "4": 2}


def test_eager_is_said_to_be_eager(runner: Runner) -> None:
    runner.vllm_config.model_config.enforce_eager = True
    assert _graphs(runner.vllm_config) == "eager"


def four_tokens(runner: Runner) -> None:
    """Two requests, one of them in two chunks of its prompt: four tokens in three steps."""
    step(runner, scheduled({"a": [5, 6, 7], "b": [8, 9]}, [0, 0], [new("a", [5, 6, 7]), new("b", [8, 9, 10, 11])]), [[20], []])
    step(runner, scheduled({"b": [10, 11], "a": [20]}, [2, 3]), [[30], [21]])
    step(runner, scheduled({"b": [30], "a": [21]}, [4, 4]), [[31], [22]])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_first_tokens_prove_the_tap_and_then_no_state_is_kept(runner: Runner, tap: VllmTap, asynchronous: bool) -> None:
    sent = Sent(tap)
    runner.asynchronous = asynchronous
    outputs = []
    for tokens, computed, news, sampled in (
        ({"a": [5, 6, 7], "b": [8, 9]}, [0, 0], [new("a", [5, 6, 7]), new("b", [8, 9, 10, 11])], [[20], []]),
        ({"b": [10, 11], "a": [20]}, [2, 3], [], [[30], [21]]),
        ({"b": [30], "a": [21]}, [4, 4], [], [[31], [22]]),
    ):
        outputs.append(step(runner, scheduled(tokens, computed, news), sampled))  # with asynchrony all steps run before a token is known
    if asynchronous:
        assert sent.checks == []
        for output in outputs:
            output.get_output()
    (check,) = sent.checks
    assert (check.ok, check.tokens) == (True, 5)
    assert check.worst < 0.01
    assert not project.Keeping.on
    for reader in tap._readers:
        reader.states.zero_()
    step(runner, scheduled({"a": [22]}, [5]), [[23]])
    assert not any(reader.states.any() for reader in tap._readers)


def test_scores_in_the_wrong_column_are_no_proof(runner: Runner, tap: VllmTap) -> None:
    sent = Sent(tap)
    tap._order = np.roll(tap._order, 1)
    four_tokens(runner)
    assert sent.checks == []
    assert len(sent.failed) == 1
    assert "recomputed" in sent.failed[0]


def test_an_operator_that_does_not_run_is_no_proof(runner: Runner, tap: VllmTap, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a graph that was compiled without it."""
    sent = Sent(tap)
    monkeypatch.setattr(project, "project", lambda *_: None)
    four_tokens(runner)
    assert sent.checks == []
    assert len(sent.failed) == 1


LIMITS = Limits(("random_0",), 0.1, 64)


@pytest.mark.parametrize("kind", [Runner, SecondRunner])
def test_a_push_reaches_the_rows_of_its_stream(tmp_path: Path, tiny: str, bank: Bank, kind: type[Runner]) -> None:
    runner = kind(model_of(tiny))
    tap = VllmTap(runner, bank, tmp_path / "none.sock", "tiny", "0.32.0", limits=LIMITS)
    said: list[bytes] = []
    told: list[wire.Steered] = []
    tap.sender.hear = lambda: [said.pop()] if said else []  # type: ignore[method-assign]
    tap.sender.steered = told.extend  # type: ignore[method-assign]
    sent = Sent(tap)
    assert tap.sender.hello.steers == ["random_0"]
    (pusher,) = tap._steering.pushers.values()  # type: ignore[union-attr]
    assert runner.vllm_config.additional_config["barograph"]["pushed"] == {"1": 1}

    def doses() -> dict[int, float]:
        return {int(row): round(float(pusher.doses[row, 0]), 3) for row in torch.nonzero(pusher.doses[:, 0]).flatten()}

    try:
        step(runner, scheduled({"a": [5, 6, 7], "b": [8, 9]}, [0, 0], [new("a", [5, 6, 7]), new("b", [8, 9])]), [[20], [30]])
        said.append(wire.encode(wire.Steer(4, 1, "random_0", -0.05, 2)))
        step(runner, scheduled({"a": [20], "b": [30]}, [3, 2]), [[21], [31]])
        assert (doses(), told) == ({1: -0.05}, [wire.Steered(4, 1, 0)])
        # Put back for lack of memory, and computed again from its first token on: what was pushed is pushed again, and one more.
        step(runner, scheduled({"b": [8, 9, 30, 31], "a": [21]}, [0, 4]), [[32], [22]])
        assert doses() == {2: -0.05, 3: -0.05}
        step(runner, scheduled({"a": [22], "b": [32]}, [5, 4]), [[23], [33]])
        assert (doses(), told[1:]) == ({}, [wire.Steered(4, 1, 2)])
        step(runner, scheduled({"a": [23]}, [6], finished=["b"]), [[24]])
        step(runner, scheduled({"a": [24]}, [7]), [[25]])
        assert tap._steering.idle  # type: ignore[union-attr]
        said.append(wire.encode(wire.Steer(5, 0, "random_0", -0.05, 2)))
        pusher.doses = torch.zeros(0, 1)  # a failure inside the graph ends all pushes with the tap
        step(runner, scheduled({"a": [25]}, [8]), [[26]])
        assert len(sent.failed) == 1
        assert tap.failed
    finally:
        tap.sender.close()
        project.failures.clear()


def test_a_tap_that_is_disarmed_by_another_thread_pushes_nobody(tmp_path: Path, runner: Runner, bank: Bank) -> None:
    """Tokens come to the host in a thread of their own. What it finds must not leave a dose behind, whenever it finds it."""
    tap = VllmTap(runner, bank, tmp_path / "none.sock", "tiny", "0.32.0", limits=LIMITS)
    Sent(tap)
    steering = tap._steering
    assert steering is not None
    (pusher,) = steering.pushers.values()
    said: list[bytes] = []
    tap.sender.hear = lambda: [said.pop()] if said else []  # type: ignore[method-assign]
    aim = steering.aim

    def disarmed_meanwhile(*args: Any) -> None:
        if len(steering.streams):
            tap._disarm("found in another thread")
        aim(*args)

    steering.aim = disarmed_meanwhile  # type: ignore[method-assign]
    try:
        step(runner, scheduled({"a": [5, 6, 7]}, [0], [new("a", [5, 6, 7])]), [[20]])
        said.append(wire.encode(wire.Steer(4, 0, "random_0", -0.05, 8)))
        step(runner, scheduled({"a": [20]}, [3]), [[21]])
        assert tap.failed == "found in another thread"
        assert not pusher.doses.any()
        step(runner, scheduled({"a": [21]}, [4]), [[22]])
        assert not pusher.doses.any()
        assert steering.idle
    finally:
        tap.sender.close()
        project.failures.clear()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cache_config": {"enable_prefix_caching": True}}, "needs --no-enable-prefix-caching"),
        ({"parallel_config": {"tensor_parallel_size": 2}}, "needs the whole model in one worker"),
        ({"parallel_config": {"pipeline_parallel_size": 2}}, "needs the whole model in one worker"),
        ({"speculative_config": SimpleNamespace()}, "does not go with speculative decoding"),
    ],
)
def test_where_a_push_would_reach_others_or_not_all_of_the_model_the_start_is_refused(
    tmp_path: Path, runner: Runner, bank: Bank, change: Any, why: str
) -> None:
    for name, value in change.items():
        if isinstance(value, dict):
            vars(getattr(runner.vllm_config, name)).update(value)
        else:
            setattr(runner.vllm_config, name, value)
    with pytest.raises(BankError, match=f"tap.steer {why}"):
        VllmTap(runner, bank, tmp_path / "none.sock", "tiny", "0.32.0", limits=LIMITS)

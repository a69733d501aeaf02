"""What verify-tap's checks let through and what they catch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monitor import wire
from monitor.commands import verify_tap as verify
from monitor.engine.vllm_process import Reply
from monitor.pipeline.proof import Proof
from monitor.tap.recorder import Recorder
from probes.bank import Bank
from probes.passport import Passport

KEYS = [("a", 0), ("b", 0), ("c", 0)]


@pytest.fixture
def reference() -> dict[tuple[str, int], np.ndarray]:
    chance = np.random.default_rng(0)
    return {key: chance.standard_normal((20, 5)).astype(np.float32) for key in KEYS}


def noisy(scores: dict[tuple[str, int], np.ndarray], size: float) -> dict[tuple[str, int], np.ndarray]:
    chance = np.random.default_rng(1)
    return {key: (each + size * chance.standard_normal(each.shape)).astype(np.float32) for key, each in scores.items()}


def test_rounding_passes_and_a_wrong_tensor_does_not(reference: dict[tuple[str, int], np.ndarray]) -> None:
    assert verify.truthful(noisy(reference, 1e-5), reference, "float32", "w").ok
    assert not verify.truthful(noisy(reference, 0.01), reference, "float32", "w").ok
    wrong = verify.truthful(noisy(reference, 1.0), reference, "bfloat16", "w")
    assert not wrong.ok
    assert "at most" in wrong.text
    assert not verify.truthful({key: each * np.nan for key, each in reference.items()}, reference, "bfloat16", "w").ok


def test_a_reply_longer_than_its_reference_is_compared_as_far_as_that_goes(reference: dict[tuple[str, int], np.ndarray]) -> None:
    longer = {key: np.concatenate([each, each]) for key, each in reference.items()}
    assert verify.truthful(longer, reference, "float32", "w").ok


def test_swapped_batchmates_are_caught(reference: dict[tuple[str, int], np.ndarray]) -> None:
    assert verify.unmixed(noisy(reference, 0.1), reference).ok
    swapped = {KEYS[0]: reference[KEYS[1]], KEYS[1]: reference[KEYS[0]], KEYS[2]: reference[KEYS[2]]}
    assert not verify.unmixed(swapped, reference).ok


def test_replies_may_part_only_where_two_tokens_are_as_good_as_equal() -> None:
    def reply(*tokens: int) -> Reply:
        return Reply([1, 2], list(tokens), True, [])

    asked = []

    def gap(context: list[int], first: int, second: int) -> float:
        asked.append((context, first, second))
        return 0.2

    with_tap, without = {KEYS[0]: reply(5, 6, 7)}, {KEYS[0]: reply(5, 8, 9)}
    assert verify.unchanged(with_tap, with_tap, gap, "float32").ok
    assert asked == []
    assert verify.unchanged(with_tap, without, gap, "bfloat16").ok
    assert asked == [([1, 2, 5], 6, 8)]
    assert not verify.unchanged(with_tap, without, gap, "float32").ok
    assert not verify.unchanged(with_tap, {KEYS[0]: reply(5, 6)}, gap, "bfloat16").ok  # one ended earlier


def test_cost_is_judged_by_pairs_of_rounds() -> None:
    rounds = [(on, 0.010 * (1 + i)) for i, on in enumerate([True, False, False, True] * 3)]
    same = [(on, 0.010) for on, _ in rounds]
    assert verify.cost(same).ok
    slow = [(on, 0.013 if on else 0.010) for on, _ in rounds]
    finding = verify.cost(slow)
    assert not finding.ok
    assert "0.769" in finding.text


def test_a_token_without_its_score_is_caught(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "s")
    try:
        row = np.zeros(5, np.float32)
        recorder.scores["a", 0] = [(0, row), (1, row)]
        two, three = (Reply([1], [5] * n, True, []) for n in (2, 3))
        assert verify.complete({("a", 0): two}, recorder).ok
        assert not verify.complete({("a", 0): three}, recorder).ok
        recorder.scores["a", 0].append((1, row))  # twice
        assert not verify.complete({("a", 0): three}, recorder).ok
    finally:
        recorder.close()


def test_a_naive_read_is_caught(tiny: str, bank: Bank) -> None:
    """vLLM's layers hand on (hidden, residual); the first of the pair alone is the last block's output without the stream."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype="float32").eval()
    weight = np.random.default_rng(0).standard_normal((model.config.hidden_size, 4)).astype(np.float32)
    seen: dict[str, np.ndarray] = {}

    def keep(name: str):  # type: ignore[no-untyped-def]
        return lambda module, args, output: seen.__setitem__(name, (output if torch.is_tensor(output) else output[0])[0].numpy() @ weight)

    layer = model.model.layers[3]
    layer.register_forward_hook(keep("whole"))
    layer.mlp.register_forward_hook(keep("first"))
    with torch.no_grad():
        model(torch.arange(40)[None])
    scale = seen["whole"].std()
    right, naive = ({KEYS[0]: (seen[name] / scale).astype(np.float32)} for name in ("whole", "first"))
    for dtype in verify.TOLERANCE:
        assert verify.truthful(right, right, dtype, "w").ok
        assert not verify.truthful(naive, right, dtype, "w").ok


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "0.45"),
        (["--gpu-memory-utilization", "0.8"], "0.40"),
        (["--gpu-memory-utilization=0.6", "--dtype", "float16"], "0.30"),
    ],
)
def test_two_servers_share_the_memory_of_one(given: list[str], expected: str) -> None:
    arguments = verify.halved(given)
    assert arguments[-2:] == ["--gpu-memory-utilization", expected]
    assert arguments[:-2] == [each for each in given if each in ("--dtype", "float16")]


def test_the_report_names_the_check_that_failed() -> None:
    passport = Passport(weights="", dtype="bfloat16", quantisation="none", kv_dtype="bfloat16", engine="vllm 0.32.0", adapter="none")
    hello = wire.Hello(wire.VERSION, "s", 1, "e", "m", "bfloat16", "b", ["panic"], [14])
    findings = (verify._finding("scores fire", True, "x"), verify._finding("cost", False, "y"))
    text = verify.report(Proof(bank="b", passport=passport, engine="e", machine="here", time="now", findings=findings), hello)
    assert "PASS  scores fire: x\nFAIL  cost: y\nverdict: do not trust this tap; see FAIL" in text

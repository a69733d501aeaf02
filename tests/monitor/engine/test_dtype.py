from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monitor.engine import dtype
from monitor.engine.loading import load
from probes import processor
from probes.reader import Reader

# What a processor with AVX2 only took for SmolLM2, in milliseconds: by rows.
AVX2 = {torch.bfloat16: {1: 35.0, 8: 139.0, 128: 1827.0}, torch.float32: {1: 69.0, 8: 116.0, 128: 342.0}}


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A processor whose flags a test may write."""
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nflags\t\t: fpu sse avx2 avx512f\n")
    monkeypatch.setattr(processor, "CPUINFO", path)
    return path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: avx2 avx512_bf16", True), ("flags\t\t: amx_bf16", True), ("Features\t: fp asimd bf16", True), ("flags\t\t: avx2", False),
        ("flags\t\t: avx512_bf16x", False), ("", False),
    ],
)  # fmt: skip
def test_the_flags_say_whether_there_are_instructions(cpu: Path, line: str, expected: bool) -> None:
    cpu.write_text(f"processor\t: 0\n{line}\n")
    assert processor.bfloat16() is expected


def test_with_instructions_nothing_is_tried(cpu: Path) -> None:
    cpu.write_text("flags\t\t: avx512_bf16\n")
    assert dtype.choose(torch.bfloat16, 1, lambda _: pytest.fail("a trial"))[0] == torch.bfloat16
    assert dtype.choose(torch.float32, 1, lambda _: pytest.fail("a trial"))[0] == torch.float32


def test_without_them_the_quicker_exchange_decides(cpu: Path) -> None:
    chosen, why = dtype.choose(torch.bfloat16, 1, AVX2.__getitem__)
    assert chosen == torch.float32
    assert why == "float32: on this processor an exchange takes 0.54 times as long in float32 as in bfloat16"
    swapped = {torch.bfloat16: AVX2[torch.float32], torch.float32: AVX2[torch.bfloat16]}
    assert dtype.choose(torch.bfloat16, 1, swapped.__getitem__)[0] == torch.bfloat16


def test_a_model_that_would_fill_the_memory_stays_as_it_is(cpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtype, "available", lambda: 15_000_000_000)
    chosen, why = dtype.choose(torch.bfloat16, 8_000_000_000, lambda _: pytest.fail("a trial"))
    assert chosen == torch.bfloat16
    assert why == "bfloat16: float32 would take 8.0 GB more, and 15.0 GB are free"


def test_the_trial_times_all_shapes_and_loading_follows_it(cpu: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "half")
    assert all(0 < each < 1 for each in dtype.trial(torch.float32).values())
    assert dtype.trial(torch.float32).keys() == {1, dtype.CHATS, dtype.PROMPT}
    monkeypatch.setattr(dtype, "trial", AVX2.__getitem__)
    said: list[str] = []
    assert load(str(tmp_path / "half"), "auto", "cpu", said.append).module.dtype == torch.float32
    assert any("0.54 times as long" in line for line in said)
    assert load(str(tmp_path / "half"), "bfloat16", "cpu").module.dtype == torch.bfloat16


def test_a_reader_takes_float32_where_prompts_are_slow(cpu: Path, tiny: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "half")
    half = str(tmp_path / "half")
    assert Reader(half, "half", "cpu", "auto", fast=True).dtype == "float32"
    assert Reader(half, "half", "cpu", "bfloat16", fast=True).dtype == "bfloat16"
    assert Reader(half, "half", "cpu", "auto").dtype == "bfloat16"
    cpu.write_text("flags\t\t: amx_bf16\n")
    assert Reader(half, "half", "cpu", "auto", fast=True).dtype == "bfloat16"

"""Small models of many families, each served by vLLM in this process with the tap inside: python -m tests.vllm.small FOLDER CASE…

For each case one JSON line, what was produced and where its scores lie. The reference is computed in another process, since
vLLM changes some of transformers' classes.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.banks import random_bank

WIDTH = {
    "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256,
    "vocab_size": 512, "head_dim": 32, "max_position_embeddings": 512,
}  # fmt: skip
GPT2 = {"n_embd": 128, "n_layer": 4, "n_head": 4, "vocab_size": 512, "n_positions": 512}
LAYERS = (0, 2, 3)  # of four: the first, the last and one between


@dataclass(frozen=True)
class Case:
    """A family by its name in transformers, and how vLLM serves it."""

    family: str
    arguments: dict[str, Any] = field(default_factory=dict)
    mode: str = "compiled"
    tokens: int = 12
    choices: int = 1
    layers: tuple[int, ...] = LAYERS
    lora: bool = False


# An eager vLLM on CPU never makes the buffers that a later pipeline rank receives into; a compiled one does.
PIPELINE = {"pipeline_parallel_size": 2, "enforce_eager": False}
CASES = {
    **{name: Case(name) for name in ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi", "phi3", "gpt2", "olmo2")},
    "traced": Case("llama", mode="traced"),
    "traced_gpt2": Case("gpt2", mode="traced"),
    "choices": Case("llama", choices=3),
    "chunked": Case("llama", {"max_num_batched_tokens": 16, "enable_chunked_prefill": True}),
    "speculative": Case("llama", {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}}, tokens=40),
    "lora": Case("llama", {"enable_lora": True, "max_lora_rank": 8}, lora=True),
    "traced_tensor": Case("llama", {"tensor_parallel_size": 2}, mode="traced"),
    "tensor": Case("llama", {"tensor_parallel_size": 2}),
    "pipeline_first": Case("llama", {**PIPELINE}, layers=(0, 1)),
    "pipeline_last": Case("llama", {**PIPELINE}, layers=(2, 3)),
    "pipeline_chunked": Case("llama", {**PIPELINE, "max_num_batched_tokens": 16}, layers=(1,)),
}  # fmt: skip


def make(case: Case, folder: Path) -> None:
    """A random model of the family with its bank, on disk."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = AutoConfig.for_model(case.family, **(GPT2 if case.family == "gpt2" else WIDTH), **special)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder / "model")
    random_bank(folder / "bank", case.layers, config=model.config)
    if case.lora:
        adapt(model, folder)


def adapt(model: Any, folder: Path) -> None:
    """A random adapter on the attention, as PEFT writes one, and the model with it merged in for the reference."""
    import torch
    from safetensors.torch import save_file

    rank, targets = 8, ("q_proj", "v_proj", "o_proj")
    tensors = {}
    for name, module in model.named_modules():
        if name.endswith(targets):
            down, up = torch.randn(rank, module.in_features) * 0.1, torch.randn(module.out_features, rank) * 0.1
            tensors |= {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
            module.weight.data += up @ down  # lora_alpha is the rank, so the scale is 1
    (folder / "adapter").mkdir()
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors")
    about = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": targets,
        "base_model_name_or_path": str(folder / "model"),
    }
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(about))
    model.save_pretrained(folder / "merged")


def run(name: str, folder: Path) -> dict[str, Any]:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    from monitor.tap.recorder import Recorder

    case = CASES[name]
    folder.mkdir(parents=True)
    make(case, folder)
    socket = Path(f"/tmp/barograph-{os.getpid()}-{name}.sock")
    recorder = Recorder(socket)
    settings = {
        "socket": str(socket),
        "engine": {"model": str(folder / "model")},
        "tap": {"bank": str(folder / "bank"), "probes": "all", "mode": case.mode},
    }
    (folder / "barograph.yaml").write_text(yaml.safe_dump(settings))
    os.environ["BAROGRAPH_CONFIG"] = str(folder / "barograph.yaml")
    try:
        llm = LLM(
            str(folder / "model"), skip_tokenizer_init=True, dtype="float32", max_model_len=256, max_num_seqs=8, disable_log_stats=True,
            **{"enforce_eager": True, "max_num_batched_tokens": 256, **case.arguments},
        )  # fmt: skip
        chance = np.random.default_rng(1)
        prompts = [chance.integers(3, 512, int(length)).tolist() * 2 for length in chance.integers(4, 30, 12)]
        sampling = SamplingParams(
            max_tokens=case.tokens, temperature=0 if case.choices == 1 else 1, n=case.choices, detokenize=False, ignore_eos=True
        )
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        # The second time from the prefix cache, or with the adapter.
        adapter = LoRARequest("random", 1, str(folder / "adapter")) if case.lora else None
        outputs = [llm.generate(asked, sampling, use_tqdm=False, lora_request=each) for each in (None, adapter)]
        produced = [
            (which, list(output.prompt_token_ids), list(choice.token_ids))
            for which, found in zip(("model", "merged" if case.lora else "model"), outputs, strict=True)
            for output in found
            for choice in output.outputs
        ]
        deadline = time.monotonic() + 60
        while sum(map(len, list(recorder.scores.values()))) < sum(len(tokens) for *_, tokens in produced) and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        recorder.close()
        socket.unlink(missing_ok=True)
    np.savez(folder / "streams.npz", **{f"{key[0]}#{key[1]}": recorder.array(key) for key in recorder.scores})
    return {
        "case": name, "produced": produced, "failed": recorder.failed, "engine": recorder.hellos[0].engine, "unknown": recorder.unknown,
        "ordered": all(recorder.positions(key) == list(range(len(recorder.scores[key]))) for key in recorder.scores),
    }  # fmt: skip


def main() -> None:
    folder, *names = sys.argv[1:]
    os.environ.update(
        VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR",
        VLLM_CPU_OMP_THREADS_BIND="nobind", OMP_NUM_THREADS="1", VLLM_CACHE_ROOT=f"{folder}/cache",  # ranks share the cores of one node
    )  # fmt: skip
    from vllm.distributed import cleanup_dist_env_and_memory

    for name in names or CASES:
        try:
            found = run(name, Path(folder) / name)
        except Exception as error:
            traceback.print_exc()
            found = {"case": name, "error": f"{type(error).__name__}: {error}"}
        print("RESULT " + json.dumps(found), flush=True)
        gc.collect()  # tap and runner know each other
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()

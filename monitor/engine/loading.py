"""Load a causal language model under NNsight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers

from monitor import models, packaged
from monitor.engine.dtype import choose
from monitor.errors import ModelError
from probes.nn import TransformersModel

DTYPES = {"auto": "auto", "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory: NNsight's wrapper, the module behind it, its tokenizer, and its limits."""

    name: str
    wrapper: TransformersModel
    module: Any
    tokenizer: Any
    context: int
    eos: frozenset[int]


def load(model: str, dtype: str = "auto", device: str = "auto", say: models.Progress = lambda _: None) -> LoadedModel:
    """Load `model` (a name, folder or Hugging Face id) on CUDA when there is one. Raises ModelError."""
    source = models.resolve(model, say)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    say(f"loading {models.served_name(model)} on {where}")
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        module = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=DTYPES[dtype])
        if dtype == "auto" and where == "cpu":
            chosen, why = choose(module.dtype, module.get_memory_footprint())
            say(f"dtype {why}")
            module = module.to(chosen)
            module.config.dtype = chosen
        module = module.to(where).eval()
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"cannot load model '{model}' ({reason}); "
            f"expected a causal language model: a folder, a Hugging Face id, or one of {packaged.NAMES}"
        ) from None
    if not hasattr(tokenizer, "_tokenizer"):
        raise ModelError(f"model '{model}' has a {type(tokenizer).__name__}; expected a fast tokenizer (tokenizer.json)")
    config = module.config.get_text_config()
    ends = module.generation_config.eos_token_id
    ends = ends if ends is not None else tokenizer.eos_token_id
    return LoadedModel(
        name=models.served_name(model),
        wrapper=TransformersModel(module, tokenizer=tokenizer),
        module=module,
        tokenizer=tokenizer,
        context=getattr(config, "max_position_embeddings", None) or 2048,
        eos=frozenset([] if ends is None else [ends] if isinstance(ends, int) else ends),
    )

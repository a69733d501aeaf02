"""What a calibration holds for. A bank carries one, a tap reports one; where they differ the thresholds are stale."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Passport(BaseModel):
    """The configuration that decides a model's activations. An empty field is not known and matches anything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str = Field("", description="fingerprint of the weights, adapter merged in; 'vllm:…' as vLLM lays them out")
    dtype: str = ""
    quantisation: str = ""
    kv_dtype: str = ""
    engine: str = Field("", description="engine and version, such as 'transformers 5.19.0'")
    adapter: str = ""

    def differences(self, other: Passport) -> dict[str, tuple[str, str]]:
        """Fields that both know and that differ: {field: (here, there)}. An engine's version counts, its build does not.

        Fingerprints of weights that are laid out in different ways say nothing about each other.
        """
        found = {}
        for field in type(self).model_fields:
            here, there = getattr(self, field), getattr(other, field)
            comparable = field != "weights" or here.rpartition(":")[0] == there.rpartition(":")[0]
            if here and there and here != there and comparable:
                found[field] = (here, there)
        return found

    @classmethod
    def of(cls, model: Any, engine: str) -> Passport:
        """The passport of a transformers model as it is in memory."""
        quantisation = getattr(model.config, "quantization_config", None)
        method = getattr(quantisation, "quant_method", None) or (quantisation or {}).get("quant_method", "") if quantisation else "none"
        dtype = str(model.dtype).removeprefix("torch.")
        adapters = getattr(model, "active_adapters", None) if getattr(model, "_hf_peft_config_loaded", False) else None
        return cls(
            weights=fingerprint(model), dtype=dtype, quantisation=str(getattr(method, "value", method)), kv_dtype=dtype, engine=engine,
            adapter=",".join(adapters()) if callable(adapters) else "none",
        )  # fmt: skip


def fingerprint(model: Any) -> str:
    """Hash of 64 values of every weight: tells a fine-tune or a merged adapter from the original in milliseconds."""
    import torch  # the sidecar, which reads passports, never loads it

    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if weight.layout is not torch.strided:  # packed for a processor's kernels
            continue
        flat = weight.detach().reshape(-1)
        step = max(1, flat.numel() // 64)
        digest.update(name.encode())
        digest.update(flat[::step][:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]

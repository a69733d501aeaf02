"""The embedded engine, and the tap inside it or inside vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from monitor import models, packaged
from monitor.config.base import EngineAddress, Frozen, runtime_dir


class EngineConfig(Frozen):
    """The embedded engine."""

    listen: EngineAddress = Field(
        default_factory=lambda: runtime_dir() / "engine.sock",
        description="unix:/PATH, which nobody reaches around the gateway, or HOST:PORT",
    )
    model: str = Field(models.BUNDLED, description=f"a checkpoint's folder, a Hugging Face id, or one of {packaged.NAMES}")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="what it computes in; auto is what is fastest here"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes CUDA when there is one")
    max_streams: int = Field(32, ge=1, le=512, description="generations at the same time")
    kv_tokens: int = Field(32_768, ge=256, description="tokens that the key-value cache holds on CPU")
    threads: int | None = Field(None, ge=1, description="torch threads; by default as many as cores")


class SteerConfig(Frozen):
    """What rules may steer along, and how hard at most. Without it nothing is ever pushed."""

    probes: tuple[str, ...] = Field(min_length=1, max_length=16, description="probes whose card says causal: true")
    max_dose: float = Field(0.1, gt=0, le=0.2, description="a share of the residual's norm, either way")
    max_tokens: int = Field(256, ge=1, le=4096, description="of one push")


class TapConfig(Frozen):
    """Scoring inside the engine."""

    enabled: bool = Field(True, description="without it nothing is scored")
    mode: Literal["compiled", "traced"] = Field(
        "compiled", description="on vLLM: inside the compiled graph, or by NNsight's tracing on an eager model"
    )
    bank: Path | None = Field(None, description="a bank's folder; by default the one shipped for the model")
    probes: Literal["alarm", "all"] | tuple[str, ...] = Field(
        "alarm", description="which probes are live: 'alarm' (safety, valence, arousal), 'all' (the 171 emotions too), or names"
    )
    steer: SteerConfig | None = Field(None, description="let rules push replies along probes; off unless it is here")
    verified: Path | None = Field(None, description="what verify-tap wrote about an engine that the bank was not calibrated on")

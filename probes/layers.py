"""Where the decoder layers are, by NNsight's module tree."""

from __future__ import annotations

from typing import Any

import torch

from probes.nn import NNsight

# The paths under which causal language models keep their decoder layers.
PATHS = (
    "model.layers",  # Llama, Qwen, Mistral, Gemma, Phi, OLMo, Granite, …
    "model.language_model.layers",  # the text half of multimodal models
    "language_model.model.layers",  # the same in vLLM
    "transformer.h",  # GPT-2, GPT-J, Bloom, Falcon
    "gpt_neox.layers",  # Pythia, GPT-NeoX
    "model.decoder.layers",  # OPT
    "transformer.blocks",  # MPT
)


class LayersError(Exception):
    """A model of a family whose layers are not known."""


def envoys(model: NNsight) -> list[Any]:
    """The envoys of the decoder layers, in order. Raises LayersError for an unknown family."""
    for path in PATHS:
        envoy = model
        for name in path.split("."):
            envoy = getattr(envoy, name, None) if envoy is not None else None
        if envoy is not None and isinstance(envoy._module, torch.nn.ModuleList) and len(envoy._module):
            return list(envoy)
    family = type(model._module).__name__
    raise LayersError(f"cannot find the decoder layers of {family}; supported are models with one of: {', '.join(PATHS)}")


def decoder_layers(model: NNsight) -> list[torch.nn.Module]:
    """The modules behind the envoys."""
    return [envoy._module for envoy in envoys(model)]

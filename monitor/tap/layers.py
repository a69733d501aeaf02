"""Where the decoder layers are, by NNsight's module tree."""

from __future__ import annotations

import torch

from monitor.errors import ModelError
from monitor.tap.nn import TransformersModel

# The paths under which causal language models keep their decoder layers.
PATHS = (
    "model.layers",  # Llama, Qwen, Mistral, Gemma, Phi, OLMo, Granite, …
    "model.language_model.layers",  # the text half of multimodal models
    "transformer.h",  # GPT-2, GPT-J, Bloom, Falcon
    "gpt_neox.layers",  # Pythia, GPT-NeoX
    "model.decoder.layers",  # OPT
    "transformer.blocks",  # MPT
)


def decoder_layers(model: TransformersModel) -> list[torch.nn.Module]:
    """The modules behind the envoys of the decoder layers, in order. Raises ModelError for an unknown family."""
    for path in PATHS:
        envoy = model
        for name in path.split("."):
            envoy = getattr(envoy, name, None) if envoy is not None else None
        if envoy is not None and isinstance(envoy._module, torch.nn.ModuleList) and len(envoy._module):
            return [layer._module for layer in envoy]
    family = type(model._module).__name__
    raise ModelError(f"cannot find the decoder layers of {family}; supported are models with one of: {', '.join(PATHS)}")

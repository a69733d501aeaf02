"""The reference: scores of a finished reply by one plain pass of transformers over all of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probes.bank import Bank
from probes.layers import decoder_layers
from probes.nn import NNsight


@torch.no_grad()
def reply_scores(model: NNsight, bank: Bank, ids: Sequence[int], prompt: int) -> NDArray[np.float32]:
    """Scores [tokens, k] of the tokens after the first `prompt` ones, each from the state that produces the token.

    `model`: NNsight's tree over a causal language model of transformers.
    """
    weight, bias = bank.affine()
    layers = decoder_layers(model)
    module: Any = model._module
    scores = np.empty((len(ids) - prompt, len(bank.names)), np.float32)
    handles = []
    for layer in sorted(set(bank.layers)):
        columns = np.flatnonzero(np.array(bank.layers) == layer)

        def read(_: Any, args: Any, output: Any, columns: NDArray[np.intp] = columns) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            states = hidden[0, prompt - 1 : len(ids) - 1].float().cpu().numpy()
            scores[:, columns] = states @ weight[:, columns] + bias[columns]

        handles.append(layers[layer].register_forward_hook(read))
    try:
        module(input_ids=torch.tensor([list(ids)], device=module.device), use_cache=False, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return scores

"""The embedded engine's trial before it serves: a few tokens through the live batcher, and the tap's scores of them recomputed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monitor import wire
from monitor.engine.batcher import Batcher
from monitor.engine.loading import LoadedModel
from monitor.engine.sampler import Sampling
from monitor.tap.check import TWO_RUNS, judge
from monitor.tap.tap import Tap
from probes.bank import Bank
from probes.layers import decoder_layers

log = logging.getLogger("barograph.engine")

PROMPT = "The train to the coast leaves every hour from the second platform, and"
TOKENS = 8
KEY = "barograph-trial#0"


async def prove(model: LoadedModel, batcher: Batcher, tap: Tap) -> None:
    """Let the tap prove itself, unseen by the sidecar. One that cannot is disarmed, with the reason in log, health and sidecar."""
    try:
        check = await trial(model, batcher, tap)
    except Exception as error:  # whatever the model does when it is asked another way
        check = wire.Check(False, 0, 0.0, f"the trial of the tap failed ({type(error).__name__}: {error})"[:200])
    tap.prove(check)
    if check.ok:
        log.info("the tap proved itself on %d tokens: within %.3g standard deviations", check.tokens, check.worst)


async def trial(model: LoadedModel, batcher: Batcher, tap: Tap) -> wire.Check:
    prompt = list(model.tokenizer(PROMPT)["input_ids"])
    tokens = []
    with tap.aside() as seen:
        tap.begin(KEY, "", 0)
        try:
            async with aclosing(batcher.generate(KEY, prompt, TOKENS, Sampling(temperature=0), ends=False)) as produced:
                async for token in produced:
                    tokens.append(token)
        finally:
            tap.end(KEY, len(tokens))
    if tap.failed:
        return wire.Check(False, 0, 0.0, tap.failed)
    if sorted(position for _, position in seen.rows) != list(range(len(tokens))):
        return wire.Check(False, 0, 0.0, f"{len(tokens)} tokens of the trial have scores at {sorted(seen.rows)}; expected one each")
    scores = np.stack([row for _, row in sorted(seen.rows.items())])
    states = await asyncio.to_thread(states_of, model, tap.bank, prompt, tokens)
    return judge(tap.bank, scores, states, TWO_RUNS[str(model.module.dtype).removeprefix("torch.")])


def states_of(model: LoadedModel, bank: Bank, prompt: list[int], tokens: list[int]) -> dict[int, NDArray[np.float32]]:
    """What transformers itself says of the layers, at the places that produced the tokens: one pass over the whole text, without a cache."""
    module: Any = model.module
    last = len(decoder_layers(model.wrapper)) - 1
    kept: list[torch.Tensor] = []
    # The last layer's states come out of transformers with the final norm on them, so that layer is asked itself.
    handle = decoder_layers(model.wrapper)[last].register_forward_hook(
        lambda _, __, output: kept.append(output if isinstance(output, torch.Tensor) else output[0])
    )
    paged = module.config._attn_implementation
    module.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            ids = torch.tensor([prompt + tokens], device=module.device)
            hidden = module(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    finally:
        module.set_attn_implementation(paged)
        handle.remove()
    rows = slice(len(prompt) - 1, len(prompt) + len(tokens) - 1)
    whole = {layer: kept[0] if layer == last else hidden[layer + 1] for layer in set(bank.layers)}
    return {layer: each[0, rows].float().cpu().numpy() for layer, each in whole.items()}

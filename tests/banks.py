"""Banks of random directions: for any model, and of any size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monitor.config import BANKS
from probes.bank import ARRAYS, CARD, Bank, config_hash


def random_bank(folder: Path, layers: Sequence[int], probes: int = 1, config: Any = None) -> Path:
    """`probes` random directions at each of `layers`, with the card of the shipped bank; `config` is transformers' of another model."""
    shipped = Bank.load(BANKS / "smollm2-135m-instruct")
    about = shipped.card.model
    if config is not None:
        text = config.get_text_config()
        changes = {
            "name": folder.name,
            "width": text.hidden_size,
            "layers": text.num_hidden_layers,
            "config_hash": config_hash(text.to_dict()),
        }
        about = about.model_copy(update=changes)
    count = probes * len(layers)
    directions = np.random.default_rng(0).standard_normal((count, about.width)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    raw = Bank.pack(directions, directions)
    like = shipped["hostility"].model_copy(
        update={"evaluation": [], "neutral_mean": 0.0, "neutral_std": 0.1 if config is not None else 1.0}
    )
    cards = [like.model_copy(update={"name": f"random_{i}", "layer": layers[i // probes]}) for i in range(count)]
    card = shipped.card.model_copy(update={"model": about, "probes": cards, "arrays_sha256": hashlib.sha256(raw).hexdigest()})
    folder.mkdir(parents=True)
    (folder / ARRAYS).write_bytes(raw)
    (folder / CARD).write_text(card.model_dump_json())
    return folder


def steerable(bank: Bank, probe: str = "panic") -> Bank:
    """The bank, with a card that says of one probe that every tried dose beats matched random directions: what rules ask before they steer."""
    cause = bank[probe].cause
    assert cause is not None
    less = [own - 0.1 * dose for own, dose in zip(cause.outcomes["words"], cause.doses, strict=True)]
    return bank.with_card(probe, causal=True, cause=cause.model_copy(update={"matched": less}))

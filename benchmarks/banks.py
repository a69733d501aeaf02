"""Banks of random directions, to measure what a bank of some size costs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monitor.config import Config
from probes.bank import ARRAYS, CARD, Bank


def random_bank(folder: Path, probes: int, layers: Sequence[int]) -> Path:
    """The shipped bank with its directions replaced: `probes` random ones at each of `layers`."""
    shipped = Bank.load(Config().bank_folder())
    count = probes * len(layers)
    directions = np.random.default_rng(0).standard_normal((count, shipped.card.model.width)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    raw = Bank.pack(directions, directions)
    like = shipped.card.probes[0]
    cards = [like.model_copy(update={"name": f"random_{i}", "layer": layers[i // probes]}) for i in range(count)]
    card = shipped.card.model_copy(update={"probes": cards, "arrays_sha256": hashlib.sha256(raw).hexdigest()})
    folder.mkdir(parents=True)
    (folder / ARRAYS).write_bytes(raw)
    (folder / CARD).write_text(card.model_dump_json())
    return folder

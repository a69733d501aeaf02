"""A bank: the probes fitted for one model. Reads without torch, so that the sidecar can.

On disk a bank is a folder with two files: `bank.safetensors` (the arrays) and `card.json` (what they mean,
for which model they hold, and the digest of the arrays).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

FORMAT = 1
ARRAYS = "bank.safetensors"
CARD = "card.json"

Floats = NDArray[np.float32]


class BankError(Exception):
    """A bank that cannot be read, or that belongs to another model."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProbeCard(_Frozen):
    """What one probe means and how well it does. Errors are measured on topics that the fit never saw."""

    name: str
    layer: int = Field(ge=0, description="decoder layer, from 0, whose output is read")
    concept: str
    method: str
    neutral_mean: float = Field(description="mean of the raw projection on neutral text")
    neutral_std: float = Field(gt=0, description="its standard deviation: one z unit")
    auroc: float = Field(ge=0, le=1, description="held-out topics: this concept against neutral and the other concepts")
    auroc_ci: tuple[float, float] = Field(description="95 % bootstrap interval")


class ModelCard(_Frozen):
    """The model that a bank was fitted on."""

    name: str
    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    config_hash: str
    dtype: str


class BankCard(_Frozen):
    """The card of a bank, as in `card.json`."""

    format: int
    model: ModelCard
    probes: list[ProbeCard] = Field(min_length=1)
    arrays_sha256: str
    corpus_sha256: str
    fitted_with: str
    layer_profile: dict[str, dict[str, float]] = Field(default_factory=dict, description="layer → {probe: validation AUROC}")
    limits: list[str]


def config_hash(config: dict[str, Any]) -> str:
    """Hash of what makes a model's activations its own: its shape, not its path, dtype or library version."""
    shape = {key: config.get(key) for key in (
        "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "intermediate_size", "vocab_size", "head_dim", "tie_word_embeddings",
    )}  # fmt: skip
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


class Bank:
    """Probes as one matrix a layer.

    `directions` is float32 [k, width], unit rows. A score is
    `(state · direction - neutral_mean) / neutral_std`: standard deviations above the model's own neutral text.
    """

    def __init__(self, card: BankCard, directions: Floats) -> None:
        self.card = card
        self.directions = directions
        self.names = tuple(probe.name for probe in card.probes)
        self.layers = tuple(probe.layer for probe in card.probes)

    @property
    def digest(self) -> str:
        return self.card.arrays_sha256

    def affine(self) -> tuple[Floats, Floats]:
        """The scoring as `state @ weight + bias`: float32 [width, k] and [k]."""
        std = np.array([probe.neutral_std for probe in self.card.probes], np.float32)
        mean = np.array([probe.neutral_mean for probe in self.card.probes], np.float32)
        return np.ascontiguousarray((self.directions / std[:, None]).T), -mean / std

    def check_model(self, name: str, width: int, layers: int, hashed: str) -> None:
        """Refuse a model that the bank was not fitted on."""
        model = self.card.model
        for what, got, expected in (("width", width, model.width), ("layers", layers, model.layers)):
            if got != expected:
                raise BankError(
                    f"bank fitted for {model.name} ({what} {expected}) cannot score {name} ({what} {got}); fit one with: barograph probes fit --model {name} --out DIR"
                )
        if hashed != model.config_hash:
            raise BankError(
                f"bank fitted for {model.name} (config {model.config_hash}) cannot score {name} (config {hashed}); fit one with: barograph probes fit --model {name} --out DIR"
            )

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ARRAYS).write_bytes(self.pack(self.directions))
        (folder / CARD).write_text(self.card.model_dump_json(indent=2) + "\n")

    @staticmethod
    def pack(directions: Floats) -> bytes:
        """The bytes of `bank.safetensors`; their sha256 stands in the card."""
        packed: bytes = save_arrays({"directions": np.ascontiguousarray(directions, np.float32)})
        return packed

    @classmethod
    def load(cls, folder: Path) -> Bank:
        """Read and check a bank. Raises BankError with the file, what is wrong and what was expected."""
        try:
            raw, text = (folder / ARRAYS).read_bytes(), (folder / CARD).read_bytes()
        except OSError as error:
            raise BankError(f"bank {folder}: cannot read {error.filename} ({error.strerror}); expected {ARRAYS} and {CARD}") from None
        try:
            card = BankCard.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise BankError(f"bank {folder / CARD}: {where}: {first['msg']}") from None
        if card.format != FORMAT:
            raise BankError(f"bank {folder / CARD}: format {card.format}; this version reads format {FORMAT}")
        digest = hashlib.sha256(raw).hexdigest()
        if digest != card.arrays_sha256:
            raise BankError(
                f"bank {folder / ARRAYS}: sha256 {digest[:16]}…, the card expects {card.arrays_sha256[:16]}…; the file is corrupt or from another fit"
            )
        try:
            directions = load_arrays(raw)["directions"]
        except (SafetensorError, KeyError) as error:
            raise BankError(f"bank {folder / ARRAYS}: no readable array 'directions' ({error})") from None
        expected = (len(card.probes), card.model.width)
        if directions.shape != expected or directions.dtype != np.float32 or not np.isfinite(directions).all():
            raise BankError(
                f"bank {folder / ARRAYS}: directions are {directions.dtype}{list(directions.shape)}; expected finite float32{list(expected)}"
            )
        deepest = max(probe.layer for probe in card.probes)
        if deepest >= card.model.layers:
            raise BankError(
                f"bank {folder / CARD}: a probe reads layer {deepest}; {card.model.name} has layers 0 to {card.model.layers - 1}"
            )
        return cls(card, directions)

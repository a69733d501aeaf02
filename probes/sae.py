"""A feature of a sparse autoencoder as a probe: its decoder direction, calibrated like any other.

Reads the folder format of SAELens: `cfg.json` (with `hook_name` or `metadata.hook_name`, such as
`blocks.11.hook_resid_post`) and `sae_weights.safetensors` with `W_dec` [features, width].
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import transformers
from safetensors import SafetensorError
from safetensors.numpy import load_file

from probes.bank import FORMAT, Bank, BankCard, ModelCard, ProbeCard, config_hash
from probes.fit import sealed
from probes.methods import Floats, unit
from probes.passport import Passport
from probes.reader import Reader


class SaeError(Exception):
    """An autoencoder that cannot be read, or that belongs to another model."""


@dataclass(frozen=True)
class Sae:
    """Decoder directions [features, width] of an autoencoder at the output of one decoder layer."""

    decoder: Floats
    layer: int
    digest: str

    @classmethod
    def read(cls, folder: Path) -> Sae:
        try:
            config = json.loads((folder / "cfg.json").read_text("utf-8"))
            weights = load_file(folder / "sae_weights.safetensors")
            raw = (folder / "sae_weights.safetensors").read_bytes()
        except (OSError, ValueError, SafetensorError) as error:
            raise SaeError(f"autoencoder {folder}: {error}; expected cfg.json and sae_weights.safetensors as SAELens writes them") from None
        hook = str(config.get("hook_name") or config.get("metadata", {}).get("hook_name", ""))
        found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(post|pre)", hook)
        if not found:
            raise SaeError(f"autoencoder {folder}: hook_name is '{hook}'; supported are blocks.N.hook_resid_post and hook_resid_pre")
        layer = int(found[1]) - (found[2] == "pre")
        if layer < 0 or "W_dec" not in weights or weights["W_dec"].ndim != 2:
            raise SaeError(f"autoencoder {folder}: needs W_dec [features, width] at the output of a decoder layer")
        return cls(np.asarray(weights["W_dec"], np.float32), layer, hashlib.sha256(raw).hexdigest())


def bank_of(reader: Reader, sae: Sae, features: dict[str, int]) -> Bank:
    """An uncalibrated bank of the named features. Raises SaeError when they do not fit the model."""
    if sae.decoder.shape[1] != reader.width or sae.layer > reader.layers - 2:
        raise SaeError(
            f"autoencoder of width {sae.decoder.shape[1]} at layer {sae.layer} does not fit {reader.name} (width {reader.width}, layers to {reader.layers - 2})"
        )
    bad = [number for number in features.values() if not 0 <= number < len(sae.decoder)]
    if bad:
        raise SaeError(f"feature {bad[0]} is not in the autoencoder; it has 0 to {len(sae.decoder) - 1}")
    directions = unit(sae.decoder[list(features.values())])
    probes = [
        ProbeCard(
            name=name, group="feature", layer=sae.layer, concept=f"feature {number} of autoencoder {sae.digest[:16]}", method="decoder direction",
            neutral_mean=0.0, neutral_std=1.0,
        )
        for name, number in features.items()
    ]  # fmt: skip
    card = BankCard(
        format=FORMAT,
        model=ModelCard(
            name=reader.name, width=reader.width, layers=reader.layers, config_hash=config_hash(reader.config.to_dict()), dtype=reader.dtype
        ),
        passport=Passport.of(reader.model, f"transformers {transformers.__version__}"),
        probes=probes,
        arrays_sha256="",
        corpus_sha256="",
        fitted_with=f"autoencoder {sae.digest[:16]}",
        limits=["A feature's name is its finder's reading of it; no error figures until it is evaluated."],
    )
    return sealed(card, directions, directions)

"""A small sentence encoder, such as all-MiniLM-L6-v2: a rival of the probes that reads the text alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from probes.methods import Floats
from probes.reader import ReadError

BATCH = 64
MAX_TOKENS = 256


class Encoder:
    """A model of transformers that is read as the mean of its last states, as sentence encoders are trained. Each text is encoded once."""

    def __init__(self, folder: Path) -> None:
        """Raises ReadError."""
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
            self._model: Any = transformers.AutoModel.from_pretrained(folder, dtype="float32").eval()
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ReadError(
                f"cannot load encoder '{folder}' ({reason}); expected a folder of a sentence encoder in transformers' format"
            ) from None
        self._kept: dict[str, Floats] = {}

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Unit vectors [texts, width]."""
        new = sorted({text for text in texts if text not in self._kept}, key=len)
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            self._kept.update(zip(batch, self._encode(batch), strict=True))
        return np.stack([self._kept[text] for text in texts])

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> Floats:
        inputs = self._tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        states, mask = self._model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        means = (states * mask).sum(dim=1) / mask.sum(dim=1)
        vectors: Floats = torch.nn.functional.normalize(means, dim=-1).numpy()
        return vectors

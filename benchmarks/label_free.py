"""Is a broken quantisation told from a harmless one without labels? Weights rounded to 8, 4 and 3 bits, and float32, against the checkpoint as it is.

Bad ones are those whose perplexity on neutral replies is at least a fifth higher. The AUROC is of the divergence of draws of prompts: bad against harmless.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import emit
from monitor import models
from monitor.config import BANKS
from probes.bank import Bank
from probes.corpus import Corpus
from probes.label_free import compare, scores_of
from probes.reader import Reader
from probes.statistics import auroc

WORSE = 1.2
TEXTS = 40
WAYS = ("bfloat16", "float32", "8 bits", "int8 weights and activations", "4 bits", "3 bits")


def rounded(reader: Reader, bits: int) -> None:
    """Weights of the decoder's linear layers to `bits` bits, a scale a row."""
    with torch.no_grad():
        for name, module in reader.model.named_modules():
            if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
                weight = module.weight.float()
                scale = weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
                module.weight.copy_((weight / scale).round() * scale)


@torch.no_grad()
def perplexity(reader: Reader, corpus: Corpus) -> float:
    total, count = 0.0, 0
    for text in corpus.neutral[:TEXTS]:
        ids, start = reader.encode(text, 128)
        logs = torch.log_softmax(reader.model(input_ids=torch.tensor([ids])).logits[0].float(), dim=-1)
        total -= float(logs[range(start - 1, len(ids) - 1), ids[start:]].sum())
        count += len(ids) - start
    return float(np.exp(total / count))


def main() -> None:
    bank, corpus = Bank.load(BANKS / models.BUNDLED_NAME.lower()), Corpus.read()
    source = models.resolve(models.BUNDLED)
    scores, found = {}, dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory() as work:
        for way in WAYS:
            reader = Reader(source, models.BUNDLED_NAME, "cpu", "float32" if way == "float32" else "bfloat16")
            if way.endswith("bits"):
                rounded(reader, int(way[0]))
            if way.startswith("int8"):
                reader.quantise()
            found[way] = {"perplexity": round(perplexity(reader, corpus), 2)}
            scores[way] = scores_of(reader, bank, Path(work), lambda _: None)
            print(way, found[way], flush=True)
    draws = {}
    for way in WAYS[1:]:
        made = compare(scores[WAYS[0]], scores[way], bank.names)
        found[way] |= {
            "verdict": made.verdict,
            "divergence": round(made.divergence[0], 4),
            "chance": round(made.chance, 4),
            "auroc": round(made.auroc, 4),
        }
        draws[way] = np.array(made.draws)
    bad = [way for way in WAYS[1:] if found[way]["perplexity"] > WORSE * found[WAYS[0]]["perplexity"]]
    harmless = np.concatenate([draws[way] for way in WAYS[1:] if way not in bad])
    emit("label_free", model=models.BUNDLED_NAME, ways=found, bad={way: round(auroc(draws[way], harmless), 4) for way in bad})


if __name__ == "__main__":
    main()

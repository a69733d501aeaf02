"""What a fit spends its time on, our way against the plain one, side by side: replies written, and texts read.

Writing: chance by blocks and batches that shrink, against transformers' `generate` with the same cache and attention. Reading: small batches whose prompts' common beginning is
read once, against small batches, against large ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.report import emit
from monitor import models
from probes import prompts, reader
from probes.corpus import Corpus
from probes.decode import continued
from probes.grouped import grouped
from probes.reader import Reader, batches

ROWS, TOKENS = 93, 160
LARGE = 4096  # tokens a batch
TEXTS = 15  # one of so many of the corpus


@torch.no_grad()
def plainly(source: Reader, encoded: Sequence[Sequence[int]], tokens: int, temperature: float) -> None:
    pad = source.tokenizer.pad_token_id
    length = max(map(len, encoded))
    ids = torch.tensor([[pad] * (length - len(row)) + list(row) for row in encoded])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in encoded])
    with grouped(source.model):
        source.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=tokens, pad_token_id=pad, cache_implementation="static", disable_compile=True,
            do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
        )  # fmt: skip


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return round(time.perf_counter() - start, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    options = parser.parse_args()
    source = Reader(models.resolve(options.model), models.served_name(options.model), "cpu", fast=True)
    asked = [source.prompt(each.turns) for each in prompts.setting(Corpus.read())[:ROWS]]
    texts = [source.encode(text) for text in Corpus.read().texts[::TEXTS]]

    def read() -> list[np.ndarray]:
        return [source._read([texts[i] for i in batch]) for batch in batches(texts)]

    continued(source, asked, 1, 1.0)  # warms up
    writing = {
        "ours": seconds(lambda: continued(source, asked, TOKENS, 1.0)),
        "generate": seconds(lambda: plainly(source, asked, TOKENS, 1.0)),
    }
    shared, reader._shared = reader._shared, lambda encoded: 0
    small, reader.TOKENS_A_BATCH = reader.TOKENS_A_BATCH, LARGE
    reading = {"large batches": seconds(read)}
    reader.TOKENS_A_BATCH = small
    reading["small batches"] = seconds(read)
    reader._shared = shared
    reading["beginnings read once"] = seconds(read)
    emit(
        "fit_parts",
        model=source.name,
        dtype=source.dtype,
        threads=torch.get_num_threads(),
        replies=ROWS,
        tokens_at_most=TOKENS,
        texts=len(texts),
        writing_s=writing,
        reading_s=reading,
        writing_ratio=round(writing["generate"] / writing["ours"], 2),
        reading_ratio=round(reading["large batches"] / reading["beginnings read once"], 2),
    )


if __name__ == "__main__":
    main()

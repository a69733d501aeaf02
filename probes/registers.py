"""Neutral texts by register: a probe's zero is the model's own prose, and other kinds of text may lie beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probes.bank import Bank
from probes.corpus import Corpus
from probes.labelled import Labelled
from probes.material import comment, echoes
from probes.reader import Reader

COMMENTS = 500
CODE = re.compile(
    r"^(#!|def |for |if |class |fn |func |SELECT |FROM |import |<\w|\{|\[|public |const |sum by|User-agent|apiVersion|service:|build:)",
    re.MULTILINE,
)
LISTED = re.compile(r"^(\||- |\d+\. )", re.MULTILINE)


def neutral_registers(
    reader: Reader, bank: Bank, corpus: Corpus, labelled: Sequence[Labelled], work: Path
) -> dict[str, NDArray[np.float32]]:
    """Mean z [n, k] of the neutral texts of each register."""
    neutral = corpus.neutral
    kinds = np.array(
        ["code" if CODE.search(text.reply) else "lists and tables" if LISTED.search(text.reply) else "prose" for text in neutral]
    )
    states = reader.means(neutral, work)
    groups = {kind: states[kinds == kind] for kind in ("prose", "code", "lists and tables")}
    groups["reply to an upset user"] = reader.means(echoes(corpus), work)
    comments = [text for file in labelled if file.labels for text, plain in zip(file.texts, file.neutral(), strict=True) if plain][
        :COMMENTS
    ]
    if comments:
        groups["comments by people"] = reader.means([comment(text, 1) for text in comments], work)
    weight, bias = bank.affine()
    columns = [layer + 1 for layer in bank.layers]
    return {
        kind: np.stack([each[:, column].astype(np.float32) @ weight[:, i] + bias[i] for i, column in enumerate(columns)], axis=1)
        for kind, each in groups.items()
        if len(each)
    }

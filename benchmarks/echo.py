"""How far a user's own words echo in the scores of the reply: can the label that people gave to a message be told from what the model's states are while it answers?

Two groups of messages that people labelled, those that show a concept and neutral ones, are put to the model as they are. AUROC 0.5 means that scores say nothing about the writer's
message. The file is the user's (columns text and labels, such as GoEmotions' dev split) and is not shipped: python -m benchmarks.echo FILE
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from monitor import models
from monitor.config import Config
from probes.labelled import Labelled
from probes.reader import Reader
from probes.scoring import generate
from probes.statistics import auroc, bootstrap

PROBES = ("panic", "hostility")  # for which such files have labels
EACH, TOKENS, LATER = 192, 32, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    file = Labelled.read(parser.parse_args().file)
    config = Config()
    bank = config.load_bank()
    reader = Reader(models.resolve(config.engine.model), config.model_name(), device="cpu")
    random = np.random.default_rng(0)
    neutral = random.choice(np.flatnonzero(file.neutral()), EACH, replace=False)
    found: dict[str, Any] = {}
    read = {"neutral": scores(reader, bank, [file.texts[i] for i in neutral])}
    for probe in PROBES:
        shown = np.flatnonzero(file.truth(probe) == 1)
        rows = random.choice(shown, min(EACH, len(shown)), replace=False)
        read[probe] = scores(reader, bank, [file.texts[i] for i in rows])
        column = bank.names.index(probe)
        for part, values in read[probe].items():
            positive, negative = values[:, column], read["neutral"][part][:, column]
            low, high = bootstrap(auroc, positive, negative)
            found.setdefault(probe, {})[part] = {
                "messages": [len(positive), len(negative)], "auroc": round(auroc(positive, negative), 3), "ci": [round(low, 3), round(high, 3)],
                "z_of_labelled": round(float(positive.mean()), 2), "z_of_neutral": round(float(negative.mean()), 2),
            }  # fmt: skip
    print(report.keep("echo", model=config.model_name(), file=file.name, digest=file.digest[:12], tokens=TOKENS, probes=found))


def scores(reader: Reader, bank: Any, texts: list[str]) -> dict[str, Any]:
    """By part of the reply, the mean scores [texts, probes]: the first token's, which is read at the end of the prompt; the whole reply's; of what comes after 16 tokens."""
    made = [each.scores for each in generate(reader, bank, texts, TOKENS)]
    late = [each[LATER:] if len(each) > LATER else each[-1:] for each in made]
    return {
        "first token": np.array([each[0] for each in made]),
        "whole reply": np.array([each.mean(axis=0) for each in made]),
        "after 16 tokens": np.array([each.mean(axis=0) for each in late]),
    }


if __name__ == "__main__":
    main()

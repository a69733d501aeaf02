"""What would more data, another layer or a larger model give? The alarm probes fitted on shares of their texts, and at every layer, beside readers of text.

Nothing is chosen here: method and layer are the bank's, and the judges are texts that no fit sees: a human-labelled file, of which the first texts are
taken as `probes eval` takes them, and the held-out topics against texts alike. Whoever chose a layer by this table would tune to the test. A share is
the mean of draws. The size of the model is compared by running this for each.

python -m benchmarks.curve --model smollm2 --train goemotions_train.tsv --judge goemotions_dev.tsv [--encoder FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import emit
from monitor import models
from monitor.commands.probes import TEXTS
from monitor.config import BANKS
from probes.bank import Bank
from probes.baselines import Baselines
from probes.corpus import Corpus
from probes.encoder import Encoder
from probes.evaluation import LABELLED_TEXTS
from probes.fit import direction_of
from probes.labelled import Labelled
from probes.material import Material, comment
from probes.reader import Reader
from probes.statistics import auroc, auroc_interval

CONCEPTS = ("desperation", "panic", "hostility")
SHARES = {0.0625: 3, 0.125: 3, 0.25: 3, 0.5: 2, 1.0: 1}  # and how often each is drawn


@dataclass(frozen=True)
class Judge:
    """Texts that no fit sees: their states [n, columns, width], and which of them show the concept."""

    name: str
    texts: list[str]
    states: NDArray[np.float16]
    shows: NDArray[np.bool_]

    def __call__(self, scores: NDArray[np.floating[Any]]) -> float:
        return auroc(scores[self.shows], scores[~self.shows])

    def interval(self, value: float) -> tuple[float, float]:
        return auroc_interval(value, int(self.shows.sum()), int((~self.shows).sum()))


def share_of(material: Material, share: float, seed: int) -> Material:
    """The rest of the training texts counts as test texts, which no fit looks at."""
    left = np.random.default_rng(seed).random(len(material.texts)) >= share
    return replace(material, split=np.where(left, "test", material.split))


def judges(material: Material, name: str, file: Labelled, rows: NDArray[np.intp], states: NDArray[np.float16]) -> Iterator[Judge]:
    truth, test = material.truth(name), material.rows("test", "own") & (material.form != "emotion")
    held = np.flatnonzero(test & (truth >= 0))
    yield Judge("held-out topics", [material.texts[row].reply for row in held], material.states[held], truth[held] == 1)
    labels = file.truth(name)[rows]
    if (labels == 1).any():
        kept = np.flatnonzero(labels >= 0)
        yield Judge(file.name, [file.texts[row] for row in rows[kept]], states[kept], labels[kept] == 1)


def areas(
    material: Material, name: str, layer: int, method: str, encoder: Encoder | None, asked: Sequence[Judge]
) -> list[dict[str, float]]:
    """By judge: the areas of the probe and of readers of text, fitted on the same texts."""
    direction = direction_of(material, material.truth(name), method, layer, material.split != "test")
    rivals, found = Baselines(material, name, encoder), []
    for judge in asked:
        probe = judge.states[:, layer + 1].astype(np.float32) @ direction
        others = rivals.scores(judge.texts, judge.states)
        found.append({"probe": judge(probe), **{key: judge(scores) for key, scores in others.items() if key != "lexicon"}})
    return found


def by_layer(material: Material, name: str, method: str, layers: Sequence[int], asked: Sequence[Judge]) -> list[dict[str, float]]:
    """By judge: the area at each layer."""
    truth, rows = material.truth(name), material.split != "test"
    found: list[dict[str, float]] = [{} for _ in asked]
    for layer in layers:
        direction = direction_of(material, truth, method, layer, rows)
        for judge, values in zip(asked, found, strict=True):
            values[str(layer)] = round(judge(judge.states[:, layer + 1].astype(np.float32) @ direction), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=models.BUNDLED)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--work", type=Path, default=models.cache_dir() / "work")
    options = parser.parse_args()
    bank = Bank.load(BANKS / models.served_name(options.model).lower())
    reader, encoder = Reader(models.resolve(options.model), models.served_name(options.model), fast=True), None
    if options.encoder:
        encoder = Encoder(options.encoder)
    file = Labelled.read(options.judge)
    material = Material.gather(reader, Corpus.read(), [Labelled.read(options.train)], TEXTS, options.work, print)
    rows = np.random.default_rng(2).permutation(len(file.texts))[:LABELLED_TEXTS]
    states = reader.means([comment(file.texts[row], 1) for row in rows], options.work, print)
    table: dict[str, Any] = {}
    for name in CONCEPTS:
        card, asked = bank[name], list(judges(material, name, file, rows, states))
        drawn = {
            share: [areas(share_of(material, share, seed), name, card.layer, card.method, encoder, asked) for seed in range(draws)]
            for share, draws in SHARES.items()
        }
        layers = by_layer(material, name, card.method, range(0, reader.layers - 1, 2), asked)
        for number, judge in enumerate(asked):
            shares = {
                str(share): {key: round(float(np.mean([draw[number][key] for draw in draws])), 3) for key in draws[0][number]}
                for share, draws in drawn.items()
            }
            table[f"{name}, {judge.name}"] = {
                "positives": int(judge.shows.sum()), "negatives": int((~judge.shows).sum()), "layer": card.layer, "method": card.method,
                "ci95": [round(each, 3) for each in judge.interval(shares["1.0"]["probe"])], "shares": shares, "layers": layers[number],
            }  # fmt: skip
            print(name, judge.name, table[f"{name}, {judge.name}"], flush=True)
    name = "curve" if options.model == models.BUNDLED else f"curve_{options.model}"
    trained = int((material.split != "test").sum())
    emit(name, model=bank.card.model.name, dtype=reader.dtype, texts=trained, encoder=bool(encoder), curves=table)


if __name__ == "__main__":
    main()

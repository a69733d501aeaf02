"""How well the probes of a bank do: held-out topics and forms, hard cases, human labels, the text itself as a rival.

A text's score is the mean z of its tokens. The threshold of the rates is the 99th percentile of neutral texts that no fit
has seen. Nothing in here chooses anything: layer, method and thresholds were fixed before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probes import suites
from probes.bank import HELD_OUT, Bank, Figure
from probes.baselines import Baselines
from probes.corpus import Corpus
from probes.fit import SAFETY, direction_of
from probes.labelled import Labelled
from probes.material import Material, comment
from probes.methods import Floats
from probes.reader import Reader, Say
from probes.scoring import token_scores
from probes.statistics import auroc, figure, paired, ranking
from probes.windows import windowed

LABELLED_TEXTS = 4000
HELD_OUT_FORMS = ("reply", "dialogue", "log", "shutdown", "first", "second", "third")


class Evaluation:
    """Measures one bank. `figures` is filled by `run`: probe → its figures."""

    def __init__(self, reader: Reader, bank: Bank, corpus: Corpus, labelled: Sequence[Labelled], work: Path, say: Say, count: int) -> None:
        self.reader, self.bank, self.corpus, self.labelled, self.work, self.say = reader, bank, corpus, labelled, work, say
        trained = [file for file in labelled if any(file.digest[:16] in line for line in bank.card.labelled)]
        self.material = Material.gather(reader, corpus, trained, count, work, say)
        self._taken = {file.digest: set(rows.tolist()) for file, rows in self.material.labels}
        self._baselines: dict[str, Baselines] = {}
        self.figures: dict[str, list[Figure]] = {}
        self.weight, self.bias = bank.affine()

    def run(self) -> Bank:
        """The bank with its evaluation in the card."""
        names = [each for each in SAFETY if each in self.bank.names]
        for number, name in enumerate(names, 1):
            self.figures[name] = [*self._topics(name), *self._forms(name), *self._hard_cases(name), *self._labelled(name)]
            self.say(f"evaluated {number} of {len(names)} probes")
        for name in ("valence", "arousal"):
            if name in self.bank.names:
                self.figures[name] = self._rated(name)
        probes = [card.model_copy(update={"evaluation": self.figures.get(card.name, card.evaluation)}) for card in self.bank.card.probes]
        return self.bank.with_cards(probes)

    def baselines(self, name: str) -> Baselines:
        """The rivals of a probe, fitted once."""
        if name not in self._baselines:
            self._baselines[name] = Baselines(self.material, name)
        return self._baselines[name]

    def score(self, name: str, states: NDArray[np.float16]) -> Floats:
        """Mean z [n] of texts from their mean states [n, columns, width]."""
        i = self.bank.names.index(name)
        scores: Floats = states[:, self.bank.layers[i] + 1].astype(np.float32) @ self.weight[:, i] + self.bias[i]
        return scores

    def limit(self, name: str) -> float:
        """The 99th percentile of unseen neutral texts."""
        neutral = self.material.rows("test", "own") & (self.material.concept == "")
        return float(np.quantile(self.score(name, self.material.states[neutral]), 0.99))

    def _topics(self, name: str) -> list[Figure]:
        material, truth = self.material, self.material.truth(name)
        scores, test = self.score(name, material.states), material.rows("test", "own")
        baselines = self.baselines(name)
        rows = np.flatnonzero(test & (truth >= 0))
        rivals = baselines.scores([material.texts[row].reply for row in rows], material.states[rows])
        right = truth[rows] == 1
        held_out = figure(HELD_OUT, scores[test & (truth == 1)], scores[test & (truth == 0)], self.limit(name))
        held_out = held_out.model_copy(update={"baselines": {key: round(auroc(v[right], v[~right]), 4) for key, v in rivals.items()}})
        echo, plain = scores[material.rows("test", "echo")], scores[test & (material.concept == "")]
        return [held_out, figure("speaker leak: neutral reply to an upset user", echo, plain, self.limit(name))]

    def _forms(self, name: str) -> list[Figure]:
        """Each form left out of the fit in turn, at the chosen layer and with the chosen method, without labelled texts."""
        material, truth = self.material, self.material.truth(name)
        card = self.bank[name]
        forms = np.array([text.form for text in material.texts])
        found = []
        for form in HELD_OUT_FORMS:
            seen = np.isin(material.source, ("own", "echo")) & (material.split != "test") & (forms != form)
            direction = direction_of(material, truth, card.method, card.layer, seen)
            scores = material.states[:, card.layer + 1].astype(np.float32) @ direction
            neutral = scores[material.rows("test", "own") & (material.concept == "")]
            left = forms == form
            found.append(
                figure(
                    f"held-out form: {form}",
                    scores[left & (truth == 1)],
                    scores[left & (truth == 0)],
                    float(np.quantile(neutral, 0.99)),
                    300,
                )
            )
        return found

    def _hard_cases(self, name: str) -> list[Figure]:
        material = self.material
        truth, scores, test = material.truth(name), self.score(name, material.states), material.rows("test", "own")
        positive, neutral = scores[test & (truth == 1)], scores[test & (material.concept == "")]
        baselines = self.baselines(name)
        rivals = {
            "positive": baselines.text([t.reply for t, u in zip(material.texts, test & (truth == 1), strict=True) if u]),
            "neutral": baselines.text([t.reply for t, u in zip(material.texts, test & (material.concept == ""), strict=True) if u]),
        }
        found = []
        for suite in suites.read():
            if suite.concept != name:
                continue
            cases = self.score(name, self.reader.means(suite.texts, self.work))
            text = baselines.text([each.reply for each in suite.texts])
            shown, hidden = (cases, neutral) if suite.positive else (positive, cases)
            rival = auroc(text, rivals["neutral"]) if suite.positive else auroc(rivals["positive"], text)
            made = figure(suite.name, shown, hidden, self.limit(name))
            found.append(made.model_copy(update={"baselines": {"TF-IDF": round(rival, 4)}}))
        return found

    def _labelled(self, name: str) -> list[Figure]:
        """Human-labelled texts that the fit has not seen."""
        found = []
        for file in self.labelled:
            truth = file.truth(name)
            if file.ratings is not None or not (truth == 1).any():
                continue
            rows = np.array([row for row in file.sample(len(file.texts)) if row not in self._taken.get(file.digest, ())][:LABELLED_TEXTS])
            texts = [comment(file.texts[row], 1) for row in rows]
            states = self.reader.means(texts, self.work, self.say)
            scores, right, wrong = self.score(name, states), truth[rows] == 1, truth[rows] == 0
            limit = float(np.quantile(scores[file.neutral()[rows]], 0.99)) if file.neutral()[rows].any() else self.limit(name)
            made = figure(f"human labels: {file.name}", scores[right], scores[wrong], limit, 300)
            rivals = self.baselines(name).scores([text.reply for text in texts], states)
            found.append(made.model_copy(update={"baselines": {key: round(auroc(v[right], v[wrong]), 4) for key, v in rivals.items()}}))
        return found

    def _rated(self, name: str) -> list[Figure]:
        """Correlation with human ratings of sentences."""
        found = []
        for file in self.labelled:
            if file.ratings is None:
                continue
            unseen = np.random.default_rng(1).permutation(len(file.texts))[-LABELLED_TEXTS // 2 :]
            states = self.reader.means([comment(file.texts[row], 1) for row in unseen], self.work, self.say)
            scores, truth = self.score(name, states), file.ratings[unseen, 0 if name == "valence" else 1]

            def r(a: Floats, b: Floats) -> float:
                return float(np.corrcoef(a, b)[0, 1])

            found.append(
                Figure(
                    suite=f"correlation with ratings: {file.name}",
                    positives=len(unseen),
                    negatives=0,
                    value=r(scores, truth),
                    value_ci=paired(r, scores, truth, draws=300),
                )
            )
        return found


def long_context(reader: Reader, evaluation: Evaluation, name: str, tokens: int = 4000) -> Figure:
    """A text of the concept of some 40 tokens within `tokens` of neutral text: the highest rolling mean of 16 tells them apart?"""
    corpus, bank = evaluation.corpus, evaluation.bank
    i = bank.names.index(name)
    neutral = [text for text in corpus.texts if not text.concept]
    signal = [text for text in corpus.texts if text.concept == name and text.split == "test"]
    random = np.random.default_rng(0)
    peaks: dict[bool, list[float]] = {True: [], False: []}
    for number, text in enumerate(signal[:5]):
        for present in (True, False):
            order = random.permutation(len(neutral))
            parts = [neutral[row].reply for row in order]
            lengths = np.cumsum([len(part) // 4 for part in parts])
            parts = parts[: int(np.searchsorted(lengths, tokens)) + 1]
            if present:
                words = text.reply.split()
                parts.insert(len(parts) // 2, " ".join(words[:32]))
            long = replace(text, prompt="Write a long text about many things.", reply="\n\n".join(parts), concept="")
            scores = token_scores(reader, bank, long, tokens + 500)[:, i]
            peaks[present].append(float(windowed(scores[8:, None], "mean(16)").max()))
        evaluation.say(f"long context: {name} {number + 1} of 5")
    return ranking("40 tokens within 4,000", np.array(peaks[True]), np.array(peaks[False]))

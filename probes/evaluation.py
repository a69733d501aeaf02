"""How well the probes of a bank do: held-out topics and ways of writing, hard cases, human labels, the text itself as a rival.

How well texts are told apart is judged by the mean z of their tokens. The rates are those of the default rules: a text is found, or is a false
alarm, where ewma(8) stays above the shipped threshold for eight tokens. Nothing in here chooses anything: layer, method and thresholds were fixed
before, on other texts. Where a form is held out, layer and method are chosen anew without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probes import suites
from probes.bank import HELD_OUT, READERS, TOGETHER, Bank, Figure
from probes.baselines import Baselines
from probes.circumplex import AXES
from probes.corpus import Corpus, Text
from probes.encoder import Encoder
from probes.fit import FORMS, SAFETY, chosen_without, direction_of
from probes.labelled import Labelled
from probes.material import Material, comment
from probes.methods import Floats
from probes.quiet import REPLY_RATE
from probes.reader import SKIP, Reader, Say
from probes.scoring import HOLD, RULE_WINDOW, peaks, read, token_scores
from probes.statistics import auroc, clustered, figure, found_at, paired, with_rates
from probes.windows import windowed

LABELLED_TEXTS = 2000


@dataclass(frozen=True)
class Sight:
    """Texts as some probes see them: mean z and whether the default rule's condition is met [n, k]; mean embeddings of the words [n, 1, width]."""

    mean: Floats
    met: NDArray[np.bool_]
    words: NDArray[np.float16]


class Evaluation:
    """Measures one bank. `figures` is filled by `run`: probe → its figures."""

    def __init__(
        self, reader: Reader, bank: Bank, corpus: Corpus, labelled: Sequence[Labelled], work: Path, say: Say, count: int, encoder: Encoder | None = None
    ) -> None:  # fmt: skip
        self.reader, self.bank, self.corpus, self.labelled, self.work, self.say = reader, bank, corpus, labelled, work, say
        trained = [file for file in labelled if any(file.digest[:16] in line for line in bank.card.labelled)]
        self.material = Material.gather(reader, corpus, trained, count, work, say)
        self._taken = {file.digest: set(rows.tolist()) for file, rows in self.material.labels}
        self._baselines: dict[str, Baselines] = {}
        self._encoder = encoder
        self.figures: dict[str, list[Figure]] = {}
        self.weight, self.bias = bank.affine()
        self.deep = [name for name in SAFETY if name in bank.names]
        self._kept: dict[str, Sight] = {}
        test = np.flatnonzero(self.material.split == "test")
        self._met = np.zeros((len(self.material.texts), len(self.deep)), bool)
        self._met[test] = self.look([self.material.texts[row] for row in test]).met

    def run(self) -> Bank:
        """The bank with its evaluation in the card."""
        for number, name in enumerate(self.deep, 1):
            self.figures[name] = [*self._topics(name), *self._forms(name), *self._hard_cases(name), *self._labelled(name)]
            self.say(f"evaluated {number} of {len(self.deep)} probes")
        for name in AXES:
            if name in self.bank.names:
                self.figures[name] = self._rated(name)
        kept = {card.name: [each for each in card.evaluation if each.windows_over is not None] for card in self.bank.card.probes}
        probes = [card.model_copy(update={"evaluation": [*self.figures[card.name], *kept[card.name]]}) if card.name in self.figures else card
                  for card in self.bank.card.probes]  # fmt: skip
        return self.bank.with_cards(probes)

    def baselines(self, name: str) -> Baselines:
        """The rivals of a probe, fitted once."""
        if name not in self._baselines:
            self._baselines[name] = Baselines(self.material, name, self._encoder)
        return self._baselines[name]

    def score(self, name: str, states: NDArray[np.float16]) -> Floats:
        """Mean z [n] of texts from their mean states [n, columns, width]."""
        i = self.bank.names.index(name)
        scores: Floats = states[:, self.bank.layers[i] + 1].astype(np.float32) @ self.weight[:, i] + self.bias[i]
        return scores

    def look(self, texts: Sequence[Text], names: Sequence[str] | None = None) -> Sight:
        """Texts read once, token by token, for some probes of the bank; by default the deep ones."""
        bank = self.bank.select(names or self.deep)
        chats = [self.reader.encode(text) for text in texts]
        scores = read(self.reader, bank, chats, self.say)
        first = [min(SKIP, len(each) // 4) for each in scores]
        limits = [bank.limit(name, RULE_WINDOW, REPLY_RATE, replies=True) for name in bank.names]
        table = self.reader.model.get_input_embeddings().weight.detach()
        words = [
            table[ids[start - 1 + skip : len(ids) - 1]].float().mean(dim=0).cpu().numpy()
            for (ids, start), skip in zip(chats, first, strict=True)
        ]
        return Sight(
            np.stack([each[skip:].mean(axis=0) for each, skip in zip(scores, first, strict=True)]),
            peaks(scores, RULE_WINDOW, HOLD) > np.array([np.inf if each is None else each for each in limits]),
            np.stack(words)[:, None].astype(np.float16),
        )

    def _once(self, key: str, texts: Sequence[Text]) -> Sight:
        """The same texts are looked at for one probe after the other."""
        if key not in self._kept:
            self._kept[key] = self.look(texts)
        return self._kept[key]

    def _figure(self, suite: str, scores: Floats, met: NDArray[np.bool_], shows: NDArray[np.bool_], not_: NDArray[np.bool_]) -> Figure:
        made = with_rates(figure(suite, scores[shows], scores[not_]), met[shows], met[not_])
        rare = found_at(0.01, scores[shows], scores[not_]) if shows.any() else None
        return made if rare is None else made.model_copy(update={"tpr_at_1": rare[0], "tpr_at_1_ci": rare[1]})

    def _rivals(
        self, name: str, texts: Sequence[str], states: NDArray[np.float16], shows: NDArray[np.bool_], not_: NDArray[np.bool_]
    ) -> dict[str, float]:
        values = self.baselines(name).scores(texts, states)
        return {key: round(auroc(each[shows], each[not_]), 4) for key, each in values.items()}

    def _topics(self, name: str) -> list[Figure]:
        """Against texts on the same topics, of the same forms and lengths; against the other emotions that are not near it, which are shorter; and against the user's words."""
        material, truth = self.material, self.material.truth(name)
        scores, met, test = self.score(name, material.states), self._met[:, self.deep.index(name)], material.rows("test", "own")
        shows, alike = test & (truth == 1), test & (truth == 0) & (material.form != "emotion")
        texts = [text.reply for text in material.texts]
        held_out = self._figure(HELD_OUT, scores, met, shows, alike)
        held_out = held_out.model_copy(update={"baselines": self._rivals(name, texts, material.states, shows, alike)})
        # One in a hundred is not to be told from the alike ones alone: they are too few.
        rare = found_at(0.01, scores[shows], scores[test & (truth == 0)])
        if rare is not None:
            held_out = held_out.model_copy(update={"tpr_at_1": rare[0], "tpr_at_1_ci": rare[1]})
        others = self._figure("the other emotions", scores, met, shows, test & (truth == 0) & (material.form == "emotion"))
        return [held_out, others, self._leak(scores, met)]

    def _leak(self, scores: Floats, met: NDArray[np.bool_]) -> Figure:
        """The same neutral replies to upset users and to plain ones; both are drawn together when intervals are made."""
        material = self.material
        echo, plain = material.rows("test", "echo"), material.rows("test", "own") & material.neutral
        made = self._figure("speaker leak: neutral reply to an upset user", scores, met, echo, plain)
        rows = np.flatnonzero(echo | plain)
        _, reply = np.unique([material.texts[row].reply for row in rows], return_inverse=True)
        upset = echo[rows].astype(np.float32)
        interval = clustered(lambda s, u: auroc(s[u == 1], s[u == 0]), reply, scores[rows], upset)
        return made.model_copy(update={"auroc_ci": interval, "tpr_at_1": None, "tpr_at_1_ci": None})

    def _forms(self, name: str) -> list[Figure]:
        """Each way of writing left out in turn: of the fit, and of the choice of layer and method. Without labelled texts."""
        material, truth, found = self.material, self.material.truth(name), []
        for label, forms in FORMS.items():
            left = np.isin(material.form, forms) & (material.source == "own")
            if not (left & (truth == 1)).any():
                continue
            best = chosen_without(material, truth, left, self.reader.layers)
            direction = direction_of(
                material, truth, best.method, best.layer, np.isin(material.source, ("own", "echo")) & (material.split != "test") & ~left
            )
            scores = material.states[:, best.layer + 1].astype(np.float32) @ direction
            found.append(figure(f"held-out form: {label}", scores[left & (truth == 1)], scores[left & (truth == 0)]))
        return found

    def _hard_cases(self, name: str) -> list[Figure]:
        """Each suite alone: one with both signs as pairs of its own, others against held-out topics; and all of it together."""
        material, truth = self.material, self.material.truth(name)
        deep, test = self.deep.index(name), material.rows("test", "own")
        shows, plain = test & (truth == 1), test & material.neutral
        base = np.flatnonzero(shows | plain)
        cases = [suite for suite in suites.read() if suite.concept == name]
        if not cases:
            return []
        hard = [text for suite in cases for text in suite.texts]
        texts = [*(material.texts[row].reply for row in base), *(text.reply for text in hard)]
        sight = self.look(hard)
        scores = np.concatenate([self.score(name, material.states[base]), sight.mean[:, deep]])
        met = np.concatenate([self._met[base, deep], sight.met[:, deep]])
        values = self.baselines(name).scores(texts, np.concatenate([material.states[base][:, :1], sight.words]))
        suite_of = np.array([""] * len(base) + [suite.name for suite in cases for _ in suite.texts])
        positive = np.array([*shows[base], *(suite.positive for suite in cases for _ in suite.texts)])
        found = []
        for label in dict.fromkeys(suite.name for suite in cases):
            ours = suite_of == label
            paired_up = (ours & positive).any() and (ours & ~positive).any()
            inside = ours & positive if (ours & positive).any() else (suite_of == "") & positive
            outside = ours & ~positive if (ours & ~positive).any() else (suite_of == "") & ~positive
            made = self._figure(label + (", pairs" if paired_up else ""), scores, met, inside, outside)
            rivals = {key: round(auroc(each[inside], each[outside]), 4) for key, each in values.items()}
            found.append(made.model_copy(update={"baselines": rivals}))
        readers = {key: each for key, each in values.items() if key != "embedding"}
        return [*found, self._ahead(TOGETHER, scores, values, positive), self._ahead(READERS, scores, readers, positive)]

    def _ahead(self, suite: str, scores: Floats, values: dict[str, Floats], positive: NDArray[np.bool_]) -> Figure:
        """How much the probe is ahead of the best of some rivals, on the same texts."""
        rivals = {key: auroc(each[positive], each[~positive]) for key, each in values.items()}
        best = max(rivals, key=lambda key: rivals[key])

        def margin(own: Floats, rival: Floats, shows: Floats) -> float:
            return auroc(own[shows == 1], own[shows == 0]) - auroc(rival[shows == 1], rival[shows == 0])

        columns = scores, values[best], positive.astype(np.float32)
        return Figure(
            suite=f"{suite}: ahead of {best}", positives=int(positive.sum()), negatives=int((~positive).sum()), value=margin(*columns),
            value_ci=paired(margin, *columns, draws=300), baselines={key: round(value, 4) for key, value in rivals.items()},
        )  # fmt: skip

    def _labelled(self, name: str) -> list[Figure]:
        """Human-labelled texts that the fit has not seen, as they come: rare labels are rare. Of files that the fit knows only where there are no others."""
        found = []
        others = [file for file in self.labelled if file.ratings is None and file.digest not in self._taken]
        for file in others or self.labelled:
            truth = file.truth(name)
            if file.ratings is not None or not (truth == 1).any():
                continue
            taken = self._taken.get(file.digest, set())
            rows = np.array([row for row in np.random.default_rng(2).permutation(len(file.texts)) if row not in taken][:LABELLED_TEXTS])
            texts = [comment(file.texts[row], 1) for row in rows]
            shows, not_ = truth[rows] == 1, truth[rows] == 0
            if not shows.any() or not not_.any():
                continue
            sight, deep = self._once(file.digest, texts), self.deep.index(name)
            made = self._figure(f"human labels: {file.name}", sight.mean[:, deep], sight.met[:, deep], shows, not_)
            found.append(
                made.model_copy(update={"baselines": self._rivals(name, [text.reply for text in texts], sight.words, shows, not_)})
            )
        return found

    def _rated(self, name: str) -> list[Figure]:
        """Correlation with human ratings of sentences."""
        found = []
        for file in self.labelled:
            if file.ratings is None:
                continue
            unseen = np.random.default_rng(1).permutation(len(file.texts))[-LABELLED_TEXTS // 2 :]
            key = f"rated {file.digest}"
            axes = [each for each in AXES if each in self.bank.names]
            if key not in self._kept:
                self._kept[key] = self.look([comment(file.texts[row], 1) for row in unseen], axes)
            scores, truth = self._kept[key].mean[:, axes.index(name)], file.ratings[unseen, AXES.index(name)]

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
    neutral = corpus.neutral
    signal = [text for text in corpus.texts if text.concept == name and text.split == "test"]
    random = np.random.default_rng(0)
    peak: dict[bool, list[float]] = {True: [], False: []}
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
            peak[present].append(float(windowed(scores[8:, None], "mean(16)").max()))
        evaluation.say(f"long context: {name} {number + 1} of 5")
    return figure("40 tokens within 4,000", np.array(peak[True]), np.array(peak[False]))

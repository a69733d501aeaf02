"""Fit a bank for a model. Directions come from training topics, layer and method from validation topics, and the errors in
the card from test topics that neither saw.

The alarm concepts try every method at every candidate layer; the 171 emotions have a way of their own (`emotions.py`), and so
have valence and arousal (`circumplex.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from joblib import Parallel, delayed
from numpy.typing import NDArray

from probes.bank import FORMAT, Bank, BankCard, ModelCard, ProbeCard, config_hash
from probes.circumplex import circumplex
from probes.corpus import DEEP, Corpus
from probes.emotions import fit_emotions
from probes.labelled import Labelled
from probes.material import Material, weights
from probes.methods import METHODS, Floats, neutral_components, unit, without
from probes.passport import Passport
from probes.reader import Reader, Say
from probes.statistics import auroc, auroc_interval, bootstrap

SAFETY = tuple(DEEP)
# Ways of writing, left out in turn.
FORMS = {
    "narratives": ("story", "first", "second", "third"),
    "replies and dialogues": ("reply", "dialogue"),
    "agents' logs and notes": ("log", "shutdown", "agent"),
    "posts, reports and tickets": ("self-report", "tweet", "ticket", "forum"),
}


class FitError(Exception):
    """A bank cannot be fitted for this model."""


@dataclass(frozen=True)
class Trial:
    """One method at one layer for one concept, judged on validation texts."""

    method: str
    layer: int
    direction: Floats
    tasks: dict[str, float] = field(default_factory=dict)
    own_ci: tuple[float, float] = (0.0, 1.0)

    @property
    def score(self) -> float:
        """Mean AUROC over the tasks, less what leaks from the user's words into the reply's score."""
        wanted = [value for task, value in self.tasks.items() if task != "echo"]
        return float(np.mean(wanted)) - max(0.0, self.tasks["echo"] - 0.5)


def fit(reader: Reader, corpus: Corpus, labelled: Sequence[Labelled], work: Path, layer: int | None, say: Say, count: int = 5000) -> Bank:
    """Fit all probes. They are in units of the neutral texts until `calibrate` has run. Raises FitError."""
    candidates = _candidates(reader, layer)
    material = Material.gather(reader, corpus, labelled, count, work, say)
    probes: list[ProbeCard] = []
    directions: list[Floats] = []
    profile: dict[str, dict[str, tuple[float, float, float]]] = {}
    for concept in SAFETY:
        trials = _trials(material, concept, range(reader.layers - 1), candidates)
        best = _best([trial for trial in trials if trial.layer in candidates])
        tried = {method: max(t.score for t in trials if t.method == method and t.layer in candidates) for method in _names(trials)}
        for method in dict.fromkeys(("difference of means", best.method)):
            profile[f"{concept}, {method}"] = {str(t.layer): (t.tasks["own"], *t.own_ci) for t in trials if t.method == method}
        direction = _final(material, concept, best)
        probes.append(_card(material, concept, best.layer, direction, best.method, tried))
        directions.append(direction)
        say(f"{concept}: {best.method} at layer {best.layer}, validation {best.tasks}")
    for axis, direction in circumplex(reader, material, labelled, candidates, work, say):
        probes.append(axis)
        directions.append(direction)
    emotions, rows, shares = fit_emotions(reader, material, corpus, candidates, work, say)
    card = BankCard(
        format=FORMAT,
        version=_version(),
        model=ModelCard(
            name=reader.name, width=reader.width, layers=reader.layers, config_hash=config_hash(reader.config.to_dict()), dtype=reader.dtype
        ),
        passport=Passport.of(reader.model, f"transformers {transformers.__version__}"),
        probes=[*probes, *emotions],
        arrays_sha256="",
        corpus_sha256=corpus.sha256,
        labelled=[f"{file.name} sha256 {file.digest[:16]}" for file in labelled],
        fitted_with=f"transformers {transformers.__version__}, torch {torch.__version__}",
        layer_profile=profile,
        circumplex=shares,
        limits=[
            f"Fitted on {len(corpus.texts)} English texts that were written for it"
            + (" and on human-labelled comments." if labelled else "."),
            "The test split is by the same hand as the training split: expect less on other voices, see the labelled figures.",
            "A probe is the representation of an emotion concept in one model. A quiet probe is no proof of calm.",
            "No probe says whether a reply fosters dependence. One was tried on contrast pairs: word embeddings told them apart as well.",
        ],
    )
    # A difference of means is its own pattern.
    return sealed(card, np.vstack([np.stack(directions), rows]), np.vstack([_patterns(material, probes, directions), rows]))


def sealed(card: BankCard, directions: Floats, patterns: Floats) -> Bank:
    """A bank whose card holds the digest of its arrays."""
    digest = hashlib.sha256(Bank.pack(directions, patterns)).hexdigest()
    return Bank(card.model_copy(update={"arrays_sha256": digest}), directions, patterns)


def _patterns(material: Material, probes: Sequence[ProbeCard], directions: Sequence[Floats]) -> Floats:
    """How the state of our own texts moves with each probe's score: their covariance times its weights."""
    rows = (material.source == "own") & (material.split != "test")
    found = []
    for probe, direction in zip(probes, directions, strict=True):
        states = material.states[rows, probe.layer + 1].astype(np.float32)
        centred = states - states.mean(axis=0)
        found.append(centred.T @ (centred @ direction))
    return unit(np.stack(found))


def _candidates(reader: Reader, layer: int | None) -> range | list[int]:
    # Early layers hold words rather than concepts.
    candidates = range(reader.layers // 3, reader.layers - 1)
    if layer is None:
        return candidates
    if layer not in candidates:
        raise FitError(f"layer {layer} cannot be read; {reader.name} has the layers {candidates[0]} to {candidates[-1]} for probes")
    return [layer]


def _best(trials: Sequence[Trial]) -> Trial:
    """The best with its neighbours: a layer that is good beside bad ones of the same method is chance in the validation split."""

    def smoothed(trial: Trial) -> float:
        return float(np.mean([near.score for near in trials if near.method == trial.method and abs(near.layer - trial.layer) <= 1]))

    return max(trials, key=smoothed)


def _names(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(trial.method for trial in trials))


def _trials(material: Material, concept: str, layers: Sequence[int], candidates: Sequence[int]) -> list[Trial]:
    """Every method at every candidate layer; the profile over all layers is that of the difference of means."""
    truth = material.truth(concept)
    jobs = [(method, layer) for layer in layers for method in METHODS if method == "difference of means" or layer in candidates]
    with_neutral = [
        (f"{method}, neutral removed", layer) for method, layer in jobs if method == "difference of means" and layer in candidates
    ]
    run = Parallel(n_jobs=-1, prefer="threads")
    found: list[Trial] = run(delayed(_trial)(material, truth, method, layer) for method, layer in [*jobs, *with_neutral])
    return found


def _trial(material: Material, truth: NDArray[np.int8], name: str, layer: int) -> Trial:
    direction = direction_of(material, truth, name, layer, material.split == "train")
    states = material.states[:, layer + 1].astype(np.float32)
    scores = states @ direction
    tasks, own_ci = {}, (0.0, 1.0)
    for source in ("own", "labelled"):
        rows = material.rows("validation", source)
        positive, negative = scores[rows & (truth == 1)], scores[rows & (truth == 0)]
        if len(positive) and len(negative):
            tasks[source] = auroc(positive, negative)
            if source == "own":
                own_ci = auroc_interval(tasks[source], len(positive), len(negative))
    tasks["other forms"] = _across_forms(material, truth, name, layer)
    plain = material.rows("validation", "own") & material.neutral
    hard = material.rows("validation", "own") & material.hard
    if hard.any():
        tasks["hard"] = auroc(scores[material.rows("validation", "own") & (truth == 1)], scores[hard])
    tasks["echo"] = auroc(scores[material.rows("validation", "echo")], scores[plain])
    return Trial(name, layer, direction, tasks, own_ci)


def _across_forms(material: Material, truth: NDArray[np.int8], name: str, layer: int) -> float:
    """Fitted on all ways of writing but one and judged on that one: another voice, in small."""
    states = material.states[:, layer + 1].astype(np.float32)
    values = []
    for group in FORMS.values():
        left = np.isin(material.form, group)
        if not (left & (truth == 1)).any():
            continue
        direction = direction_of(material, truth, name, layer, material.rows("train", "own", "echo") & ~left)
        scores = states @ direction
        judged = (material.split != "test") & (left | material.rows("validation", "own") & material.neutral)
        values.append(auroc(scores[judged & (truth == 1)], scores[judged & (truth == 0)]))
    return float(np.mean(values))


def direction_of(material: Material, truth: NDArray[np.int8], name: str, layer: int, rows: NDArray[np.bool_]) -> Floats:
    kept = rows & (truth >= 0)
    states = material.states[kept, layer + 1].astype(np.float32)
    weight = weights(material, truth, kept)
    method, _, variant = name.partition(", ")
    direction = METHODS[method](states, truth[kept] == 1, weight)
    if variant:
        neutral = material.states[rows & material.neutral, layer + 1].astype(np.float32)
        direction = without(direction[None], neutral_components(neutral))[0]
    return direction


def chosen_without(material: Material, truth: NDArray[np.int8], left: NDArray[np.bool_], layers: int) -> Trial:
    """The best method and layer, of every third that may be read, where some texts are seen neither by the fit nor by the choice."""
    own = np.isin(material.source, ("own", "echo")) & ~left
    train, held = own & (material.split == "train"), own & (material.split == "validation") & (material.source == "own")

    def trial(method: str, layer: int) -> Trial:
        direction = direction_of(material, truth, method, layer, train)
        scores = material.states[:, layer + 1].astype(np.float32) @ direction
        value = auroc(scores[held & (truth == 1)], scores[held & (truth == 0)])
        return Trial(method, layer, direction, {"own": value, "echo": 0.5})

    jobs = [(method, layer) for layer in range(layers // 3, layers - 1, 3) for method in METHODS]
    found: list[Trial] = Parallel(n_jobs=-1, prefer="threads")(delayed(trial)(*job) for job in jobs)
    return max(found, key=lambda each: each.score)


def _final(material: Material, concept: str, best: Trial) -> Floats:
    """The chosen method once more, on training and validation texts; the test texts stay unseen."""
    return direction_of(material, material.truth(concept), best.method, best.layer, material.split != "test")


def _card(material: Material, concept: str, layer: int, direction: Floats, method: str, tried: dict[str, float]) -> ProbeCard:
    scores = material.states[:, layer + 1].astype(np.float32) @ direction
    truth, test = material.truth(concept), material.rows("test", "own")
    positive, negative = scores[test & (truth == 1)], scores[test & (truth == 0)]
    neutral = scores[material.neutral]
    return ProbeCard(
        name=concept, group="safety", layer=layer, concept=f"representation of {concept}", method=method,
        methods={name: round(value, 4) for name, value in tried.items()}, neutral_mean=float(neutral.mean()), neutral_std=float(neutral.std()),
        auroc=auroc(positive, negative), auroc_ci=bootstrap(auroc, positive, negative),
    )  # fmt: skip


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("barograph")
    except importlib.metadata.PackageNotFoundError:
        return ""

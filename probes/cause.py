"""Cause: steer along a probe through NNsight and see whether what it stands for follows.

At several doses, each a share of the residual's norm, the probe's pattern is added to its layer at every position of
neutral replies. Measured are the log-odds of the concept's words against the words of other concepts among the next tokens,
the entropy of the next token, and how far a later layer moves along the probe. Against other concepts, because any strong
push flattens the next token's distribution and so raises every rare word. The words are those of test texts, which no fit has seen.

Random directions of equal norm are one rival. A harder one are random directions drawn from the covariance of the layer's own states on neutral
replies, since most of space is never used by a model and pushing there does little. The third are the other concepts: a push towards panic that
raises the words of hostility as much is no push towards panic. After arXiv 2604.07729, section on steering; its doses went to 0.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from probes.bank import Bank, Cause
from probes.circumplex import ENDS
from probes.corpus import ALARMS, DEEP, Corpus, Text
from probes.fit import FitError
from probes.layers import envoys
from probes.methods import Floats, unit
from probes.nn import save
from probes.reader import Reader, Say

DOSES = (-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2)  # at 0.4 a small model's text begins to break, whatever the direction
RANDOM = 12
MATCHED = 16  # directions of the states' covariance; each is tried both ways
COVARIANCE = 40  # neutral training replies whose states it is of
REPLIES = 12
TOKENS = 16
WORDS = 40
WORD = re.compile(r" \w{3,}")  # a token that begins a word and is most of it
MEASURES = ("words", "entropy", "later")
MONOTONE = 0.9  # rank correlation of dose and words that a causal probe reaches
LATER = 6  # layers further on


class Steering:
    """Neutral chats whose replies are steered at one layer and read at the output."""

    def __init__(self, reader: Reader, corpus: Corpus) -> None:
        self.reader = reader
        self._layers = envoys(reader.nn)
        neutral = {split: [text for text in corpus.neutral if text.split == split] for split in ("validation", "train")}
        self.inputs, self.read = self._batch(neutral["validation"][:REPLIES])
        self.owner: NDArray[np.intp] = np.arange(len(self.read)).repeat(self.read.sum(dim=1).numpy())  # the reply of each position
        self._others = self._batch(neutral["train"][:COVARIANCE])

    def _batch(self, texts: Sequence[Text]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Padded inputs, and which positions [texts, length] produce a reply's tokens."""
        encoded = [self.reader.encode(text, TOKENS) for text in texts]
        length = max(len(ids) for ids, _ in encoded)
        pad = self.reader.tokenizer.pad_token_id
        device = self.reader.model.device
        inputs = {
            "input_ids": torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in encoded], device=device),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in encoded], device=device),
        }
        read = torch.zeros(len(encoded), length, dtype=torch.bool)
        for row, (ids, prompt) in enumerate(encoded):
            read[row, prompt - 1 : len(ids)] = True
        return inputs, read

    def matched(self, layer: int, count: int) -> Floats:
        """Unit directions [count, width] drawn from the covariance of a layer's states: random sums of centred states have it."""
        inputs, read = self._others
        with torch.no_grad(), self.reader.nn.trace(inputs):
            state = save(self._layers[layer].output)
        states = state[read].float().cpu().numpy()
        return unit(np.random.default_rng(1).normal(size=(count, len(states))) @ (states - states.mean(axis=0)))

    def run(self, layer: int, direction: Floats, dose: float, later: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [positions, vocabulary] and later states [positions, width] under a dose."""
        reader = self.reader
        step = torch.from_numpy(direction).to(reader.model.device)
        with torch.no_grad(), reader.nn.trace(self.inputs):
            envoy = self._layers[layer]
            state = envoy.output
            norm = state.float().norm(dim=-1, keepdim=True)
            envoy.output = state + (dose * norm * step).to(state.dtype)
            after = save(self._layers[later].output)
            logits = save(reader.nn.output.logits)
        return torch.log_softmax(logits[self.read].float(), dim=-1).cpu(), after[self.read].float().cpu()


@dataclass(frozen=True)
class Words:
    """Token ids of a concept's words and of those it is told apart from."""

    own: torch.Tensor
    other: torch.Tensor

    def odds(self, logs: torch.Tensor) -> NDArray[np.float64]:
        """Mean log-probability [positions] of the concept's words as the next token, less that of the others'.

        Every word counts the same: in the probability of any of them a frequent one, such as 'you', would speak for all.
        """
        odds = logs[:, self.own].mean(dim=-1) - logs[:, self.other].mean(dim=-1)
        return odds.numpy().astype(np.float64)


class _Layer:
    """One layer's steering: any direction, with the outcome for several concepts at once."""

    def __init__(self, steering: Steering, layer: int, words: dict[str, Words], directions: dict[str, Floats]) -> None:
        """`directions`: of the probes that are read at this layer."""
        self.steering, self.layer, self.words = steering, layer, words
        self.later = min(steering.reader.layers - 2, layer + LATER)
        self._directions = {name: torch.from_numpy(direction) for name, direction in directions.items()}
        self._logs, self._state = steering.run(layer, next(iter(directions.values())), 0.0, self.later)
        self._norm = self._state.norm(dim=-1).mean()
        self._plain = {name: each.odds(self._logs) for name, each in words.items()}
        owner = steering.owner
        self._by_reply = (owner[None] == np.unique(owner)[:, None]) / np.bincount(owner)[:, None]

    def curves(self, direction: Floats) -> Curves:
        """Outcomes at each dose less those without steering."""
        replies, entropy, later = {name: [] for name in self.words}, [], {name: [] for name in self._directions}  # type: ignore[var-annotated]
        for dose in DOSES:
            logs, state = self.steering.run(self.layer, direction, dose, self.later) if dose else (self._logs, self._state)
            entropy.append(float(_entropy(logs) - _entropy(self._logs)))
            moved = (state - self._state).mean(dim=0)
            for name, words in self.words.items():
                replies[name].append(self._by_reply @ (words.odds(logs) - self._plain[name]))
            for name, read in self._directions.items():
                later[name].append(float(moved @ read / self._norm))
        return Curves(
            {name: np.array(rows) for name, rows in replies.items()},
            np.array(entropy),
            {name: np.array(rows) for name, rows in later.items()},
        )


@dataclass(frozen=True)
class Curves:
    """What steering along one direction did, at each dose: odds [doses, replies] by concept, entropy [doses], later [doses] by probe."""

    odds: dict[str, NDArray[np.float64]]
    entropy: NDArray[np.float64]
    later: dict[str, NDArray[np.float64]]

    def measures(self, name: str) -> NDArray[np.float64]:
        """[doses, measures] of one probe."""
        return np.stack([self.odds[name].mean(axis=1), self.entropy, self.later[name]], axis=1)


def validate(reader: Reader, bank: Bank, corpus: Corpus, names: Sequence[str], say: Say) -> Bank:
    """The bank with what steering showed in the cards of the named probes; all need words in the corpus."""
    steering = Steering(reader, corpus)
    words = concept_words(reader, corpus, bank, [*names, *(name for name in ALARMS if name in bank.names and name not in names)])
    random = unit(np.random.default_rng(0).normal(size=(RANDOM, reader.width)).astype(np.float32))
    for layer in sorted({bank[name].layer for name in names}):
        here = [name for name in names if bank[name].layer == layer]
        rows = {name: bank.names.index(name) for name in here}
        steered = _Layer(steering, layer, words, {name: bank.directions[rows[name]] for name in here})
        say(f"layer {layer}: steering along {RANDOM} random directions")
        other = [steered.curves(direction) for direction in random]
        say(f"layer {layer}: steering along {MATCHED} directions of its states' covariance")
        matched = [steered.curves(direction) for direction in steering.matched(layer, MATCHED)]
        for name, row in rows.items():
            cause = _cause(name, steered.curves(bank.patterns[row]), steered.curves(bank.directions[row]), other, matched)
            bank = bank.with_card(name, causal=_causal(cause), cause=cause)
            crossed = ", ".join(f"{key} {value:.2f}" for key, value in cause.cross.items())
            say(
                f"{name}: causal {bank[name].causal}, slope {cause.slope:.2f} {cause.slope_ci}, weights {cause.weights_slope:.2f}; random {cause.random_slope:.2f}, "
                f"matched {cause.matched_slope:.2f}, other concepts' words {crossed or 'not tried'}"
            )
    return bank


def _causal(cause: Cause) -> bool:
    """The words rise with every dose, surely, faster than along random and matched directions, and faster than any other alarm concept's words do."""
    assert cause.slope_ci is not None
    assert cause.matched_slope is not None
    rivals = (cause.random_slope, cause.matched_slope, *cause.cross.values())
    return cause.monotone["words"] >= MONOTONE and cause.slope_ci[0] > 0 and cause.slope > max(rivals)


def slope(curve: NDArray[np.float64]) -> float:
    """Of outcomes [doses], by a dose of 1."""
    return float(np.polyfit(DOSES, curve, 1)[0])


def _cause(name: str, own: Curves, weights: Curves, random: Sequence[Curves], matched: Sequence[Curves]) -> Cause:
    table, along = own.measures(name), weights.measures(name)
    others = np.stack([each.measures(name) for each in random])
    words = np.stack([each.odds[name].mean(axis=1) for each in matched])
    # Of a random direction either sign is as likely, so both ends of its curve say what a dose does.
    either = np.concatenate([words, words[:, ::-1]])
    replies = own.odds[name].shape[1]
    draws = np.random.default_rng(0).integers(replies, size=(500, replies))
    low, high = np.quantile([slope(own.odds[name][:, pick].mean(axis=1)) for pick in draws], [0.025, 0.975])
    return Cause(
        doses=list(DOSES),
        outcomes={measure: table[:, m].round(4).tolist() for m, measure in enumerate(MEASURES)},
        weights={measure: along[:, m].round(4).tolist() for m, measure in enumerate(MEASURES)},
        random={measure: others[:, :, m].mean(axis=0).round(4).tolist() for m, measure in enumerate(MEASURES)},
        random_std={measure: others[:, :, m].std(axis=0).round(4).tolist() for m, measure in enumerate(MEASURES)},
        monotone={measure: round(float(spearmanr(DOSES, table[:, m])[0]), 4) for m, measure in enumerate(MEASURES)},
        slope=round(slope(table[:, 0]), 4), slope_ci=(round(float(low), 4), round(float(high), 4)), weights_slope=round(slope(along[:, 0]), 4),
        random_slope=round(float(np.quantile([abs(slope(curve[:, 0])) for curve in others], 0.95)), 4),
        matched_slope=round(float(np.quantile([abs(slope(curve)) for curve in words], 0.95)), 4),
        matched=[round(float(np.quantile(either[:, i], 0.95 if dose > 0 else 0.05)), 4) for i, dose in enumerate(DOSES)],
        cross={key: round(slope(own.odds[key].mean(axis=1)), 4) for key in ALARMS if key in own.odds and key != name} if name in DEEP else {},
    )  # fmt: skip


def concept_words(reader: Reader, corpus: Corpus, bank: Bank, names: Sequence[str]) -> dict[str, Words]:
    """Words of each probe's concept: log-odds of its test texts against other test texts, with all as prior, found in several of them.

    A concept with few test texts, as each of the 171 has, takes all of its texts.
    """
    unseen = _Counts(reader, [text for text in corpus.texts if text.split == "test"])
    every = _Counts(reader, corpus.texts)
    deep = {concept: unseen.words({concept}, None, 2) for concept in DEEP}
    found = {}
    for name in names:
        if name in ENDS:
            high, low = ENDS[name]
            found[name] = Words(unseen.words(high, low, 2), unseen.words(low, high, 2))
        elif name in DEEP:
            found[name] = Words(deep[name], torch.cat([deep[other] for other in DEEP if other != name]))
        else:
            concept = bank[name].concept.removeprefix("representation of ")
            concept = next((key for key, emotion in DEEP.items() if emotion == concept), concept)
            others = [deep[other] for other in DEEP if other != concept]
            found[name] = Words(deep[concept] if concept in DEEP else every.words({concept}, None, 2), torch.cat(others))
        if not len(found[name].own):
            raise FitError(
                f"probe '{name}': the corpus has no texts of its concept, so cause cannot be tried; it has texts of the safety, circumplex and emotion probes"
            )
    return found


class _Counts:
    """Token counts of each concept's texts."""

    def __init__(self, reader: Reader, texts: Sequence[Text]) -> None:
        self._texts = [
            (text.concept, np.array(reader.tokenizer(" " + text.reply, add_special_tokens=False)["input_ids"])) for text in texts
        ]
        # Whole words: a mark or a piece of one, such as '!', stands for no concept, and what is frequent outweighs all other words.
        decoded = reader.tokenizer.batch_decode([[token] for token in range(len(reader.tokenizer))])
        self._word = np.array([WORD.fullmatch(text) is not None for text in decoded])

    def words(self, inside: set[str], outside: set[str] | None, texts: int) -> torch.Tensor:
        """The tokens that most set some concepts' texts off from others (from all, without `outside`), each in so many texts."""
        ours, theirs, seen = (np.zeros(len(self._word)) for _ in range(3))
        for concept, ids in self._texts:
            if concept in inside:
                np.add.at(ours, ids, 1)
                seen[np.unique(ids)] += 1
            elif outside is None or concept in outside:
                np.add.at(theirs, ids, 1)
        prior = (ours + theirs) / (ours + theirs).sum() * 500 + 1e-9
        odds = np.log((ours + prior) / (ours.sum() + 500)) - np.log((theirs + prior) / (theirs.sum() + 500))
        odds[(seen < texts) | ~self._word] = -np.inf
        best = np.argsort(-odds)[:WORDS]
        return torch.from_numpy(best[odds[best] > 0].copy())


def _entropy(logs: torch.Tensor) -> torch.Tensor:
    return -(logs.exp() * logs).sum(dim=-1).mean()

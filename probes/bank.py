"""A bank: the probes fitted for one model. Reads without torch, so that the sidecar can.

On disk a bank is a folder with two files: `bank.safetensors` (the arrays) and `card.json` (what they mean,
for which model they hold, and the digest of the arrays).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from probes.files import read_plain
from probes.passport import Passport

FORMAT = 3
HELD_OUT = "held-out topics"
TOGETHER = "topics and hard cases together"  # the suite by which probes are compared with other detectors
READERS = "against readers of text, topics and hard cases"  # the same, without the rival that looks into the model: its embeddings
ARRAYS = "bank.safetensors"
CARD = "card.json"
# Deviations, the unit of scores: no score counts for more, either way. At a rare token a few numbers of the residual stream grow a
# hundredfold (Sun et al. 2024, arXiv 2402.17762), and with them the score of each probe that weighs them; no average may carry such a token on.
# The same number stands in rules/signal.py, as the two rooms know nothing of each other; a test compares their windows.
MOST = 12.0
MAX_ARRAYS, MAX_CARD = 1 << 30, 64 << 20  # bytes; the shipped bank has less than one MiB of each

Floats = NDArray[np.float32]


class BankError(Exception):
    """A bank that cannot be read, or that belongs to another model."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Threshold(_Frozen):
    """The value that a window exceeds at this rate, of tokens or of whole replies, for ordinary and for topical prompts alike."""

    rate: float = Field(gt=0, lt=1)
    value: float
    ci: tuple[float, float] | None = Field(None, description="95 % interval, resampling prompts")


class Figure(_Frozen):
    """One measured error figure: texts that show the concept against texts that do not."""

    suite: str
    positives: int
    negatives: int
    auroc: float | None = None
    auroc_ci: tuple[float, float] | None = None
    auprc: float | None = None
    auprc_ci: tuple[float, float] | None = None
    tpr_at_1: float | None = Field(
        None,
        description="share of the positives above what 1 % of one half of the negatives exceed; for held-out topics of all other test texts",
    )
    tpr_at_1_ci: tuple[float, float] | None = None
    fpr: float | None = Field(
        None, description="share of the negatives for which a default rule's condition is met, at the shipped threshold"
    )
    fpr_ci: tuple[float, float] | None = None
    tpr: float | None = Field(None, description="share of the positives for which it is met")
    tpr_ci: tuple[float, float] | None = None
    windows_over: float | None = Field(None, description="share of windows over the shipped 1 % threshold, in replies that set none")
    windows_over_ci: tuple[float, float] | None = None
    value: float | None = Field(None, description="a figure of another kind, named by the suite")
    value_ci: tuple[float, float] | None = None
    baselines: dict[str, float] = Field(default_factory=dict, description="AUROC of other detectors on the same texts")


class Cause(_Frozen):
    """What steering along the probe's pattern did, by dose (a share of the residual's norm)."""

    doses: list[float]
    outcomes: dict[str, list[float]] = Field(description="measure → change at each dose")
    weights: dict[str, list[float]] = Field(description="the same along the probe's weights, for comparison")
    random: dict[str, list[float]] = Field(description="the same for random directions of equal norm, mean")
    random_std: dict[str, list[float]]
    monotone: dict[str, float] = Field(description="measure → rank correlation of dose and outcome")
    slope: float = Field(description="rise of the words' log-odds by a dose of 1, fitted over all doses")
    slope_ci: tuple[float, float] | None = Field(None, description="95 % interval, resampling prompts")
    weights_slope: float | None = Field(None, description="the same along the probe's weights; `causal` is said of the pattern")
    random_slope: float = Field(description="95th percentile of what random directions of either sign reach")
    matched_slope: float | None = Field(None, description="the same for random directions of the states' own covariance")
    cross: dict[str, float] = Field({}, description="other alarm concept → rise of its words along this probe's pattern")
    matched: list[float] = Field(
        [],
        description="change of the words at each dose that 19 of 20 random directions of the states' own covariance do not reach; empty: not tried",
    )

    @model_validator(mode="after")
    def _as_many(self) -> Cause:
        lengths = {len(values) for values in self.outcomes.values()} | ({len(self.matched)} if self.matched else set())
        if lengths != {len(self.doses)} or "words" not in self.outcomes:
            raise ValueError(f"outcomes of {sorted(lengths)} values for {len(self.doses)} doses; expected one each, 'words' among them")
        return self

    def beats(self, dose: float) -> bool:
        """Whether a dose moves the words further than matched random directions do: at the tried doses on both sides of it, and not beyond them."""
        side = [each for each in self.doses if each * dose > 0]
        below, above = [each for each in side if each <= dose], [each for each in side if each >= dose]
        if not self.matched or not below or not above:
            return False
        return all(self._beats(self.doses.index(each)) for each in {max(below), min(above)})

    @property
    def proven(self) -> list[float]:
        """The tried doses that move the words further than matched random directions do."""
        return [dose for dose in self.doses if self.beats(dose)]

    def _beats(self, at: int) -> bool:
        own, rival = self.outcomes["words"][at], self.matched[at]
        return own > rival if self.doses[at] > 0 else own < rival if self.doses[at] < 0 else False


class Canary(_Frozen):
    """A prompt whose reply must raise the probe. A probe that stays quiet on it is broken."""

    prompt: str
    score: float = Field(description="mean z of the reply's first tokens when the bank was made")
    floor: float = Field(description="below this the probe counts as quiet")


class ProbeCard(_Frozen):
    """What one probe means and how well it does. Errors are measured on topics that the fit never saw."""

    name: str
    group: Literal["safety", "circumplex", "emotion", "feature"] = "safety"
    layer: int = Field(ge=0, description="decoder layer, from 0, whose output is read")
    concept: str
    method: str
    methods: dict[str, float] = Field(default_factory=dict, description="method → its best score on the validation split")
    neutral_mean: float = Field(description="mean of the raw projection on the model's neutral text")
    neutral_std: float = Field(gt=0, description="its standard deviation: one z unit")
    auroc: float | None = Field(None, ge=0, le=1, description="held-out topics: this concept against neutral and the other concepts")
    auroc_ci: tuple[float, float] | None = Field(None, description="95 % bootstrap interval")
    thresholds: dict[str, list[Threshold]] = Field(default_factory=dict, description="window → thresholds")
    reply_thresholds: dict[str, list[Threshold]] = Field(
        default_factory=dict, description="window → thresholds that it exceeds anywhere in so many of harmless replies"
    )
    registers: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="register → mean and deviation of z on its neutral texts"
    )
    evaluation: list[Figure] = []
    causal: bool | None = Field(None, description="whether steering showed cause; empty when it was not tried")
    cause: Cause | None = None
    canaries: list[Canary] = []

    @property
    def worthwhile(self) -> bool | None:
        """Whether it surely tells more than words alone do; None when nobody measured.

        By the paired margin over its best rival, on unseen topics and hard cases together. A concept without hard cases is judged on unseen topics: the interval
        of its AUROC must lie above that of the model's own word embeddings, and not below that of TF-IDF. Probes of a model that was never trained
        mostly fail: any random map of words holds words too.
        """
        for figure in self.evaluation:
            if figure.suite.startswith(TOGETHER) and figure.value_ci is not None:
                return figure.value_ci[0] > 0
        for figure in self.evaluation:
            rivals = figure.baselines
            if figure.suite == HELD_OUT and figure.auroc_ci is not None and {"embedding", "TF-IDF"} <= rivals.keys():
                return figure.auroc_ci[0] > rivals["embedding"] and figure.auroc_ci[1] >= rivals["TF-IDF"]
        return None


class ModelCard(_Frozen):
    """The model that a bank was fitted on."""

    name: str
    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    config_hash: str
    dtype: str


class BankCard(_Frozen):
    """The card of a bank, as in `card.json`."""

    format: int
    version: str = ""
    licence: str = "Apache-2.0"
    model: ModelCard
    passport: Passport = Passport()
    probes: list[ProbeCard] = Field(min_length=1)
    arrays_sha256: str
    corpus_sha256: str
    labelled: list[str] = Field(default_factory=list, description="human-labelled files of the fit, by name and digest")
    fitted_with: str
    calibration: dict[str, float] = Field(default_factory=dict, description="prompts, replies and tokens that set units and thresholds")
    false_alarms: list[Figure] = Field([], description="the default rules on replies to prompts that no step has seen")
    layer_profile: dict[str, dict[str, tuple[float, float, float]]] = Field(
        default_factory=dict, description="probe and method → layer → validation AUROC with its 95 % interval"
    )
    circumplex: dict[str, float] = Field(
        default_factory=dict,
        description="the emotion vectors: shares of variance, what the first component tells, AUROC on unseen stories; and of stories alone, without the sentences that name the word",
    )
    limits: list[str]


def config_hash(config: dict[str, Any]) -> str:
    """Hash of what makes a model's activations its own: its shape, not its path, dtype or library version."""
    shape = {key: config.get(key) for key in (
        "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "intermediate_size", "vocab_size", "head_dim", "tie_word_embeddings",
    )}  # fmt: skip
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


class Bank:
    """Probes as one matrix a layer.

    `directions` is float32 [k, width], unit rows. A score is
    `(state · direction - neutral_mean) / neutral_std`: standard deviations above the model's own neutral text.
    `patterns`, of the same shape, is how a state moves when a score rises on natural text: what is steered along
    (Haufe et al. 2014: a detector's weights say what to read, its pattern says where the signal lies).
    """

    def __init__(self, card: BankCard, directions: Floats, patterns: Floats, files: Mapping[str, str] | None = None) -> None:
        """files: the sha256 of each file that it was read from."""
        self.card = card
        self.files = dict(files or {})
        self.directions = directions
        self.patterns = patterns
        self.names = tuple(probe.name for probe in card.probes)
        self.layers = tuple(probe.layer for probe in card.probes)
        self.card_sha256 = hashlib.sha256(card.model_dump_json().encode()).hexdigest()

    def select(self, probes: Sequence[str] | str) -> Bank:
        """A bank with some of the probes: 'all', 'alarm' (safety and circumplex), or names. Raises BankError."""
        if probes == "all":
            return self
        if probes == "alarm":
            chosen = [i for i, probe in enumerate(self.card.probes) if probe.group != "emotion"]
        else:
            unknown = [name for name in probes if name not in self.names]
            if unknown:
                raise BankError(f"bank for {self.card.model.name} has no probe '{unknown[0]}'; it has: {', '.join(self.names)}")
            chosen = [self.names.index(name) for name in probes]
        return Bank(
            self.card.model_copy(update={"probes": [self.card.probes[i] for i in chosen]}), self.directions[chosen], self.patterns[chosen]
        )

    def limit(self, name: str, window: str, rate: float, replies: bool = False) -> float | None:
        """The card's threshold of windows, or of whole replies, at a rate; None where it has none."""
        card = self[name]
        found = (card.reply_thresholds if replies else card.thresholds).get(window, [])
        return next((each.value for each in found if each.rate == rate), None)

    def with_card(self, name: str, **changes: Any) -> Bank:
        """The bank with changes in one probe's card."""
        return self.with_cards([card.model_copy(update=changes) if card.name == name else card for card in self.card.probes])

    def with_cards(self, probes: Sequence[ProbeCard], **changes: Any) -> Bank:
        """The bank with other cards, in the same order, and changes in its own."""
        return Bank(self.card.model_copy(update={"probes": list(probes), **changes}), self.directions, self.patterns)

    def __getitem__(self, name: str) -> ProbeCard:
        return self.card.probes[self.names.index(name)]

    @cached_property
    def digest(self) -> str:
        """Of what decides a score: names, layers, directions and units of the probes that are here."""
        weight, bias = self.affine()
        named = json.dumps([self.names, self.layers]).encode()
        return hashlib.sha256(named + weight.tobytes() + bias.tobytes()).hexdigest()

    def affine(self) -> tuple[Floats, Floats]:
        """The scoring as `state @ weight + bias`: float32 [width, k] and [k]."""
        std = np.array([probe.neutral_std for probe in self.card.probes], np.float32)
        mean = np.array([probe.neutral_mean for probe in self.card.probes], np.float32)
        return np.ascontiguousarray((self.directions / std[:, None]).T), -mean / std

    def check_model(self, name: str, width: int, layers: int, hashed: str) -> None:
        """Refuse a model that the bank was not fitted on."""
        model = self.card.model
        for what, got, expected in (("width", width, model.width), ("layers", layers, model.layers)):
            if got != expected:
                raise BankError(
                    f"bank fitted for {model.name} ({what} {expected}) cannot score {name} ({what} {got}); fit one with: barograph probes fit --model {name} --out DIR"
                )
        if hashed != model.config_hash:
            raise BankError(
                f"bank fitted for {model.name} (config {model.config_hash}) cannot score {name} (config {hashed}); fit one with: barograph probes fit --model {name} --out DIR"
            )

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ARRAYS).write_bytes(self.pack(self.directions, self.patterns))
        (folder / CARD).write_text(self.card.model_dump_json(indent=2) + "\n")

    @staticmethod
    def pack(directions: Floats, patterns: Floats) -> bytes:
        """The bytes of `bank.safetensors`; their sha256 stands in the card."""
        arrays = {"directions": directions, "patterns": patterns}
        packed: bytes = save_arrays({name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()})
        return packed

    @classmethod
    def load(cls, folder: Path) -> Bank:
        """Read and check a bank. Raises BankError with the file, what is wrong and what was expected."""
        try:
            raw, text = read_plain(folder / ARRAYS, MAX_ARRAYS), read_plain(folder / CARD, MAX_CARD)
        except OSError as error:
            raise BankError(f"bank {folder}: cannot read {error.filename} ({error.strerror}); expected {ARRAYS} and {CARD}") from None
        try:
            card = BankCard.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise BankError(f"bank {folder / CARD}: {where}: {first['msg']}") from None
        if card.format != FORMAT:
            raise BankError(f"bank {folder / CARD}: format {card.format}; this version reads format {FORMAT}")
        names = [probe.name for probe in card.probes]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise BankError(f"bank {folder / CARD}: two probes are called '{twice}'; names must differ")
        digest = hashlib.sha256(raw).hexdigest()
        if digest != card.arrays_sha256:
            raise BankError(
                f"bank {folder / ARRAYS}: sha256 {digest[:16]}…, the card expects {card.arrays_sha256[:16]}…; the file is corrupt or from another fit"
            )
        try:
            arrays = load_arrays(raw)
            directions, patterns = arrays["directions"], arrays["patterns"]
        except (SafetensorError, KeyError) as error:
            raise BankError(f"bank {folder / ARRAYS}: no readable arrays 'directions' and 'patterns' ({error})") from None
        expected = (len(card.probes), card.model.width)
        for name, array in (("directions", directions), ("patterns", patterns)):
            if array.shape != expected or array.dtype != np.float32 or not np.isfinite(array).all():
                raise BankError(
                    f"bank {folder / ARRAYS}: {name} are {array.dtype}{list(array.shape)}; expected finite float32{list(expected)}"
                )
        deepest = max(probe.layer for probe in card.probes)
        if deepest >= card.model.layers:
            raise BankError(
                f"bank {folder / CARD}: a probe reads layer {deepest}; {card.model.name} has layers 0 to {card.model.layers - 1}"
            )
        return cls(card, directions, patterns, {ARRAYS: digest, CARD: hashlib.sha256(text).hexdigest()})

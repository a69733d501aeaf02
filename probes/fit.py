"""Fit a bank: difference of means with the neutral text's main components removed.

After arXiv 2604.07729: the states of the tokens of texts that show a concept are averaged, the mean over concepts is
subtracted, and the top principal components of neutral text that explain half of its variance are projected out. With
four concepts instead of 171 their mean is not neutral (on validation topics desperation then scores below neutral text),
so the neutral text counts as one more concept in that mean. The read-out is the tap's: the state whose logits produce a token of the reply. Directions, components and z units come from
training topics, the layer from validation topics, and the errors in the card from test topics that neither saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from probes.bank import FORMAT, Bank, BankCard, ModelCard, ProbeCard, config_hash
from probes.corpus import CONCEPTS, Corpus, Split, Text

SKIP = 8  # first tokens of a reply that are left out: the concept is not there yet
BATCH = 8
NEUTRAL_VARIANCE = 0.5
BOOTSTRAPS = 2000

Floats = NDArray[np.float32]


class FitError(Exception):
    """A bank cannot be fitted for this model."""


class States:
    """What the model's layers hold for a set of texts: means [texts, layers, width], tokens of each text [m, layers, width]."""

    def __init__(self, texts: Sequence[Text], tokens: Sequence[NDArray[np.float16]]) -> None:
        self.texts = texts
        self.tokens = tokens
        self.means = np.stack([each.mean(axis=0, dtype=np.float32) for each in tokens])

    def pick(self, concept: str | None, split: Split) -> NDArray[np.intp]:
        """Indices of the texts of a split: of one concept, or of all with None."""
        return np.array([i for i, text in enumerate(self.texts) if text.split == split and concept in (None, text.concept)], np.intp)


def fit(source: str, name: str, layer: int | None, device: str, say: Callable[[str], None], corpus: Corpus | None = None) -> Bank:
    """Fit a bank for the model at `source`. Raises FitError."""
    corpus = corpus or Corpus.read()
    model, tokenizer = _load(source, device)
    config = model.config.get_text_config()
    say(f"reading {len(corpus.texts)} texts with {name}")
    states = States(corpus.texts, list(_read(model, tokenizer, corpus.texts)))
    # Early layers hold words rather than concepts. The state after the last layer has gone through the final norm, so
    # it is no residual stream.
    candidates = range(config.num_hidden_layers // 3, config.num_hidden_layers - 1)
    if layer is not None and layer not in candidates:
        raise FitError(f"layer {layer} cannot be read; {name} has the layers {candidates[0]} to {candidates[-1]} for probes")
    fitted = {each: _directions(states, each) for each in candidates}
    profile = {
        each: {concept: _auroc(*_scores(states, directions[i], each, concept, "validation")) for i, concept in enumerate(CONCEPTS)}
        for each, directions in fitted.items()
    }
    best = (
        layer
        if layer is not None
        else max(candidates, key=lambda each: (round(sum(profile[each].values()), 6), _separation(states, fitted[each], each)))
    )
    say(
        f"layer {best} of {config.num_hidden_layers}: validation AUROC "
        + ", ".join(f"{concept} {value:.3f}" for concept, value in profile[best].items())
    )
    directions = fitted[best]
    neutral = np.concatenate([states.tokens[i][:, best] for i in states.pick("", "train")]).astype(np.float32) @ directions.T
    probes = []
    for i, concept in enumerate(CONCEPTS):
        positive, negative = _scores(states, directions[i], best, concept, "test")
        value = _auroc(positive, negative)
        low, high = _bootstrap(positive, negative)
        say(f"  {concept}: test AUROC {value:.3f} [{low:.3f}, {high:.3f}] on {len(positive)} against {len(negative)} texts")
        probes.append(ProbeCard(
            name=concept, layer=best, concept=concept, method="difference of means, neutral components removed",
            neutral_mean=float(neutral[:, i].mean()), neutral_std=float(neutral[:, i].std()), auroc=value, auroc_ci=(low, high),
        ))  # fmt: skip
    card = BankCard(
        format=FORMAT,
        model=ModelCard(
            name=name,
            width=config.hidden_size,
            layers=config.num_hidden_layers,
            config_hash=config_hash(config.to_dict()),
            dtype=str(model.dtype).removeprefix("torch."),
        ),
        probes=probes,
        arrays_sha256=hashlib.sha256(Bank.pack(directions)).hexdigest(),
        corpus_sha256=corpus.sha256,
        fitted_with=f"transformers {transformers.__version__}, torch {torch.__version__}",
        layer_profile={str(each): values for each, values in profile.items()},
        limits=[
            f"Fitted on {len(corpus.texts)} short English texts; the test split has {len(states.pick(CONCEPTS[0], 'test'))} texts a concept, so its intervals are wide.",
            "Openly emotional text separates easily; negation, quotation and long context are not tested yet.",
            "A probe is the representation of a concept in one model. A quiet probe is no proof of calm.",
        ],
    )
    return Bank(card, directions)


def _load(source: str, device: str) -> tuple[Any, Any]:
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype="auto").to(where).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise FitError(f"cannot load model '{source}' ({' '.join(str(error).split())[:300]}); expected a causal language model") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


@torch.no_grad()
def _read(model: Any, tokenizer: Any, texts: Sequence[Text]) -> Iterator[NDArray[np.float16]]:
    """For each text the states [tokens, layers, width] that produce its reply's tokens, from token SKIP on."""
    for start in range(0, len(texts), BATCH):
        encoded = [_encode(tokenizer, text) for text in texts[start : start + BATCH]]
        length = max(len(ids) for ids, _ in encoded)
        # Padding on the right: causal attention keeps it away from the tokens that are read.
        ids = torch.tensor([ids + [tokenizer.pad_token_id] * (length - len(ids)) for ids, _ in encoded], device=model.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in encoded], device=model.device)
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False, logits_to_keep=1).hidden_states
        # hidden_states[0] is the embedding; [layer + 1] is what decoder layer `layer` returns.
        layers = torch.stack(hidden[1:], dim=2)
        for row, (tokens, prompt) in enumerate(encoded):
            # The state at position p produces token p + 1, so the reply's first token comes from the last prompt position.
            first = min(prompt - 1 + SKIP, len(tokens) - 2)
            picked: NDArray[np.float16] = layers[row, first : len(tokens) - 1].to(torch.float16).cpu().numpy()
            yield picked


def _encode(tokenizer: Any, text: Text) -> tuple[list[int], int]:
    """Token ids of prompt and reply, and how many of them are the prompt."""
    if tokenizer.chat_template:
        prompt = list(
            tokenizer.apply_chat_template([{"role": "user", "content": text.prompt}], add_generation_prompt=True, return_dict=False)
        )
    else:
        prompt = list(tokenizer(text.prompt + "\n\n")["input_ids"])
    return prompt + list(tokenizer(text.reply, add_special_tokens=False)["input_ids"]), len(prompt)


def _directions(states: States, layer: int) -> Floats:
    """Unit directions [concepts, width] at one layer, from the training split."""
    concepts = np.stack([states.means[states.pick(concept, "train"), layer].mean(axis=0) for concept in CONCEPTS])
    everything = np.vstack([concepts, states.means[states.pick("", "train"), layer].mean(axis=0)])
    raw = concepts - everything.mean(axis=0)
    neutral = np.concatenate([states.tokens[i][:, layer] for i in states.pick("", "train")]).astype(np.float32)
    _, values, vectors = np.linalg.svd(neutral - neutral.mean(axis=0), full_matrices=False)
    share = np.cumsum(values**2) / np.sum(values**2)
    basis = vectors[: int(np.searchsorted(share, NEUTRAL_VARIANCE)) + 1]
    cleaned = raw - (raw @ basis.T) @ basis
    directions: Floats = (cleaned / np.linalg.norm(cleaned, axis=1, keepdims=True)).astype(np.float32)
    return directions


def _scores(states: States, direction: Floats, layer: int, concept: str, split: Split) -> tuple[Floats, Floats]:
    """Scores of a split's texts that show the concept, and of all its others (other concepts and neutral)."""
    inside = states.pick(concept, split)
    outside = np.setdiff1d(states.pick(None, split), inside)
    return states.means[inside, layer] @ direction, states.means[outside, layer] @ direction


def _auroc(positive: Floats, negative: Floats) -> float:
    return float(roc_auc_score(np.r_[np.ones(len(positive)), np.zeros(len(negative))], np.r_[positive, negative]))


def _separation(states: States, directions: Floats, layer: int) -> float:
    """How far apart the concepts are from the rest at one layer, in standard deviations of the rest (validation)."""
    gaps = []
    for i, concept in enumerate(CONCEPTS):
        positive, negative = _scores(states, directions[i], layer, concept, "validation")
        gaps.append((positive.mean() - negative.mean()) / negative.std())
    return float(np.mean(gaps))


def _bootstrap(positive: Floats, negative: Floats) -> tuple[float, float]:
    """95 % interval of the AUROC over resampled texts."""
    random = np.random.default_rng(0)
    values = [_auroc(random.choice(positive, len(positive)), random.choice(negative, len(negative))) for _ in range(BOOTSTRAPS)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)

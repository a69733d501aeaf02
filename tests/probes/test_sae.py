"""Features of a sparse autoencoder as probes, on one that is trained here on the real model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from probes import replies
from probes.bank import Bank
from probes.calibration import calibrate
from probes.corpus import Corpus, Text
from probes.layers import decoder_layers
from probes.prompts import setting
from probes.reader import Reader
from probes.sae import Sae, SaeError, bank_of
from probes.statistics import auroc

LAYER = 13
FEATURES = 192
KEPT = 12  # features that are active at a token

quiet = lambda text: None  # noqa: E731


@pytest.fixture(scope="module")
def reader(model_folder: str) -> Reader:
    return Reader(model_folder, "HuggingFaceTB/SmolLM2-135M-Instruct", "cpu", "float32")


def token_states(reader: Reader, text: Text) -> np.ndarray:
    """States [tokens, width] of a reply at the layer."""
    ids, prompt = reader.encode(text, 64)
    found = []
    hook = decoder_layers(reader.nn)[LAYER].register_forward_hook(
        lambda module, args, output: found.append(output if isinstance(output, torch.Tensor) else output[0])
    )
    with torch.no_grad():
        reader.model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1)
    hook.remove()
    return found[0][0, prompt:].float().numpy()


def train(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder and decoder of an autoencoder that keeps the strongest features of each token."""
    torch.manual_seed(0)
    decoder = torch.nn.Parameter(torch.nn.functional.normalize(torch.randn(FEATURES, states.shape[1]), dim=1))
    encoder = torch.nn.Parameter(decoder.detach().T.clone())
    optimiser = torch.optim.Adam([encoder, decoder], lr=3e-3)
    for _ in range(150):
        batch = states[torch.randint(len(states), (1024,))]
        active = torch.relu(batch @ encoder)
        top = active.topk(KEPT)
        rebuilt = torch.zeros_like(active).scatter(1, top.indices, top.values) @ decoder
        loss = (rebuilt - batch).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return encoder.detach(), decoder.detach()


@pytest.fixture(scope="module")
def trained(reader: Reader, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder in SAELens' format, and the feature that fires most on panic rather than on all else (training texts only)."""
    texts = [text for text in corpus.texts if text.split == "train" and (text.concept in ("panic", "calm") or text.form == "neutral")][::2]
    states = [token_states(reader, text) for text in texts]
    whole = torch.from_numpy(np.concatenate(states))
    mean, scale = whole.mean(dim=0), whole.std()
    encoder, decoder = train((whole - mean) / scale)
    active = np.stack([torch.relu((torch.from_numpy(each) - mean) / scale @ encoder).mean(dim=0).numpy() for each in states])
    panic = np.array([text.concept == "panic" for text in texts])
    feature = int(np.argmax([auroc(active[panic, i], active[~panic, i]) for i in range(FEATURES)]))
    folder = tmp_path_factory.mktemp("sae")
    arrays = {"W_dec": decoder, "W_enc": encoder, "b_dec": mean, "b_enc": torch.zeros(FEATURES)}
    save_file({name: array.numpy().astype(np.float32) for name, array in arrays.items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(
        json.dumps(
            {"architecture": "topk", "d_in": reader.width, "d_sae": FEATURES, "metadata": {"hook_name": f"blocks.{LAYER}.hook_resid_post"}}
        )
    )
    return folder, feature


def test_a_feature_becomes_a_probe(
    reader: Reader, corpus: Corpus, trained: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, feature = trained
    monkeypatch.setattr(replies, "WAYS", ((32, 1.0), (24, 0.0)))  # as many replies in a tenth of the time
    few = setting(corpus)[::20]
    calibrate(reader, bank_of(reader, Sae.read(folder), {"alarm bells": feature}), few, 1, tmp_path, quiet).save(tmp_path / "bank")
    bank = Bank.load(tmp_path / "bank")
    card = bank["alarm bells"]
    assert (card.group, card.layer) == ("feature", LAYER)
    assert f"feature {feature} of autoencoder" in card.concept
    assert card.thresholds["ewma(8)"][0].rate == 0.01
    assert bank.select("alarm").names == ("alarm bells",)
    weight, bias = bank.affine()
    tests = [text for text in corpus.texts if text.split == "test" and text.form != "emotion"]
    states = reader.means(tests, tmp_path)
    scores = states[:, LAYER + 1].astype(np.float32) @ weight[:, 0] + bias[0]
    panic = np.array([text.concept == "panic" for text in tests])
    assert auroc(scores[panic], scores[~panic]) > 0.7


def test_what_does_not_fit_is_refused(reader: Reader, trained: tuple[Path, int], tmp_path: Path) -> None:
    with pytest.raises(SaeError, match=f"feature 999 is not in the autoencoder; it has 0 to {FEATURES - 1}"):
        bank_of(reader, Sae.read(trained[0]), {"stairs": 999})
    save_file({"W_dec": np.ones((4, 32), np.float32)}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"hook_name": "blocks.3.hook_resid_pre"}))
    narrow = Sae.read(tmp_path)
    assert narrow.layer == 2
    with pytest.raises(SaeError, match="width 32 at layer 2 does not fit"):
        bank_of(reader, narrow, {"stairs": 1})
    (tmp_path / "cfg.json").write_text(json.dumps({"hook_name": "blocks.3.attn.hook_z"}))
    with pytest.raises(SaeError, match=r"hook_name is 'blocks\.3\.attn\.hook_z'"):
        Sae.read(tmp_path)

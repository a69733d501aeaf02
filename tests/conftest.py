"""Fixtures: the real model, its bank, and a whole running Barograph."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from monitor import models
from monitor.config import BANKS
from probes.bank import Bank
from probes.corpus import Corpus
from tests import ledgers
from tests.banks import steerable
from tests.stack import Stack

# These run beside vLLM only, in an environment of their own: make test-vllm.
collect_ignore = [] if find_spec("vllm") else ["vllm"]
# These need Java, Go, root, another model or minutes of their own, and run when they are asked for by name, by targets of the Makefile.
APART = [Path(__file__).parent / name for name in ("abuse", "cluster", "images", "kafka", "models", "otel")]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    return True if collection_path in APART and not any(path.is_relative_to(collection_path) for path in asked) else None


# A busy machine makes examples slowly, and that says nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def no_open_ledgers() -> Iterator[None]:
    yield
    ledgers.close_all()


@pytest.fixture(scope="session")
def bank_folder() -> Path:
    return BANKS / "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def whole_bank(bank_folder: Path) -> Bank:
    """The shipped bank, as if panic's cause had been shown: what rules and gateway do with a proof must not hang on what the last fit could prove."""
    return steerable(Bank.load(bank_folder))


@pytest.fixture(scope="session")
def bank(whole_bank: Bank) -> Bank:
    """The shipped bank as it is live by default: without the 171 emotions."""
    return whole_bank.select("alarm")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, model_folder: str) -> str:
    """A random model of four narrow layers: what must hold whatever the model, without its cost."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("tiny")
    transformers.AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=8192, eos_token_id=2, pad_token_id=2, bos_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """The shipped corpus with all its kinds of text but fewer of them: what a fit needs, in seconds."""
    whole = Corpus.read()
    neutral = iter(range(len(whole.texts)))
    lines = iter(range(len(whole.texts)))
    kept = [
        text
        for text in whole.texts
        if (next(lines) % 8 in (0, 6, 7) if text.form == "emotion" else text.concept or next(neutral) % 18 in (0, 4, 5, 6, 7, 8))
    ]
    return Corpus(tuple(kept), whole.sha256)


@pytest.fixture(scope="session")
def model_folder() -> str:
    """The real model's checkpoint; fetched and converted when this machine has not got it."""
    return models.resolve(models.BUNDLED)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Engine and sidecar with the shipped rules, shared by the tests that only look."""
    with Stack(tmp_path_factory.mktemp("stack")) as running:
        yield running

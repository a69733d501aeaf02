"""A third family of models: Gemma 3 270M, a base model without a chat template. Its terms do not let us ship it or its bank, so it is fetched and fitted here.

On part of the texts, as the whole takes the better part of an hour on two cores: `make test-models`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monitor import models
from probes.bank import Bank
from probes.calibration import calibrate
from probes.circumplex import ENDS
from probes.corpus import DEEP, NEUTRAL, Corpus
from probes.fit import FitError, fit
from probes.prompts import setting
from probes.reader import Reader
from probes.scoring import token_scores

pytestmark = pytest.mark.timeout(3600)
MODEL = "gemma3-270m"
KEPT = {*DEEP, *(emotion for ends in ENDS.values() for end in ends for emotion in end)}
WORTH = 0.85  # of what the fit has not seen; a random direction has 0.5


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(models.resolve(MODEL), models.served_name(MODEL), "cpu", fast=True)


@pytest.fixture(scope="module")
def few() -> Corpus:
    whole = Corpus.read()
    plain = {id(text) for text in whole.neutral[::5]}  # of every split: they take turns by sixes
    kept = tuple(text for text in whole.texts if text.concept in KEPT or id(text) in plain or (text.form != NEUTRAL and not text.concept))
    return replace(whole, texts=kept)


@pytest.fixture(scope="module")
def bank(reader: Reader, few: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    work = tmp_path_factory.mktemp("work")
    return calibrate(reader, fit(reader, few, [], work, None, print), setting(few)[::16], 1, work, print)


def test_a_base_model_of_another_family_gets_a_whole_bank(bank: Bank, tmp_path: Path) -> None:
    bank.save(tmp_path)
    loaded = Bank.load(tmp_path)
    assert loaded.names[:7] == (*DEEP, "valence", "arousal")
    assert (loaded.card.model.name, loaded.card.model.layers, loaded.card.model.width) == ("gemma-3-270m", 18, 640)
    for concept in DEEP:
        found = loaded[concept].auroc
        assert found is not None
        assert found > WORTH, (concept, loaded[concept].methods)


def test_its_scores_tell_what_nobody_fitted(reader: Reader, bank: Bank, few: Corpus) -> None:
    """Token by token, as a tap would read it."""
    alarm = bank.select("alarm")
    i = alarm.names.index("hostility")
    texts = [text for text in few.texts if text.split == "test" and text.concept in ("hostility", "calm")][:40]
    means = np.array([token_scores(reader, alarm, text)[:, i].mean() for text in texts])
    hostile = np.array([text.concept == "hostility" for text in texts])
    assert np.isfinite(means).all()
    assert means[hostile].mean() > means[~hostile].mean() + 1


def test_a_layer_that_it_has_not_is_refused(reader: Reader, few: Corpus, tmp_path: Path) -> None:
    with pytest.raises(FitError, match="layer 17 cannot be read; gemma-3-270m has the layers 6 to 16 for probes"):
        fit(reader, few, [], tmp_path, 17, print)

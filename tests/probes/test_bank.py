from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from probes.bank import ARRAYS, CARD, Bank, BankError


@pytest.fixture
def copy(bank_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bank_folder, tmp_path / "bank"))


def change(folder: Path, **fields: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, **fields}))


@pytest.mark.smoke
def test_the_shipped_bank_loads(bank: Bank) -> None:
    assert bank.names == ("desperation", "panic", "hostility", "frustration", "calm", "valence", "arousal")
    assert np.allclose(np.linalg.norm(bank.directions, axis=1), 1, atol=1e-5)
    measured = [probe for probe in bank.card.probes if probe.group == "safety"]
    assert all(probe.auroc_ci and probe.auroc and probe.auroc_ci[0] <= probe.auroc <= probe.auroc_ci[1] for probe in measured)


def test_scores_are_z_values(bank: Bank) -> None:
    weight, bias = bank.affine()
    state = np.random.default_rng(0).normal(size=bank.card.model.width).astype(np.float32)
    by_hand = [(state @ bank.directions[i] - probe.neutral_mean) / probe.neutral_std for i, probe in enumerate(bank.card.probes)]
    assert np.allclose(state @ weight + bias, by_hand, atol=1e-4)


def test_a_round_trip_keeps_everything(whole_bank: Bank, tmp_path: Path) -> None:
    whole_bank.save(tmp_path / "new")
    again = Bank.load(tmp_path / "new")
    assert again.card == whole_bank.card
    assert np.array_equal(again.directions, whole_bank.directions)
    assert np.array_equal(again.patterns, whole_bank.patterns)


def test_a_flipped_byte_is_refused(copy: Path) -> None:
    raw = bytearray((copy / ARRAYS).read_bytes())
    raw[-1] ^= 1
    (copy / ARRAYS).write_bytes(raw)
    with pytest.raises(BankError, match="the file is corrupt or from another fit"):
        Bank.load(copy)


def test_a_truncated_card_is_refused(copy: Path) -> None:
    (copy / CARD).write_bytes((copy / CARD).read_bytes()[:100])
    with pytest.raises(BankError, match=r"card\.json"):
        Bank.load(copy)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [("format", 9, "format 9; this version reads format 3"), ("surprise", 1, "surprise"), ("probes", [], "probes")],
)
def test_a_wrong_card_is_refused(copy: Path, field: str, value: object, expected: str) -> None:
    change(copy, **{field: value})
    with pytest.raises(BankError, match=expected):
        Bank.load(copy)


def test_two_probes_of_one_name_are_refused(copy: Path) -> None:
    probes = json.loads((copy / CARD).read_text())["probes"]
    change(copy, probes=[probes[0] | {"name": "panic"}, *probes[1:]])
    with pytest.raises(BankError, match="two probes are called 'panic'"):
        Bank.load(copy)


def test_arrays_that_are_not_numbers_are_refused(copy: Path, bank: Bank) -> None:
    import hashlib

    raw = Bank.pack(np.full_like(bank.directions, np.nan), bank.patterns)
    (copy / ARRAYS).write_bytes(raw)
    change(copy, arrays_sha256=hashlib.sha256(raw).hexdigest())
    with pytest.raises(BankError, match="expected finite"):
        Bank.load(copy)


def test_a_missing_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BankError, match="cannot read"):
        Bank.load(tmp_path)


@pytest.mark.parametrize(
    ("width", "layers", "hashed", "expected"), [(1, 30, "", "width 576"), (576, 2, "", "layers 30"), (576, 30, "other", "config other")]
)
def test_another_model_is_refused(bank: Bank, width: int, layers: int, hashed: str, expected: str) -> None:
    with pytest.raises(BankError, match=expected) as caught:
        bank.check_model("other-model", width, layers, hashed)
    assert "barograph probes fit --model other-model" in str(caught.value)


def test_a_dose_is_proven_between_tried_doses_that_are(bank: Bank) -> None:
    """One that beats matched directions both ways, one only upwards, and one that was not tried, which beats nothing."""
    shown = bank["hostility"].cause
    assert shown is not None
    doses = shown.doses
    assert doses == [-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2]
    rising = shown.model_copy(update={"outcomes": {"words": [10 * dose for dose in doses]}})
    both = rising.model_copy(update={"matched": [5 * dose for dose in doses]})
    upwards = rising.model_copy(update={"matched": [(5 if dose > 0 else 11) * dose for dose in doses]})
    untried = rising.model_copy(update={"matched": []})
    assert both.proven == [-0.2, -0.1, -0.05, 0.05, 0.1, 0.2]
    assert [both.beats(dose) for dose in (-0.3, -0.2, -0.15, -0.05, -0.01, 0.0, 0.01, 0.07, 0.21)] == [
        False, True, True, True, False, False, False, True, False,
    ]  # fmt: skip
    assert [upwards.beats(dose) for dose in (-0.2, -0.1, -0.07, 0.07)] == [False, False, False, True]
    assert not untried.proven
    assert not untried.beats(-0.1)
    assert not both.beats(float("nan"))


def test_a_card_with_outcomes_that_do_not_fit_its_doses_is_refused(copy: Path) -> None:
    card = json.loads((copy / CARD).read_text())
    cause = next(probe["cause"] for probe in card["probes"] if probe["name"] == "panic")
    cause["matched"] = cause["matched"][:-1]
    (copy / CARD).write_text(json.dumps(card))
    with pytest.raises(BankError, match="expected one each"):
        Bank.load(copy)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from probes.methods import METHODS, neutral_components, unit, without
from probes.scoring import held, peaks
from probes.statistics import auroc, auroc_interval, bootstrap, clustered, figure, found_at, wilson, with_rates
from probes.windows import WINDOWS, windowed
from rules.signal import Signal
from rules.windows import Windows

SCORES = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0]), min_size=1, max_size=30)


@given(SCORES, SCORES)
def test_auroc_is_the_textbook_one(positive: list[float], negative: list[float]) -> None:
    truth = [1] * len(positive) + [0] * len(negative)
    assert auroc(np.array(positive), np.array(negative)) == pytest.approx(roc_auc_score(truth, positive + negative))


def test_an_interval_holds_the_value_and_narrows() -> None:
    random = np.random.default_rng(0)
    wide, narrow = (bootstrap(auroc, random.normal(1, 1, n), random.normal(0, 1, n)) for n in (20, 2000))
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 3
    assert narrow[0] < 0.76 < narrow[1]


def test_rates_are_those_of_the_default_rules() -> None:
    made = with_rates(
        figure("mention", np.empty(0), np.array([0.0, 1.0, 2.0, 3.0])), np.empty(0, bool), np.array([True, False, True, False])
    )
    assert made.auroc is None
    assert made.tpr is None
    assert made.fpr == 0.5


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=60), st.sampled_from(WINDOWS))
def test_windows_are_those_of_the_rules(scores: list[float], window: str) -> None:
    """A threshold of the card holds for what a rule computes while a reply runs."""
    kind, _, size = window.rstrip(")").partition("(")
    signal = Signal("p", kind, int(size or 1))
    live = Windows(("p",), (signal,))
    live.begin(0)
    values = np.array([live.update(np.array([0]), np.array([[score]]))[signal][0] for score in scores])
    assert np.allclose(windowed(np.array(scores)[:, None], window)[:, 0], values[np.isfinite(values)])


@pytest.mark.parametrize("name", METHODS)
def test_a_method_finds_the_direction_that_differs(name: str) -> None:
    random = np.random.default_rng(0)
    truth = random.random(400) < 0.3
    states = random.normal(size=(400, 16)).astype(np.float32)
    states[truth, 3] += 3
    direction = METHODS[name](states, truth, np.ones(400, np.float32))
    assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-5)
    assert direction[3] > 0.8


def test_neutral_components_are_projected_out() -> None:
    random = np.random.default_rng(0)
    neutral = (random.normal(size=(200, 8)) * np.array([9, 5, 1, 1, 1, 1, 1, 1])).astype(np.float32)
    basis = neutral_components(neutral)
    assert len(basis) == 1
    cleaned = without(unit(np.ones((1, 8))), basis)
    assert np.abs(cleaned @ basis.T).max() < 1e-5


def test_intervals_of_perfect_figures_are_not_a_point() -> None:
    low, high = auroc_interval(1.0, 10, 10)
    assert 0.7 < low < 0.95
    assert high == 1
    assert auroc_interval(1.0, 200, 200)[0] > low
    low, high = wilson(10, 10)
    assert low == pytest.approx(0.722, abs=0.002)  # Brown, Cai and DasGupta 2001
    assert high == pytest.approx(1)
    assert wilson(0, 384)[1] == pytest.approx(0.0099, abs=0.0002)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(2, 60), st.integers(2, 60), st.floats(0.01, 1))
def test_an_area_lies_in_its_interval(positives: int, negatives: int, value: float) -> None:
    low, high = auroc_interval(value, positives, negatives)
    assert 0 <= low <= value <= high <= 1


def test_whole_groups_are_drawn() -> None:
    random = np.random.default_rng(0)
    level = np.repeat(random.normal(size=30), 10)
    together = clustered(lambda x: float(x.mean()), np.repeat(np.arange(30), 10), level)
    apart = clustered(lambda x: float(x.mean()), np.arange(300), level)
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_what_is_found_at_a_rate_is_judged_on_one_half() -> None:
    random = np.random.default_rng(0)
    share = found_at(0.01, random.normal(3, 1, 500), random.normal(0, 1, 1000))
    assert share is not None
    assert share[0] == pytest.approx(0.75, abs=0.08)
    assert share[1][0] < share[0] < share[1][1]
    assert found_at(0.01, np.ones(5), np.zeros(299)) is None


def test_a_value_is_held_as_long_as_its_lowest() -> None:
    scores = np.array([[0.0], [3.0], [2.0], [4.0], [1.0]])
    assert held(scores, 3)[:, 0].tolist() == [0, 2, 1]
    assert peaks([scores, scores[:2]], "last", 3)[:, 0].tolist() == [2, -np.inf]
    assert peaks([scores], "last")[0, 0] == 4

"""Tests of rules: their series, and the difference that they print."""

from __future__ import annotations

import math

import pytest

from rules.document import DocumentError, parse
from rules.ruleset import RuleSet
from rules.series import series
from rules.testing import RuleTests, coverage, run
from tests.rules.naive import probe_facts

RULES = RuleSet.from_text(
    "rules:\n- {rule: up, desc: d, when: panic.last > 1, for: 2 tokens, do: alert, mode: armed}\n"
    "- {rule: timed, desc: d, when: panic.last > 1, for: 100ms, do: alert}\n- {rule: gone, desc: d, when: panic.last > 1, do: alert, mode: disabled}\n"
)


@pytest.mark.parametrize(
    ("text", "values"),
    [("2", [2]), ("2*3 -1", [2, 2, 2, -1]), ("1+0.5*3", [1, 1.5, 2]), ("3-1x3", [3, 2, 1]), ("0.25", [0.25])],
)
def test_series(text: str, values: list[float]) -> None:
    assert series(text) == values


def test_missing_scores() -> None:
    assert [math.isnan(value) for value in series("_ 1 _*2")] == [True, False, True, True]


@pytest.mark.parametrize(
    ("text", "why"), [("a", "'a' is no part"), ("", "empty"), ("1*999999", "more than 100000"), ("_+1*2", "no part"), ("1**2", "no part")]
)
def test_bad_series(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        series(text)


def outcome(body: str) -> list[str]:
    file = parse(f"rules: r\ntests:\n- name: n\n  every: 50ms\n{body}", RuleTests, "t.yaml")
    (found,) = run(file, RULES, probe_facts(), "t.yaml")
    return found.difference


def test_what_is_as_expected_has_no_difference() -> None:
    assert (
        outcome(
            "  scores: {panic: 0 2*3 0}\n  expect: [{rule: up, at: 2, ends: 4, action: alert, mode: armed}, {rule: timed, at: 3, mode: shadow}]\n"
        )
        == []
    )


def test_a_difference_can_be_read() -> None:
    assert outcome("  scores: {panic: 0 2*3 0}\n  expect: [{rule: up, at: 1}, {rule: timed, at: 3, action: halt}]\n") == [
        "5 tokens:",
        "  - expected: up fires at 1",
        "  + got:      up fires at 2 (alert, armed), ends at 4: panic.last = 2",
        "  - expected: timed fires at 3 (halt)",
        "  + got:      timed fires at 3 (alert, shadow), ends at 4: panic.last = 2",
    ]


def test_names_that_nobody_knows() -> None:
    with pytest.raises(DocumentError, match=r"t\.yaml: test 'n': unknown probe 'panik'; did you mean 'panic'"):
        outcome("  scores: {panik: 1}\n")
    with pytest.raises(DocumentError, match=r"t\.yaml: test 'n': unknown rule 'upp'; did you mean 'up'"):
        outcome("  scores: {panic: 1}\n  expect: [{rule: upp, at: 1}]\n")


def test_a_lone_series_in_another_base_is_a_trap_that_yaml_sets() -> None:
    with pytest.raises(DocumentError, match=r"t\.yaml:5:19: 0x40 is a number in another base; put quotes around a text"):
        outcome("  scores: {panic: 0x40}\n")


def test_coverage_knows_which_rules_have_no_test() -> None:
    file = parse("rules: r\ntests: [{name: n, scores: {panic: 2 2}, expect: [{rule: up, at: 1}]}]\n", RuleTests, "t")
    assert coverage([file], RULES) == {"up": True, "timed": False}

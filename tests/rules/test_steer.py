"""Rules that steer: which doses are refused, where, and how a reply ends when a push does not help."""

from __future__ import annotations

import pytest

from rules.abilities import Abilities, Doses
from rules.document import DocumentError
from rules.engine import RuleEngine
from rules.ruleset import RuleSet
from rules.schema import Action, Do, Halt, Rule, Span
from tests.rules.naive import probe_facts

STEER = "rules:\n- {rule: r, desc: d, when: panic.last > 1, do: {steer: WHAT}, mode: armed}\n"


def test_a_dose_that_was_not_shown_to_do_anything_is_refused() -> None:
    for what, why in (
        ("{probe: panik, dose: -0.1}", "unknown probe 'panik'; did you mean 'panic'"),
        ("{probe: calm, dose: 0.1}", "would steer along 'calm', whose card does not say causal: true"),
        ("{probe: panic, dose: 0.1}", "is an alarm: a dose of 0.1 pushes towards it; expected one below 0"),
        ("{probe: panic, dose: -0.2}", "where a dose of -0.2 was not shown to do more than random directions of the same covariance"),
        ("{probe: panic, dose: 0}", "a dose of 0 does nothing"),
        ("{probe: panic, dose: -0.3}", "greater than or equal to -0.2"),
        ("{probe: panic, dose: .nan}", "expected less than or equal to 0.2"),
        ("{probe: panic, dose: -0.1, for: 2s}", "a push lasts for tokens"),
        ("{probe: panic, dose: -0.1, else: alert}", "expected one of: reroute, halt"),
        ("{dose: -0.1}", "steer.probe|probe"),
    ):
        with pytest.raises(DocumentError, match=why):
            RuleEngine.from_text(STEER.replace("WHAT", what), probe_facts(), "r.yaml")
        with pytest.raises(DocumentError, match=why):  # also in shadow: its verdicts would say what nobody could do
            RuleEngine.from_text(STEER.replace("WHAT", what).replace("armed", "shadow"), probe_facts(), "r.yaml")


def test_a_push_needs_a_configuration_that_allows_it() -> None:
    able = Abilities({"safe"}, True, Doses(("panic",), 0.1, 64))
    for what, abilities, why in (
        ("{probe: panic, dose: -0.1}", Abilities(doses=False), "rule 'r' steers along 'panic'; expected tap.steer, which allows it"),
        ("{probe: desperation, dose: -0.1}", able, "steers along 'desperation'; tap.steer.probes has: panic"),
        ("{probe: panic, dose: -0.12}", able, "steers with a dose of -0.12; tap.steer.max_dose is 0.1"),
        ("{probe: panic, dose: -0.1, for: 65 tokens}", able, "steers for 65 tokens; tap.steer.max_tokens is 64"),
        ("{probe: panic, dose: -0.1, else: {reroute: {to: saef}}}", able, "unknown target 'saef'; did you mean 'safe'"),
    ):
        with pytest.raises(DocumentError, match=why):
            RuleEngine(RuleSet.from_text(STEER.replace("WHAT", what), "r"), probe_facts(), abilities)
        RuleEngine(RuleSet.from_text(STEER.replace("WHAT", what).replace("armed", "shadow"), "r"), probe_facts(), abilities)
    RuleEngine(
        RuleSet.from_text(STEER.replace("WHAT", "{probe: panic, dose: -0.1, else: {reroute: {to: safe}}}"), "r"), probe_facts(), able
    )


def test_a_push_says_how_the_reply_ends_and_outlives_its_record() -> None:
    def do(text: str) -> Do:
        (rule,) = RuleSet.from_text(STEER.replace("WHAT", text), "r").rules
        assert Rule.model_validate(rule.model_dump(mode="json", by_alias=True, exclude_none=True)) == rule
        assert rule.action == Action.STEER
        return rule.do

    plain = do("{probe: panic, dose: -0.1}")
    assert plain.steer is not None
    assert (plain.steer.span, plain.ending, plain.turning) == (Span(tokens=64), Halt(), None)
    assert do("{probe: panic, dose: -0.1, else: {halt: {message: No.}}}").ending == Halt(message="No.")
    turned = do("{probe: panic, dose: -0.1, for: 8, else: {reroute: {to: safe, else: {message: Down.}}}}")
    assert turned.turning is not None
    assert (turned.turning.to, turned.ending) == ("safe", Halt(message="Down."))

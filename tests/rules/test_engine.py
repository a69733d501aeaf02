"""The engine against a naive one that walks token by token, and the cases that matter at three in the morning."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import yaml

from rules.abilities import Abilities
from rules.document import DocumentError
from rules.engine import RuleEngine, distinct_rounds
from rules.facts import ProbeFacts
from rules.ruleset import RuleSet
from rules.schema import Action, Rule, Span, TenantLimit, Throttle
from rules.verdict import Verdict, strongest
from tests.rules.naive import PROBES, probe_facts


def engine(when: str, hold: str = "1 token", do: str = "alert", mode: str = "armed", **more: Any) -> RuleEngine:
    rule = {"rule": "r", "desc": "d", "when": when, "for": hold, "do": yaml.safe_load(do), "mode": mode, **more}
    return RuleEngine.from_text(yaml.safe_dump({"rules": [rule]}, width=10_000), probe_facts(), "r.yaml")


def run(rules: RuleEngine, series: list[float], probe: int = 0, step: float = 0.0, **about: Any) -> list[Verdict]:
    """Every verdict of one stream; `step` seconds pass from token to token."""
    rules.begin(0, **about)
    verdicts = []
    for position, value in enumerate(series):
        scores = np.zeros((1, len(PROBES)), np.float32)
        scores[0, probe] = value
        verdicts += rules.judge(np.array([0]), np.array([position]), scores, position * step)
    return verdicts


def places(verdicts: list[Verdict]) -> list[int]:
    """Where rules fired; a negative number is where one ended."""
    return [-verdict.position if verdict.ended else verdict.position for verdict in verdicts]


@pytest.mark.smoke
def test_a_rule_fires_once_after_its_condition_held() -> None:
    verdicts = run(engine("desperation.last > 2", "3 tokens"), [3, 3, 0, 3, 3, 3, 3, 3])
    assert [verdict.position for verdict in verdicts if not verdict.ended] == [5]
    assert verdicts[0].signals == {"desperation.last": 3.0}


def test_the_average_starts_from_the_first_score() -> None:
    # With half-life 1 the average of 4, 0, 0 is 4, 2, 1; of 0, 4, 4 it is 0, 2, 3.
    assert [p for p in places(run(engine("desperation.ewma(1) < 1.5"), [4, 0, 0])) if p >= 0] == [2]
    assert [p for p in places(run(engine("desperation.ewma(1) > 2.5"), [0, 4, 4])) if p >= 0] == [2]


@pytest.mark.parametrize(
    ("when", "series", "position"),
    [
        ("desperation.mean(3) > 1", [9, 0, 0, 0], 2),
        ("desperation.max(2) > 5", [0, 9, 0], 1),
        ("desperation.min(2) > 1", [0, 2, 2], 2),
        ("desperation.slope(3) > 0.9", [0, 0, 1, 2], 3),
        ("desperation.last - panic.last * 2 > 1", [0, 2], 1),
        ("not desperation.last > 1", [2, 2, 0], 2),
        ("1 < desperation.last < 3", [0, 5, 2], 2),
        ("desperation.last / panic.last > 1", [1, 1], 0),  # x / 0 is infinite
    ],
)
def test_windows_and_operators(when: str, series: list[float], position: int) -> None:
    assert [p for p in places(run(engine(when), series)) if p >= 0] == [position]


@pytest.mark.parametrize(
    "when",
    [
        "desperation.last > 1",
        "not desperation.last > 1",
        "desperation.ewma(4) < 1",
        "not (desperation.ewma(4) > 1 or desperation.mean(1) > 1)",
    ],
)
def test_a_missing_number_never_fires(when: str) -> None:
    assert run(engine(when), [math.nan] * 5) == []


def test_a_missing_number_does_not_hide_the_other_probe() -> None:
    rules = engine("desperation.last > 1 or panic.last > 1")
    rules.begin(0)
    assert rules.judge(np.array([0]), np.array([0]), np.array([[math.nan, 5.0, 0.0]]))


def test_a_missing_number_does_not_poison_the_average() -> None:
    assert [p for p in places(run(engine("desperation.ewma(1) > 2.5"), [math.nan, 0, math.nan, 4, 4])) if p >= 0] == [4]


@pytest.mark.parametrize(
    "when", ["desperation.ewma(8) > 3", "desperation.mean(8) > 3", "desperation.mean(stream) > 3", "desperation.mean(conversation, 4) > 3"]
)
def test_one_token_with_a_massive_activation_is_not_carried_on(when: str) -> None:
    """A probe may score in the hundreds at such a token, and an average would stay over a threshold for dozens of tokens."""
    quiet = [0.0] * 12
    assert run(engine(when, "2 tokens"), [*quiet, 380.0, *quiet], conversation="c") == []
    assert run(engine(when, "2 tokens"), [*quiet, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0], conversation="c") != []


def test_a_threshold_of_the_card_that_no_score_exceeds_is_refused() -> None:
    facts = [ProbeFacts("panic", {"last": {0.01: 12.5}})]
    with pytest.raises(DocumentError, match="never holds: no score counts for more than 12"):
        RuleEngine.from_text("rules: [{rule: r, desc: d, when: panic.last > fpr(0.01), do: alert}]", facts)


def test_a_macro_hides_no_condition_that_never_holds() -> None:
    for when in ("now > 13", "now > far"):
        text = f"macros: {{now: panic.last, far: '12'}}\nrules: [{{rule: r, desc: d, when: {when}, do: alert}}]"
        with pytest.raises(DocumentError, match="never holds"):
            RuleEngine.from_text(text, probe_facts())


def test_what_can_just_hold_is_no_error() -> None:
    assert places(run(engine("desperation.last >= 12 and desperation.slope(2) > 40 or desperation.last > -99"), [0.0])) == [0]
    assert places(run(engine("desperation.last >= 12"), [0.0, 12.0])) == [1]


def test_zero_by_zero_never_fires() -> None:
    assert run(engine("panic.last / calm.last > 0"), [1, 1]) == []


def test_shadow_records_and_disabled_is_silent() -> None:
    assert run(engine("desperation.last > 1", mode="shadow"), [2])[0].shadow == "mode"
    assert run(engine("desperation.last > 1", mode="disabled"), [2]) == []


def test_a_reused_slot_starts_afresh() -> None:
    rules = engine("desperation.mean(3) > 1", "2 tokens")
    assert len(run(rules, [2, 2, 2, 2])) == 1
    assert run(rules, [2, 2]) == []
    assert len(run(rules, [2, 2, 2, 2])) == 1


def test_slots_grow() -> None:
    rules = engine("desperation.ewma(2) > 1")
    rules.begin(500)
    assert rules.judge(np.array([500]), np.array([0]), np.full((1, 3), 9.0))


def test_the_strongest_action_wins_and_shadow_never_acts() -> None:
    text = "rules:\n" + "".join(
        f"- {{rule: {name}, desc: d, when: desperation.last > 1, do: {do}, mode: {mode}}}\n"
        for name, do, mode in (("a", "alert", "armed"), ("b", "halt", "armed"), ("c", "halt", "armed"), ("d", "halt", "shadow"))
    )
    rules = RuleEngine.from_text(text, probe_facts())
    rules.begin(0)
    verdicts = rules.judge(np.array([0]), np.array([0]), np.full((1, 3), 2.0))
    chosen = strongest(verdicts)
    assert [verdict.rule.rule for verdict in verdicts] == ["a", "b", "c", "d"]
    assert chosen is not None
    assert chosen.rule.rule == "b"
    assert strongest([verdict for verdict in verdicts if verdict.shadow]) is None


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("despration.last > 1", "did you mean 'desperation'?"),
        ("desperation.ewna(3) > 1", "did you mean 'ewma'?"),
        ("desperation > 1", "needs a window"),
        ("desperation.ewma(1000000000) > 1", "expected 1 to 512"),
        ("desperation.slope(1) > 1", "expected 2 to 512"),
        ("desperation.ewma > 1", "takes a size in tokens, or a scope, such as ewma(8)"),
        ("desperation.last(3) > 1", "takes no size"),
        ("desperation.ewma(2.5) > 1", "one whole number"),
        ("desperation.last", "expected a comparison"),
        ("desperation.last > (panic.last > 1)", "expected a number here"),
        ("desperation.last == 1", "never exactly equal"),
        ("__import__('os').system('x') > 1", "column 1"),
        ("desperation.__class__.mro > 1", "not a signal"),
        ("(lambda: 1)() > 1", "not a signal"),
        ("desperation.last > 1e400", "not part of the language"),
        ("desperation.last >", "cannot read"),
        ("(" * 300, "cannot read"),
        ("not " * 100 + "desperation.last > 1", "too deeply"),
        ("'a' > 1", "not part of the language"),
        ("desperation.last > True", "not part of the language"),
        ("desperation.last > 12", "column 20: this never holds: no score counts for more than 12 deviations"),
        ("12.5 <= desperation.ewma(8)", "column 1: this never holds"),
        ("panic.last > 2 or desperation.min(stream) < -12", "never holds"),
        ("desperation.count_above(8, 12) > 1", "scores above 12; no score counts for more"),
        ("0 < desperation.quantile(8, 0.5) > 40", "never holds"),
        ("desperation.last > 1e9", "not part of the language"),
    ],
)
def test_bad_conditions_say_where_and_what_is_known(when: str, expected: str) -> None:
    with pytest.raises(DocumentError) as caught:
        engine(when)
    assert re.match(r"r\.yaml:\d+:\d+: rule 'r', when: column", str(caught.value))
    assert expected in str(caught.value)


def test_rounds_keep_the_order_of_each_stream() -> None:
    slots = np.array([3, 1, 3, 3, 2, 1])
    rounds = distinct_rounds(slots)
    assert [rows.tolist() for rows in rounds] == [[0, 1, 4], [2, 5], [3]]
    assert distinct_rounds(np.array([], np.intp)) == []


@pytest.mark.parametrize(
    ("when", "series", "position"),
    [
        ("desperation.quantile(4, 0.5) > 1", [0, 0, 2, 2, 2], 4),
        ("desperation.quantile(4, 1) > 7", [0, 8, 0, 0], 3),
        ("desperation.count_above(3, 1.5) >= 2", [2, 0, 2, 0], 2),
        ("desperation.count_above(2, -1) > 1", [-2, 0, 0], 2),
        ("desperation.mean(stream) > 1", [0, 1, 5], 2),
        ("desperation.max(stream) - desperation.last > 3", [4, 3, 0], 2),
        ("desperation.min(stream) < -3", [0, -4], 1),
        ("desperation.count_above(stream, 1) > 2", [2, 2, 0, 2], 3),
        ("desperation.slope(stream) > 0.9", [0, 1], 1),
    ],
)
def test_windows_over_tokens_and_the_stream(when: str, series: list[float], position: int) -> None:
    assert [p for p in places(run(engine(when), series)) if p >= 0] == [position]


def test_a_conversation_is_remembered_between_its_requests_and_fades() -> None:
    rules = engine("desperation.mean(conversation, 1) > 1.9")
    assert run(rules, [1, 1], conversation="k") == []
    rules.end(0)
    # Half of two tokens at 1, with two tokens at 2.5: (1 + 5) / 3 = 2.0.
    assert places(run(rules, [2.5, 2.5], conversation="k")) == [1]
    rules.end(0)
    assert places(run(rules, [1.7], conversation="k")) == []
    rules.end(0)
    assert run(rules, [1.8], conversation="another") == []


def test_a_conversation_s_peak_count_and_drift() -> None:
    rules = engine(
        "desperation.max(conversation, 2) > 4 and desperation.count_above(conversation, 2, 1) > 2 and desperation.slope(conversation, 9) > 0.5"
    )
    for series in ([1], [3], [6]):
        assert run(rules, series, conversation="k") == []
        rules.end(0)
    # The peak of 6 is 4.2 one request later; of two counted tokens 1.2 are left, and there is the present one; the means rise by about 2.
    assert places(run(rules, [5], conversation="k")) == [0]


def test_a_threshold_of_the_card_by_name() -> None:
    rules = engine("desperation.ewma(8) > fpr(0.001)")
    (verdict,) = [each for each in run(rules, [9] * 3) if not each.ended]
    assert verdict.thresholds == {"desperation.ewma(8) fpr(0.001)": 1.5}
    by_reply = run(engine("panic.ewma(8) > reply_fpr(0.01)"), [9] * 3, probe=1)
    assert by_reply[0].thresholds == {"panic.ewma(8) reply_fpr(0.01)": 2.0}
    assert run(engine("fpr(0.01) < desperation.last"), [3])[0].thresholds == {"desperation.last fpr(0.01)": 2.5}


def test_for_and_keep_and_cool_down_in_tokens() -> None:
    rules = engine("desperation.last > 1", "2 tokens", keep="2 tokens", cool_down="3 tokens")
    #                  fires at 1; down at 2, up at 3: kept; down from 4 on: ends at 6; rests for 7, 8 and 9
    assert places(run(rules, [2, 2, 0, 2, 0, 0, 0, 2, 2, 2, 2])) == [1, -6, 10]


def test_for_and_keep_and_cool_down_in_time() -> None:
    rules = engine("desperation.last > 1", "2s", keep="1s", cool_down="3s")
    assert places(run(rules, [2, 2, 2, 0, 0, 2, 2, 2, 2, 2], step=1.0)) == [2, -4, 7]


def test_hysteresis_ends_a_rule_later_than_it_began() -> None:
    rules = engine("desperation.last > 3", until="desperation.last < 1", cool_down="1 token")
    assert places(run(rules, [4, 2, 4, 2, 0, 4, 4])) == [0, -4, 6]


def test_by_default_a_rule_fires_once_a_stream() -> None:
    assert places(run(engine("desperation.last > 1"), [2, 0, 2, 0, 2])) == [0, -1]


def test_match_is_decided_once_a_request() -> None:
    rules = engine("desperation.last > 1", match='request.tenant != "redteam" && request.model.startsWith("smol")')
    assert run(rules, [2], request={"tenant": "a", "model": "smollm2"})
    assert not run(rules, [2], request={"tenant": "redteam", "model": "smollm2"})
    assert not run(rules, [2])


def test_a_client_cannot_switch_a_rule_off_by_what_it_leaves_out() -> None:
    rules = engine("desperation.last > 1", match='request.header["x-mode"] == "test"')
    assert run(rules, [2], request={"header": {}})
    assert rules.unmatched == 1
    assert not run(rules, [2], request={"header": {"X-Mode": "other"}})


def test_lists_stand_in_match() -> None:
    text = (
        "lists: {redteam: [a, b]}\nrules:\n- {rule: r, desc: d, when: panic.last > -9, match: '!(request.tenant in redteam)', do: alert}\n"
    )
    rules = RuleEngine.from_text(text, probe_facts())
    assert not run(rules, [0], request={"tenant": "b"})
    assert run(rules, [0], request={"tenant": "c"})


def test_a_canary_acts_in_its_share_of_streams() -> None:
    rules = engine("desperation.last > 1", canary="25%")
    assert [run(rules, [2], lot=lot)[0].shadow for lot in (0.0, 0.24, 0.25, 0.9)] == ["", "", "canary", "canary"]


def test_stale_thresholds_put_rules_in_shadow_and_say_so() -> None:
    assert run(engine("desperation.last > 1"), [2], stale=True)[0].shadow == "stale"


def test_a_rule_is_armed_and_put_in_shadow_while_it_runs() -> None:
    rules = engine("desperation.last > 1", mode="shadow")
    rules.overrides["r"] = "armed"
    assert run(rules, [2])[0].shadow == ""


def test_a_limit_makes_what_is_beyond_it_weaker() -> None:
    rules = engine("desperation.last > 1", do="halt", limit={"count": 2, "per": "10s", "then": "alert"}, accept_unproven=["desperation"])
    rules.begin(0)
    found = []
    for slot, now in enumerate([0.0, 1.0, 2.0, 10.5, 10.6]):
        rules.begin(slot)
        found += rules.judge(np.array([slot]), np.array([0]), np.full((1, 3), 2.0), now)
    assert [(each.action, each.limited) for each in found] == [
        (Action.HALT, False), (Action.HALT, False), (Action.ALERT, True), (Action.HALT, False), (Action.ALERT, True),
    ]  # fmt: skip


def test_macros_and_their_errors() -> None:
    text = (
        "macros: {up: desperation.last > 1, limit: 3 - 1, loop: again, again: loop}\nrules:\n- {rule: r, desc: d, when: WHEN, do: alert}\n"
    )
    good = text.replace(", loop: again, again: loop", "")
    assert run(RuleEngine.from_text(good.replace("WHEN", "up and desperation.last > limit"), probe_facts()), [1.5, 2.5])[0].position == 1
    with pytest.raises(DocumentError, match="macros loop → again → loop go in a circle"):
        RuleEngine.from_text(text.replace("WHEN", "up"), probe_facts())
    with pytest.raises(DocumentError, match=r"rules:3:28: rule 'r', when: column 1: unknown macro 'upp'; did you mean 'up'\?"):
        RuleEngine.from_text(good.replace("WHEN", "upp"), probe_facts())
    bad = "macros: {up: desperation.lost > 1}\nrules:\n- {rule: r, desc: d, when: panic.last > 1, do: alert}\n"
    with pytest.raises(DocumentError, match=r"macro 'up': column 1: .*unknown window 'lost'; did you mean 'last'"):
        RuleEngine.from_text(bad, probe_facts())


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("desperation.ewma(8) > fpr(0.5)", "the card has no fpr(0.5); it has: fpr(0.01), fpr(0.001)"),
        ("desperation.ewma(8) > reply_fpr(0.01)", "the card of 'desperation' has no thresholds for reply_fpr"),
        ("desperation.ewma(9) > fpr(0.01)", "no thresholds for ewma(9); it has: last, ewma(8)"),
        ("calm.last > fpr(0.01)", "the card of 'calm' has no thresholds"),
        ("desperation.last - 1 > fpr(0.01)", "compared with one signal"),
        ("fpr(0.01) > fpr(0.001)", "compared with one signal"),
        ("desperation.last > fpr(0.01) + 1", "stands alone on one side"),
        ("desperation.quantile(4, 2) > 1", "a quantile of 2; expected 0 to 1"),
        ("desperation.quantile(4) > 1", "such as quantile(8, 0.9)"),
        ("desperation.ewma(stream) > 1", "'ewma' is known over: tokens; got 'stream'"),
        ("desperation.mean(conversation, 5000) > 1", "a window of 5000 requests; expected 1 to 1000"),
        ("desperation.mean(stream, 3) > 1", "such as mean(stream)"),
        ("desperation.mean(n=3) > 1", "without names"),
        ("desperation.mean(99999999999999999999999) > 1", "a window of too many tokens"),
    ],
)
def test_more_bad_conditions_say_what_is_known(when: str, expected: str) -> None:
    with pytest.raises(DocumentError) as caught:
        engine(when)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("request.tenat == 'a'", "unknown attribute 'tenat'; did you mean 'tenant'?"),
        ("tenant == 'a'", "unknown name 'tenant'"),
        ("request.tenant ==", "not CEL"),
        ("request.tenant", "gives a str; expected true or false"),
        ("request.tenant.matches('(a{1000}){1000}')", "size limit"),
        ("[1].all(x, [2].all(y, x < y))", "more than one loop"),
    ],
)
def test_bad_matches_say_what_is_wrong(match: str, expected: str) -> None:
    with pytest.raises(DocumentError, match=r"r\.yaml:\d+:\d+: rule 'r', match: ") as caught:
        engine("panic.last > 1", match=match)
    assert expected in str(caught.value)


def test_a_rule_must_not_stop_a_reply_on_a_probe_without_proof() -> None:
    reasons = {
        "calm": "which has no calibration", "unproven": "whose card says causal: false", "untried": "whose cause nobody has tried",
        "words": "which does not surely tell more",
    }  # fmt: skip
    known = {"last": {0.01: 1.0}}
    facts = [
        *probe_facts(), ProbeFacts("unproven", known, causal=False), ProbeFacts("untried", known), ProbeFacts("words", known, True, False)
    ]  # fmt: skip
    for probe, why in reasons.items():
        text = f"rules:\n- {{rule: r, desc: d, when: {probe}.last > 1, do: halt, mode: armed}}\n"
        with pytest.raises(DocumentError, match=rf"r.yaml:2:\d+: rule 'r' would halt on '{probe}', {why}.*accept_unproven: \[{probe}\]"):
            RuleEngine.from_text(text, facts, "r.yaml")
        assert not RuleEngine.from_text(text.replace("halt,", f"halt, accept_unproven: [{probe}],"), facts).objection("r")
        assert not RuleEngine.from_text(text.replace("halt,", "alert,"), facts).objection("r")
        # In shadow it may be watched, and nobody can arm it there.
        shadow = RuleEngine.from_text(text.replace("armed", "shadow"), facts)
        assert f"would halt on '{probe}', {why}" in shadow.objection("r")


def test_an_action_that_nobody_takes_is_not_armed() -> None:
    text = "rules:\n- {rule: r, desc: d, when: panic.last > 1, do: WHAT, mode: MODE}\n"
    for what, able, why in (
        ("{reroute: {to: saef}}", Abilities({"safe", "slow"}), "unknown target 'saef'; did you mean 'safe'"),
        ("{reroute: {to: safe}}", Abilities(()), "expected gateway.targets with that name"),
        ("{throttle: {tenant: {concurrency: 1}}}", Abilities(tenants=False), "expected gateway.tenant_header"),
    ):
        with pytest.raises(DocumentError, match=why):
            RuleEngine(RuleSet.from_text(text.replace("WHAT", what).replace("MODE", "armed"), "r"), probe_facts(), able)
        RuleEngine(RuleSet.from_text(text.replace("WHAT", what).replace("MODE", "shadow"), "r"), probe_facts(), able)
        RuleEngine(RuleSet.from_text(text.replace("WHAT", what).replace("MODE", "armed"), "r"), probe_facts())  # nobody knows yet


def test_a_throttle_says_what_it_throttles_and_outlives_its_record() -> None:
    def throttle(text: str) -> Throttle:
        (rule,) = RuleSet.from_text(f"rules:\n- {{rule: r, desc: d, when: panic.last > 1, do: {text}}}\n", "r").rules
        again = Rule.model_validate(rule.model_dump(mode="json", by_alias=True, exclude_none=True))
        assert again == rule
        assert rule.do.throttle is not None
        return rule.do.throttle

    assert throttle("throttle").tokens_per_second == 5
    assert throttle("{throttle: {tokens_per_second: 0.5}}").tokens_per_second == 0.5
    alone = throttle("{throttle: {tenant: {concurrency: 2, recover: 5m}}}")
    assert (alone.tokens_per_second, alone.tenant) == (None, TenantLimit(concurrency=2, recover=Span(seconds=300)))
    for wrong in (
        "{throttle: {tenant: {}}}",
        "{throttle: {tokens_per_second: 0}}",
        "{throttle: {tenant: {concurrency: 1, recover: 4 tokens}}}",
    ):
        with pytest.raises(DocumentError):
            throttle(wrong)


def test_a_reload_takes_over_what_streams_have_been_through() -> None:
    rules = engine("desperation.mean(4) > 1", "2 tokens")
    rules.begin(0)
    for position in range(5):  # the condition holds at 3 and 4, so it has fired
        rules.judge(np.array([0]), np.array([position]), np.full((1, 3), 2.0))
    same = engine("desperation.mean(4) > 1", "2 tokens", desc="said better")
    same.adopt(rules, {0: {}})
    assert same.judge(np.array([0]), np.array([5]), np.full((1, 3), 2.0)) == []  # it is still firing
    other = engine("desperation.mean(3) > 1.9 or desperation.mean(8) > 0")
    other.adopt(rules, {0: {}})
    (verdict,) = other.judge(np.array([0]), np.array([5]), np.full((1, 3), 2.0))  # a shorter window is full at once
    assert verdict.signals["desperation.mean(3)"] == 2.0
    assert math.isnan(verdict.signals["desperation.mean(8)"])


def test_state_a_stream_is_small_and_does_not_grow() -> None:
    rules = engine("desperation.ewma(8) > 1 and panic.quantile(64, 0.9) > 1 and calm.mean(stream) > 1")
    before = rules.bytes_a_stream
    run(rules, [0.0] * 2000)
    assert rules.bytes_a_stream == before < 4096


def test_a_reload_with_a_window_over_another_probe_lets_a_firing_rule_fire_on() -> None:
    text = "rules:\n- {rule: r, desc: d, when: panic.mean(4) > 3, do: alert}\n"
    old = RuleEngine.from_text(text, probe_facts())
    old.begin(0)
    for position in range(5):
        old.judge(np.array([0]), np.array([position]), np.array([[5.0, 5.0, 0.0]]))
    new = RuleEngine.from_text(text + "- {rule: s, desc: d, when: desperation.mean(4) > 3, do: alert}\n", probe_facts())
    new.adopt(old, {0: {}})
    found = [new.judge(np.array([0]), np.array([position]), np.array([[5.0, 5.0, 0.0]])) for position in range(5, 10)]
    assert new.fires(0, "r")
    assert [[(each.rule.rule, each.ended) for each in verdicts] for verdicts in found] == [[], [], [], [("s", False)], []]


@pytest.mark.parametrize("span", ["{tokens: -5}", "{tokens: 4, seconds: 3}", "{tokens: 999999999999}", "{seconds: -1}", "{seconds: 1.0e9}"])
def test_a_span_has_bounds_however_it_is_written(span: str) -> None:
    with pytest.raises(DocumentError, match="rule"):
        RuleSet.from_text(f"rules:\n- {{rule: r, desc: d, when: panic.last > 1, for: {span}, do: alert}}\n", "r")

"""Replays: many recordings at once say what each says alone."""

from __future__ import annotations

import numpy as np

from rules.engine import RuleEngine
from rules.replay import AT_ONCE, Recording, replay
from tests.rules.naive import probe_facts

TEXT = (
    "rules:\n- {rule: up, desc: d, match: 'request.tenant != \"x\"', when: panic.mean(3) > 1, do: alert, cool_down: 2}\n"
    "- {rule: slow, desc: d, when: panic.last > 0, for: 300ms, do: halt}\n"
    "- {rule: turns, desc: d, when: 'panic.count_above(conversation, 1000, -99) > 25', do: observe}\n"
)


def engine() -> RuleEngine:
    return RuleEngine.from_text(TEXT, probe_facts())


def recordings(count: int) -> list[Recording]:
    chance = np.random.default_rng(0)
    found = []
    for i in range(count):
        length = int(chance.integers(0, 40))
        scores = chance.normal(0, 2, (length, 3)).astype(np.float32)
        times = 10.0 * i + 0.1 * np.arange(length)
        found.append(Recording(f"s{i}", scores, times, {"tenant": "x" if i % 5 == 0 else "a"}))
    return found


def test_many_at_once_are_as_each_alone() -> None:
    streams = recordings(AT_ONCE + 60)
    together = replay(engine(), streams)
    apart = [fire.key for each in streams for fire in replay(engine(), [each]).fires]
    assert sorted(fire.key for fire in together.fires) == sorted(apart)
    assert len(apart) > 100
    assert not any(fire.stream == "s5" for fire in together.of("up"))
    assert together.tokens == sum(len(each.scores) for each in streams)


def test_rates() -> None:
    scores = np.full((100, 3), 2, np.float32)
    found = replay(engine(), [Recording("a", scores, np.linspace(0, 3600, 100))])
    assert found.per_thousand("up") == 10
    assert found.per_day("up") == 24
    assert replay(engine(), [Recording("a", scores, np.linspace(0, 1, 100))]).per_day("up") is None


def test_requests_of_one_conversation_follow_each_other() -> None:
    scores = np.zeros((10, 3), np.float32)
    streams = [Recording(f"{key}{i}", scores, np.arange(10) + 10.0 * i, {}, key) for i in range(3) for key in "kl"]
    found = replay(engine(), streams)
    assert {fire.stream for fire in found.of("turns")} == {"k2", "l2"}
    assert {fire.verdict.position for fire in found.of("turns")} == {5}


def test_nothing_recorded_is_nothing_said() -> None:
    found = replay(engine(), [])
    assert (found.fires, found.tokens, found.seconds, found.per_thousand("up")) == ([], 0, 0.0, 0.0)

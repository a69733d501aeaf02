"""How much is kept of which request."""

from __future__ import annotations

from monitor.audit.levels import Level, LevelRule, Levels


def test_the_first_rule_that_matches_counts() -> None:
    levels = Levels(
        Level.METADATA,
        (
            LevelRule(Level.NONE, tenants=("a",), routes=("/v1/completions",)),
            LevelRule(Level.CONTENT, tenants=("a", "b")),
            LevelRule(Level.SCORES, models=("m",)),
        ),
    )
    wanted = [
        ({"tenant": "a", "route": "/v1/completions"}, Level.NONE), ({"tenant": "a", "route": "/v1/chat/completions"}, Level.CONTENT),
        ({"tenant": "b", "model": "m"}, Level.CONTENT), ({"tenant": "c", "model": "m"}, Level.SCORES), ({"tenant": "c"}, Level.METADATA), ({}, Level.METADATA),
    ]  # fmt: skip
    assert [levels.of(about) for about, _ in wanted] == [level for _, level in wanted]
    assert levels.highest is Level.CONTENT
    assert Levels(Level.NONE).highest is Level.NONE

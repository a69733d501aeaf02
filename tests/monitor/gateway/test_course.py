"""The states of a reply: whatever comes in whatever order, it ends once."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from monitor.gateway.course import TABLE, Course, Event, State


class Anything(RuleBasedStateMachine):
    """Events in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.course = Course()
        self.ends = 0
        self.reroutes = 0

    @rule(event=st.sampled_from(Event))
    def happens(self, event: Event) -> None:
        before = self.course.state
        changed = self.course.take(event)
        assert changed == (self.course.state is not before)
        assert not (before.over and changed)  # nothing happens after the end
        self.ends += changed and self.course.state.over
        self.reroutes += changed and self.course.state is State.REROUTING

    @invariant()
    def ends_at_most_once(self) -> None:
        assert self.ends == self.course.state.over
        assert self.reroutes <= 1
        assert self.course.went[-1] is self.course.state
        assert len(self.course.went) == len(set(self.course.went))

    @invariant()
    def can_end(self) -> None:
        """A client that leaves, a person who stops and a failure end a reply in every state."""
        if not self.course.state.over:
            for event in (Event.HALT, Event.STOP, Event.FAIL, Event.LEAVE):
                assert TABLE[self.course.state, event].over


Anything.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestAnything = Anything.TestCase


def test_the_table_in_the_docs_is_the_codes() -> None:
    text = (Path(__file__).parents[3] / "docs" / "actions.md").read_text("utf-8")
    text = text[text.index("## What may still happen") : text.index("## Throttle")]
    rows = re.findall(r"^\| ([a-z]+) \| ([a-z]+) \| ([a-z]+) \|$", text, re.MULTILINE)[1:]  # below their head
    assert {(State(before), Event(event)): State(after) for before, event, after in rows} == TABLE
    assert len(rows) == len(TABLE)

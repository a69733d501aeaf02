from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.http.sse import Event, EventParser, EventStreamError

lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
sent = st.lists(st.tuples(st.lists(lines, min_size=1, max_size=3), lines, st.booleans()), max_size=5)


def written(events: list[tuple[list[str], str, bool]], ending: bytes) -> bytes:
    """An event stream with comments, names and ids in between."""
    raw = b""
    for data, name, space in events:
        raw += b": note" + ending
        if name:
            raw += b"event: " + name.encode() + ending
        for line in data:
            raw += (b"data: " if space or line.startswith(" ") else b"data:") + line.encode() + ending
        raw += b"id: 1" + ending + ending
    return raw


@given(sent, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_any_form_and_any_split_give_the_same_events(events: list[tuple[list[str], str, bool]], ending: bytes, data: st.DataObject) -> None:
    raw = written(events, ending)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    parser, found = EventParser(), []
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += parser.feed(raw[start:end])
    assert found == [Event("\n".join(part).encode(), name) for part, name, _ in events]


def test_what_is_not_complete_is_no_event() -> None:
    assert EventParser().feed(b"data: a\n") == []


def test_an_event_has_a_limit() -> None:
    for raw in (b"data: " + b"x" * 100, b"data: x\n" * 100):
        parser = EventParser(limit=64)
        with pytest.raises(EventStreamError, match="more than 64 bytes"):
            parser.feed(raw)

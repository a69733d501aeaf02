from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.engine.tools import CLOSE, OPEN, ToolStream

NAMES = frozenset({"a", "b"})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(max_size=4), JSON, max_size=3)


def read(text: str, cuts: list[int], parallel: bool = True) -> tuple[str, list[tuple[str, str]]]:
    stream, content, calls = ToolStream(NAMES, parallel), "", dict[int, list[str]]()
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    for start, end in zip(edges, edges[1:], strict=False):
        more, deltas = stream.push(text[start:end])
        content += more
        for delta in deltas:
            call = calls.setdefault(delta["index"], ["", ""])
            call[0] += delta["function"].get("name", "")
            call[1] += delta["function"]["arguments"]
    return content + stream.finish(), [(name, arguments) for name, arguments in calls.values()]


@settings(max_examples=300, deadline=None)
@given(
    calls=st.lists(st.tuples(st.sampled_from(sorted(NAMES)), ARGUMENTS, st.booleans()), max_size=3),
    before=st.text(st.characters(exclude_characters="<"), max_size=10),
    cuts=st.lists(st.integers(0, 500), max_size=12),
)
def test_calls_come_out_as_they_went_in_however_they_are_cut(
    calls: list[tuple[str, dict[str, object], bool]], before: str, cuts: list[int]
) -> None:
    written = [
        json.dumps({"name": name, "arguments": arguments} if usual else {"arguments": arguments, "name": name})
        for name, arguments, usual in calls
    ]
    content, found = read(before + "\n".join(f"{OPEN}\n{each}\n{CLOSE}" for each in written), cuts)
    assert content == (before.rstrip() if calls else before)
    assert [(name, json.loads(arguments)) for name, arguments in found] == [(name, arguments) for name, arguments, _ in calls]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([OPEN, CLOSE, "<tool", '{"name": "a", ', '"arguments": ', "{", "}", "}}", '"', "\\", " x", "\n"]), max_size=12
    ),
    st.lists(st.integers(0, 200), max_size=6),
)
def test_wild_text_is_read_the_same_however_it_is_cut(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    assert read(text, cuts) == read(text, [])
    assert read(text, list(range(len(text)))) == read(text, [])


def test_without_a_mark_nothing_is_lost() -> None:
    for text in ("", "  ", "a < b <tool", "a\n\n b  ", f"{OPEN} not json {CLOSE} and more", f"x {OPEN}"):
        assert read(text, []) == (text, [])

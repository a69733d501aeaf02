from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from rules.document import DocumentError, parse


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    threshold: float = 1.0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = "x"
    inner: Inner = Inner()
    many: list[Inner] = []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\ninner:\n  treshold: 2\n", "f.yaml:3:3: unknown key 'inner.treshold'; did you mean 'threshold'?"),
        ("many:\n- threshold: 1\n- {thresh: 2}\n", "f.yaml:3:4: unknown key 'many.1.thresh'; did you mean 'threshold'?"),
        ("many: 3\n", "f.yaml:1:1: 'many': expected a list, got 3"),
        ("inner: [1]\n", "f.yaml:1:1: 'inner': expected a mapping, got a list"),
        ("zebra: 1\n", "f.yaml:1:1: unknown key 'zebra'; expected one of: inner, many, name"),
        ("inner:\n  threshold: high\n", "f.yaml:2:3: 'inner.threshold': expected a valid number"),
        ("name: a\nname: b\n", "f.yaml:2:1: key 'name' stands twice"),
        ("name: [\n", "f.yaml:2:1: not YAML"),
        ("- a\n", "f.yaml:1:1: expected a mapping"),
        ("name: &a x\nmany: [*a]\n", "f.yaml:2:8: aliases (*a) are not supported"),
        ("? [a]\n: b\n", "f.yaml:1:3: a key must be a plain word"),
        ("name: !!python/object:os.system x\n", "f.yaml:1:7: cannot read the value"),
        ("name: \x07\n", "not YAML"),
        ("a: " * 3000, "not YAML"),
        ("[" * 3000, "f.yaml"),
        ("x" * (1 << 20 | 1), "expected at most"),
    ],
)
def test_errors_say_where_and_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(text, Outer, "f.yaml")
    assert expected in str(caught.value)


def test_an_empty_document_is_all_defaults() -> None:
    assert parse("", Outer, "f.yaml") == Outer()


def test_a_good_document() -> None:
    assert parse("name: b\nmany: [{threshold: 3}]\n", Outer, "f").many[0].threshold == 3


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.integers(), st.text(max_size=9)),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        ).map(yaml.safe_dump),
    )
)
def test_wild_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text, Outer, "f.yaml")
    except DocumentError as error:
        assert str(error).startswith("f.yaml")

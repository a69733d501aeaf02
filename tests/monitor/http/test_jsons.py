from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.http import jsons

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(values)
def test_what_goes_out_comes_back(value: object) -> None:
    assert jsons.decode(jsons.encode(value)) == value
    assert jsons.decode(jsons.encode_exactly(value)) == value


def test_numbers_that_json_has_not_leave_as_null() -> None:
    assert jsons.encode([float("nan"), float("inf")]) == b"[null,null]"


def test_what_engines_take_is_taken_and_the_standard_can_be_asked_for() -> None:
    assert math.isnan(jsons.decode(b"[NaN]")[0])
    assert jsons.decode(b'"\\ud800"') == "\ud800"
    assert jsons.decode(b"9" * 400) == int("9" * 400)
    for odd in (b"[NaN]", b'"\\ud800"', b"{", b"", b"\xff\xfe", b'"\xff"'):
        with pytest.raises(ValueError, match=r"."):
            jsons.decode_strictly(odd)


@pytest.mark.parametrize("raw", [b"", b"{", b"nope", "{}".encode("utf-16"), b"[" * 200_000, b'"\xff"'])
def test_what_is_no_json_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        jsons.decode(raw)


def test_too_deep_for_us_is_a_value_error() -> None:
    value: object = None
    for _ in range(200_000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        jsons.encode(value)
    del value


def test_what_a_client_said_is_kept() -> None:
    said = {"temperature": float("nan"), "text": "\ud800", "n": 2**80}
    assert json.loads(jsons.encode_exactly(said))["n"] == 2**80
    assert b"NaN" in jsons.encode_exactly(said)

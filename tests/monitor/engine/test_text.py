from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.engine.text import TextStream


@pytest.fixture(scope="module")
def tokenizer(model_folder: str) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(model_folder)


def stream(tokenizer: Any, text: str, stops: list[str]) -> tuple[str, bool, list[str]]:
    decoder, pieces = TextStream(tokenizer._tokenizer, stops), []
    for token in tokenizer(text)["input_ids"]:
        pieces.append(decoder.push(token))
        if decoder.stopped:
            break
    pieces.append(decoder.finish())
    return "".join(pieces), decoder.stopped, pieces


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(blacklist_categories=("Cs",)), max_size=60))
def test_the_pieces_make_the_text(tokenizer: Any, text: str) -> None:
    assert stream(tokenizer, text, [])[0] == tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)


def test_no_piece_holds_half_a_character(tokenizer: Any) -> None:
    _, _, pieces = stream(tokenizer, "naïve 🜁 日本語 ok", [])
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three four", ["three"], "one two "),
        ("one two three four", ["two three", "one two"], ""),
        ("aab", ["ab"], "a"),
        ("one two", ["zebra"], "one two"),
        ("one tw", ["two"], "one tw"),
        ("x\n\ny", ["\n\n"], "x"),
    ],
)
def test_stop_strings_across_tokens(tokenizer: Any, text: str, stops: list[str], expected: str) -> None:
    got, stopped, _ = stream(tokenizer, text, stops)
    assert got == expected
    assert stopped == any(stop in text for stop in stops)

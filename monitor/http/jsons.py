"""JSON in and out: fast for what is plain, and as tolerant as Python's own reader, which is what engines read with."""

from __future__ import annotations

import json
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def decode_strictly(data: bytes) -> Any:
    """Raises ValueError for all that is no JSON: NaN and lone surrogates too."""
    try:
        return _decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        data.decode("utf-8")  # raises with the place in all of the data
        raise ValueError(str(error)) from None


def decode(data: bytes) -> Any:
    """Raises ValueError for what is no JSON. NaN and lone surrogates are taken, as Python's engines take them."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    except RecursionError:
        raise ValueError("nested too deeply") from None
    text = data.decode("utf-8")  # Python's reader would guess at other encodings
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def encode(value: Any) -> bytes:
    """Of what an engine or we say. Raises ValueError for what is nested too deeply."""
    try:
        return _encode(value)
    except (msgspec.EncodeError, OverflowError, UnicodeEncodeError, TypeError, ValueError):
        return encode_exactly(value)  # numbers past 64 bits, lone surrogates
    except RecursionError:
        raise ValueError("nested too deeply") from None


def encode_exactly(value: Any) -> bytes:
    """Of what a client said, so that an engine reads from it what it would have read from the client's own bytes: NaN included."""
    try:
        return json.dumps(value).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None

"""The tokens of a model as clients read them beside logprobs: a text, and the bytes that it stands for."""

from __future__ import annotations

import re
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Vocabulary:
    """Half a character has no text of its own (U+FFFD stands for it), but it has bytes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        byte_level = "ByteLevel" in str(tokenizer._tokenizer.decoder)
        self._bytes = {char: byte for byte, char in bytes_to_unicode().items()} if byte_level else {}

    def token(self, token: int) -> tuple[str, bytes]:
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # a row of the output that no token has
            return "", b""
        raw = self._raw(piece)
        return raw.decode("utf-8", "replace"), raw

    def _raw(self, piece: str) -> bytes:
        if piece in self._added:
            return piece.encode()
        if self._bytes and all(char in self._bytes for char in piece):
            return bytes(self._bytes[char] for char in piece)
        if found := _BYTE.fullmatch(piece):
            return bytes([int(found[1], 16)])
        return piece.replace("▁", " ").encode()

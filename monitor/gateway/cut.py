"""A part of a chunk cut at a token: possible where the engine says which text each token made."""

from __future__ import annotations

from typing import Any


def cut(part: dict[str, Any], produced: int, keep: int) -> dict[str, Any] | None:
    """The part with the first `keep` of its `produced` tokens, or None where their text is not known: then all of it is held back.

    The text of tokens is known from log probabilities, and only if they spell exactly the part's plain text: what a parser made of
    it (reasoning, tool calls) is never cut.
    """
    if keep <= 0:
        return None
    texts = _texts(part, produced)
    if texts is None or not _plain(part) or "".join(texts) != _text(part):
        return None
    text = "".join(texts[:keep])
    kept = {**part, "delta": {**part["delta"], "content": text}} if "delta" in part else {**part, "text": text}
    kept["finish_reason"] = None
    kept["logprobs"] = {
        name: value[:keep] if isinstance(value, list) and len(value) == produced else value for name, value in part["logprobs"].items()
    }
    if isinstance(part.get("token_ids"), list):
        kept["token_ids"] = part["token_ids"][:keep]
    return kept


def tokens_of(part: dict[str, Any]) -> int | None:
    """How many tokens a part says it holds: by its token ids or log probabilities; None where it has neither."""
    ids = part.get("token_ids")
    if isinstance(ids, list):
        return len(ids)
    logprobs = part.get("logprobs")
    if isinstance(logprobs, dict):
        listed = logprobs.get("content") if "delta" in part or "message" in part else logprobs.get("tokens")
        if isinstance(listed, list):
            return len(listed)
    return None


def _texts(part: dict[str, Any], produced: int) -> list[str] | None:
    logprobs = part.get("logprobs")
    if not isinstance(logprobs, dict):
        return None
    listed = logprobs.get("tokens")
    if isinstance(logprobs.get("content"), list):
        listed = [each.get("token") if isinstance(each, dict) else None for each in logprobs["content"]]
    if not isinstance(listed, list) or len(listed) != produced or not all(isinstance(each, str) for each in listed):
        return None
    return listed


def _plain(part: dict[str, Any]) -> bool:
    return all(name in ("role", "content") or not value for name, value in part["delta"].items()) if "delta" in part else True


def _text(part: dict[str, Any]) -> str:
    return str((part["delta"].get("content") if "delta" in part else part.get("text")) or "")

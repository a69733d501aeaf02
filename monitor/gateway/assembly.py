"""A whole completion from its chunks: the gateway always streams from the engine, also for clients that do not."""

from __future__ import annotations

from typing import Any


class Assembly:
    """Folds chunks of a chat or text completion into the object that a non-streaming client expects."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: dict[str, Any] | None = None

    def add(self, chunk: dict[str, Any]) -> None:
        if not self._head:
            self._head = {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}
            self._head["object"] = str(self._head.get("object", "")).removesuffix(".chunk")
        self._usage = chunk.get("usage") or self._usage
        for part in chunk.get("choices", ()):
            index = part["index"]
            chat = "delta" in part
            choice = self._choices.setdefault(
                index,
                {
                    "index": index,
                    **({"message": {"role": "assistant", "content": ""}} if chat else {"text": ""}),
                    "logprobs": None,
                    "finish_reason": None,
                },
            )
            if chat:
                choice["message"]["content"] += part["delta"].get("content") or ""
            else:
                choice["text"] += part.get("text") or ""
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
            if "barograph" in chunk:
                choice.setdefault("barograph", []).append(chunk["barograph"])

    def whole(self) -> dict[str, Any]:
        return {**self._head, "choices": [self._choices[index] for index in sorted(self._choices)], "usage": self._usage}

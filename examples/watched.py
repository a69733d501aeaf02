"""A chat through the gateway that also tells what the model's inside did: used by the examples beside it.

from watched import Chat
chat = Chat("http://127.0.0.1:8400/v1", "SmolLM2-135M-Instruct", conversation="case-7")
turn = chat.say("Hello.")
turn.text, turn.means["desperation"], turn.fired
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import openai


@dataclass
class Turn:
    """A reply, the mean score of each probe over its tokens, and the rules that fired in it."""

    text: str = ""
    means: dict[str, float] = field(default_factory=dict)
    fired: list[str] = field(default_factory=list)


class Chat:
    """Keeps the last `window` messages, as chat applications do. `conversation` is the same for all of its requests."""

    def __init__(self, url: str, model: str, conversation: str, system: str = "", window: int = 6, tokens: int = 48) -> None:
        self._client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)
        self._model, self._window, self._tokens = model, window, tokens
        self._headers = {"x-conversation": conversation, "x-barograph-scores": "1"}
        self._system: list[Any] = [{"role": "system", "content": system}] if system else []
        self._messages: list[Any] = []

    def say(self, text: str) -> Turn:
        """One message, and the reply to it as it came."""
        self._messages.append({"role": "user", "content": text})
        stream = self._client.chat.completions.create(
            model=self._model, messages=self._system + self._messages[-self._window :], max_tokens=self._tokens, temperature=0, stream=True,
            extra_headers=self._headers,
        )  # fmt: skip
        turn, scores = Turn(), {}
        for chunk in stream:
            told: dict[str, Any] = (chunk.model_extra or {}).get("barograph") or {}
            for probe, values in told.get("scores", {}).items():
                scores.setdefault(probe, []).extend(value for value in values if value is not None)
            turn.fired += [verdict["rule"] for verdict in told.get("verdicts", ())]
            turn.text += "".join(choice.delta.content or "" for choice in chunk.choices)
        turn.means = {probe: sum(values) / len(values) for probe, values in scores.items() if values}
        self._messages.append({"role": "assistant", "content": turn.text})
        return turn

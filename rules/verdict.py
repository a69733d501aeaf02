"""What a rule said about a stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from rules.schema import Action, Rule

# Why a verdict does not act: the rule's own mode, thresholds of another engine, the canary's other streams.
Why = Literal["", "mode", "stale", "canary"]


@dataclass(frozen=True)
class Verdict:
    """A rule began to fire at a token, or (`ended`) stopped firing there.

    action: what it asks for, after the rule's limit; `limited` says that the limit was reached. shadow: why it only records, or nothing.
    signals and thresholds: the values that decided, by their text in the language.
    """

    rule: Rule
    slot: int
    position: int
    action: Action
    shadow: Why = ""
    signals: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    digest: str = ""
    ended: bool = False
    limited: bool = False

    @property
    def mode(self) -> str:
        return "shadow" if self.shadow else "armed"


def strongest(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The verdict to act on: the strongest action of those that may act; the first rule wins a tie."""
    acting = [verdict for verdict in verdicts if not verdict.shadow and not verdict.ended and verdict.action > Action.OBSERVE]
    return max(acting, key=lambda verdict: verdict.action, default=None)

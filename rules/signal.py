"""A signal: a windowed value of one probe. Its text form is that of the language, and the name under which a card has thresholds."""

from __future__ import annotations

from dataclasses import dataclass

MAX_WINDOW = 512  # tokens
MAX_REQUESTS = 1000  # half-life of a conversation's memory
# Deviations, the unit of scores: no score counts for more, either way. At a rare token a few numbers of the residual stream grow a
# hundredfold (Sun et al. 2024, arXiv 2402.17762), and with them the score of each probe that weighs them; no average may carry such a token on.
MOST = 12.0

# What each kind takes after its scope, and in which scopes it is known.
TOKENS, STREAM, CONVERSATION = "tokens", "stream", "conversation"
KINDS = {
    "last": ((), (TOKENS,)),
    "ewma": ((), (TOKENS,)),
    "mean": ((), (TOKENS, STREAM, CONVERSATION)),
    "max": ((), (TOKENS, STREAM, CONVERSATION)),
    "min": ((), (TOKENS, STREAM)),
    "slope": ((), (TOKENS, STREAM, CONVERSATION)),
    "quantile": (("q",), (TOKENS,)),
    "count_above": (("x",), (TOKENS, STREAM, CONVERSATION)),
}
LEVELS = frozenset(KINDS) - {"slope", "count_above"}  # those whose values are scores, or between them


@dataclass(frozen=True)
class Signal:
    """`size` is a number of tokens (the half-life for ewma, the length for the others), in a conversation the half-life in requests.

    `argument` is q of a quantile, and x of count_above.
    """

    probe: str
    kind: str
    size: int = 1
    scope: str = TOKENS
    argument: float | None = None

    @property
    def window(self) -> str:
        """Without the probe, such as ewma(8)."""
        if self.kind == "last":
            return self.kind
        given = [str(self.size)] if self.scope == TOKENS else [self.scope] if self.scope == STREAM else [self.scope, str(self.size)]
        if self.argument is not None:
            given.append(f"{self.argument:g}")
        return f"{self.kind}({', '.join(given)})"

    def __str__(self) -> str:
        return f"{self.probe}.{self.window}"

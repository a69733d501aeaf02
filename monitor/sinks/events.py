"""What Kafka's topics hold, as models: their JSON Schemas are published (deploy/events.py), and tests hold real messages against them.

A message may hold more than its model names: what is added later breaks no consumer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = float | None  # null: the score was not a finite number
Name = Annotated[str, Field(description="a stream: one generation, as REQUEST#CHOICE; both are made here")]
Scores = Annotated[dict[str, list[Number]], Field(description="by probe, in standard deviations above the model's own neutral text")]


class Event(BaseModel):
    model_config = ConfigDict(extra="allow")


class Record(Event):
    """A record of the ledger, as it lies there."""

    seq: int = Field(ge=0, description="its place in the ledger")
    time: float = Field(description="seconds since 1970")
    kind: str


class VerdictFired(Record):
    """A rule began to fire. The event to act on is one with mode armed."""

    kind: Literal["verdict"]
    event: Literal["fired"]
    stream: Name
    source: str = Field(description="the tap")
    position: int = Field(ge=0, description="the token, from 0 on")
    rule: str
    rules: str = Field(description="digest of the rules in force")
    digest: str = Field(description="of this rule")
    action: Literal["observe", "alert", "throttle", "steer", "reroute", "halt"]
    mode: Literal["armed", "shadow"]
    shadow: Literal["", "mode", "stale", "canary"] = Field(description="why it only records")
    grade: str = Field(description="activations, or text: what the scores were read from")
    limited: bool = Field(description="the rule's limit weakened its action")
    severity: Literal["info", "warning", "critical"]
    risk: str
    tags: list[str]
    runbook: str | None
    desc: str
    when: Any
    until: Any
    hold_for: dict[str, Any]
    signals: dict[str, Number] = Field(description="the values that decided")
    thresholds: dict[str, Number]
    model_signal: Scores


class VerdictEnded(Record):
    """The rule stopped firing."""

    kind: Literal["verdict"]
    event: Literal["ended"]
    stream: Name
    source: str
    position: int = Field(ge=0)
    rule: str


class FailureDecision(Record):
    """A chunk had no good score, and the setting for that decided."""

    kind: Literal["failure"]
    condition: str
    why: str
    decision: Literal["closed", "open"]
    stream: Name = ""


class Steer(Record):
    """A push of a reply along a probe: asked for, refused, begun, over."""

    kind: Literal["steer"]
    event: str
    stream: Name
    rule: str
    position: int
    probe: str
    dose: float


class Reroute(Record):
    """A reply goes on somewhere else. `intent` is durable before the target is asked."""

    kind: Literal["reroute"]
    event: Literal["intent", "outcome"]
    stream: Name
    rule: str
    to: str
    do: str
    why: str


class Tenant(Record):
    """A tenant is throttled, or no longer."""

    kind: Literal["tenant"]
    event: Literal["throttled", "lifted"]
    tenant: str
    rule: str
    why: str


class Outcome(Record):
    """What became of a command."""

    kind: Literal["command"]
    id: str
    issuer: str
    via: str
    verb: str
    about: str
    name: str
    reason: str
    outcome: str


class _Scored(Event):
    stream: Name
    grade: str
    model: str
    tenant: str
    route: str
    adapter: str
    engine: str


class ScoreArrays(_Scored):
    """A stream's scores since the last message: every token that was judged, unless the broker was too slow for it."""

    since: float = Field(description="when the first token was judged, in seconds since 1970")
    until: float = Field(description="when the last one was")
    positions: list[int] = Field(description="of the tokens, rising; a hole is a drop")
    scores: Scores


class ScoreToken(_Scored):
    """One token's scores, with `kafka.scores.form: tokens`."""

    time: float
    position: int = Field(ge=0)
    scores: dict[str, Number]


VERDICTS: tuple[type[Record], ...] = (VerdictFired, VerdictEnded, FailureDecision, Steer, Reroute, Tenant)
SCORES: tuple[type[Event], ...] = (ScoreArrays, ScoreToken)

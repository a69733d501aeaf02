"""What a rule file may say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

NAME = r"^[a-z][a-z0-9_]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
Tag = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Text = Annotated[str, Field(max_length=2000)]
Mode = Literal["shadow", "armed", "disabled"]
MAX_TOKENS, MAX_SECONDS = 100_000, 86_400.0


class Action(IntEnum):
    """What a rule asks for, weakest first: the strongest of the rules that fire wins, the first in the file among equals."""

    OBSERVE = 1
    ALERT = 2
    THROTTLE = 3
    STEER = 4
    REROUTE = 5
    HALT = 6


ACTIONS = tuple(action.name.lower() for action in Action)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Span(_Frozen):
    """How long: in tokens of a stream, or in seconds. Exactly one of the two is not zero, or none is."""

    tokens: int = Field(0, ge=0, le=MAX_TOKENS)
    seconds: float = Field(0.0, ge=0, le=MAX_SECONDS)

    @model_validator(mode="after")
    def _one_of_them(self) -> Span:
        if self.tokens and self.seconds:
            raise ValueError(f"{self.tokens} tokens and {self.seconds:g} s; expected one of them")
        return self


def _span(value: Any) -> Any:
    """`4 tokens`, `2s`, `500ms`, `1m`, or a plain number of tokens."""
    if isinstance(value, (Span, dict)):
        return value
    found = re.fullmatch(r"\s*(\d{1,6}(?:\.\d{1,3})?)\s*(tokens?|ms|s|m|h)?\s*", str(value))
    if found and (found[2] or "token").startswith("token"):
        tokens = float(found[1])
        if tokens.is_integer() and 1 <= tokens <= MAX_TOKENS:
            return Span(tokens=int(tokens))
    elif found:
        seconds = float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[found[2]]
        if 0 < seconds <= MAX_SECONDS:
            return Span(seconds=seconds)
    raise ValueError(
        f"'{value}' is no duration; expected tokens such as '4 tokens' (1 to {MAX_TOKENS}) or time such as '2s', '500ms', '1m'"
    )


_SpanText = Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*(tokens?|ms|s|m|h)?$")] | Annotated[int, Field(ge=1)]
Duration = Annotated[Span, BeforeValidator(_span, json_schema_input_type=_SpanText)]


def _cool_down(value: Any) -> Any:
    return "stream" if value == "stream" else _span(value)


CoolDown = Annotated[Span | Literal["stream"], BeforeValidator(_cool_down, json_schema_input_type=Literal["stream"] | _SpanText)]


def _percent(value: Any) -> Any:
    """`10%` or 0.1, as a share."""
    found = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*%\s*", str(value))
    share = float(found[1]) / 100 if found else value
    if isinstance(share, (int, float)) and not isinstance(share, bool) and 0 < share <= 1:
        return float(share)
    raise ValueError(f"'{value}' is no share of streams; expected a percentage such as '10%', up to '100%'")


_ShareText = Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*%$")] | Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, BeforeValidator(_percent, json_schema_input_type=_ShareText)]


class Halt(_Frozen):
    """Stop the generation. The client gets what was released, then this message."""

    message: Text = "This reply was stopped by a safety rule."


class TenantLimit(_Frozen):
    """What a tenant may still ask for, until none of its replies has fired the rule for `recover`."""

    requests_per_minute: float | None = Field(None, gt=0, le=1_000_000)
    concurrency: int | None = Field(None, ge=1, le=100_000, description="requests at the same time")
    recover: Duration = Field(Span(seconds=60), description="how long the tenant has to be calm")

    @model_validator(mode="after")
    def _limits(self) -> TenantLimit:
        if self.requests_per_minute is None and self.concurrency is None:
            raise ValueError("limits nothing; expected requests_per_minute, concurrency or both")
        if not self.recover.seconds:
            raise ValueError("a tenant recovers over time, such as 1m, not over tokens")
        return self


class Throttle(_Frozen):
    """Slow the reply down to so many tokens a second while the rule fires, and its tenant with it."""

    tokens_per_second: float | None = Field(None, ge=0.1, le=10_000, description="5 when nothing is said")
    tenant: TenantLimit | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_default(cls, value: Any) -> Any:
        nothing = isinstance(value, dict) and all(value.get(name) is None for name in cls.model_fields)
        return {**value, "tokens_per_second": 5.0} if nothing else value


class Reroute(_Frozen):
    """Go on with another model: one of the gateway's targets, never an address."""

    to: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    how: Literal["continue", "restart"] = Field(
        "continue", description="continue: from what the client has, anew when it has nothing; restart: anew in any case"
    )
    unjudged: Literal["allow", "refuse"] = Field("refuse", description="whether a target without a tap may answer")
    otherwise: Halt = Field(Halt(), alias="else", description="what ends the reply when the target cannot take it")


def _one_of(value: Any, names: Collection[str]) -> Any:
    """`alert` is short for `{alert: {}}`."""
    if isinstance(value, BaseModel):
        return value
    given = {value: {}} if isinstance(value, str) else value
    if isinstance(given, dict) and len(given) == 1 and next(iter(given)) in names:
        return {key: {} if inner is None else inner for key, inner in given.items()}
    raise ValueError(f"expected one of: {', '.join(names)}")


class Ending(_Frozen):
    """What ends a reply: exactly one of the two."""

    reroute: Reroute | None = None
    halt: Halt | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return _one_of(value, cls.model_fields)


class Steer(_Frozen):
    """Push the reply along a probe's pattern, from its next token on. What it says then decides the scores, not the push."""

    probe: Name
    dose: float = Field(ge=-0.2, le=0.2, description="a share of the residual's norm; below 0 it lowers what the probe stands for")
    span: Duration = Field(Span(tokens=64), alias="for", description="tokens")
    otherwise: Ending = Field(
        Ending(halt=Halt()), alias="else", description="what ends the reply when the rule still fires after `for`, or nobody can push"
    )

    @model_validator(mode="after")
    def _pushes(self) -> Steer:
        if not self.dose:
            raise ValueError("a dose of 0 does nothing; expected one such as -0.1")
        if not self.span.tokens:
            raise ValueError("a push lasts for tokens, such as '64 tokens', not for a time")
        return self


class Do(_Frozen):
    """Exactly one action with its parameters."""

    observe: dict[str, str] | None = None
    alert: dict[str, str] | None = None
    throttle: Throttle | None = None
    steer: Steer | None = None
    reroute: Reroute | None = None
    halt: Halt | None = None

    @property
    def action(self) -> Action:
        return next(action for action, name in zip(reversed(Action), reversed(ACTIONS), strict=True) if getattr(self, name) is not None)

    @property
    def turning(self) -> Reroute | None:
        """How the reply goes on elsewhere, now or as the `else` of a push."""
        return self.reroute or (self.steer.otherwise.reroute if self.steer is not None else None)

    @property
    def ending(self) -> Halt | None:
        """How the reply ends, now or as an `else`."""
        if self.turning is not None:
            return self.turning.otherwise
        return self.halt or (self.steer.otherwise.halt if self.steer is not None else None)


def _do(value: Any) -> Any:
    return _one_of(value, Do.model_fields)


What = Annotated[Do, BeforeValidator(_do, json_schema_input_type=Literal["observe", "alert", "throttle", "halt"] | Do)]


class Limit(_Frozen):
    """At most `count` actions in `per`, over all streams of this sidecar; what goes beyond does `then` instead."""

    count: int = Field(ge=1, le=1_000_000)
    per: Duration
    then: Literal["observe", "alert", "throttle"]

    @field_validator("per")
    @classmethod
    def _in_time(cls, per: Span) -> Span:
        if not per.seconds:
            raise ValueError("a limit is counted over time, such as 1m, not over tokens")
        return per


class Rule(_Frozen):
    """One rule, as it stands in the file."""

    rule: Name = Field(description="its name, the same for good: verdicts, metrics and tests refer to it")
    desc: Text = Field(description="what it means when this fires, for the person who is woken by it")
    match: Text = Field(
        "", description="CEL over the request: request.model, .tenant, .route, .header, .adapter, .engine; and lists by name"
    )
    when: Text = Field(description="the condition over signals, such as desperation.ewma(8) > fpr(0.001)")
    until: Text = Field("", description="once firing, it goes on until this holds; without it, until `when` no longer does (hysteresis)")
    hold_for: Duration = Field(Span(tokens=1), alias="for", description="how long the condition has to hold before the rule fires")
    keep: Duration | None = Field(None, description="how long it goes on firing after the condition has ended")
    cool_down: CoolDown = Field(
        "stream", description="how long it does not fire again after it has ended; 'stream' is for the rest of the stream"
    )
    limit: Limit | None = Field(None, description="a limit to how often its action is taken")
    do: What
    mode: Mode = Field("shadow", description="shadow: judges and records, never acts; armed: acts; disabled: is not there")
    grade: Literal["any", "activations"] = Field(
        "any", description="activations: only where the model itself is read, not a text of it (gateway.wrap)"
    )
    canary: Share = Field(1.0, description="the share of streams in which an armed rule acts; in the others it is in shadow")
    severity: Literal["info", "warning", "critical"] = "warning"
    maturity: Literal["sandbox", "incubating", "stable", "deprecated"] = Field(
        "incubating", description="a sandbox rule cannot be armed; a deprecated one says so when it is loaded"
    )
    tags: tuple[Tag, ...] = ()
    risk: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = Field("", description="its entry in your risk register")
    runbook: str | None = Field(None, max_length=500, description="what to do at three in the morning: a path or a link")
    accept_unproven: tuple[Name, ...] = Field(
        (), description="probes without proof of cause that this rule may stop a reply on all the same"
    )

    @property
    def action(self) -> Action:
        return self.do.action

    @model_validator(mode="after")
    def _is_mature(self) -> Rule:
        if self.maturity == "sandbox" and self.mode == "armed":
            raise ValueError("a rule with maturity: sandbox cannot be armed; expected mode: shadow, or maturity: incubating")
        if self.limit is not None and Action[self.limit.then.upper()] >= self.action:
            raise ValueError(f"limit.then: {self.limit.then} is no weaker than {self.action.name.lower()}; expected a weaker action")
        return self


class Override(_Frozen):
    """What a site changes about a rule of a pack that it includes."""

    rule: Name
    match: Text | None = None
    hold_for: Duration | None = Field(None, alias="for")
    keep: Duration | None = None
    cool_down: CoolDown | None = None
    limit: Limit | None = None
    do: What | None = None
    mode: Mode | None = None
    grade: Literal["any", "activations"] | None = None
    canary: Share | None = None
    severity: Literal["info", "warning", "critical"] | None = None
    runbook: str | None = None
    accept_unproven: tuple[Name, ...] | None = None


class Macro(_Frozen):
    """A part of conditions with a name. A `hook` is left for sites to replace."""

    expr: Text
    desc: Text = ""
    hook: bool = False


class List(_Frozen):
    """Values with a name, for `match`. A `hook` is left for sites to replace."""

    items: tuple[Annotated[str, Field(max_length=200)], ...] = Field((), max_length=10_000)
    desc: Text = ""
    hook: bool = False


class Fleet(_Frozen):
    """A rule over many streams and replicas, which Prometheus evaluates (`barograph rules export-prometheus`)."""

    fleet: Name
    desc: Text
    when: Text = Field(description="such as: rate(halt[5m]) by tenant > 0.1, or: share(panic_rising) by model > 5%")
    hold_for: Duration = Field(Span(seconds=60), alias="for")
    severity: Literal["info", "warning", "critical"] = "warning"
    runbook: str | None = Field(None, max_length=500)
    arm: tuple[Name, ...] = Field((), description="rules that are armed while this fires, by Alertmanager's webhook")
    disarm: tuple[Name, ...] = Field((), description="rules that are in shadow while this fires")

    @field_validator("hold_for")
    @classmethod
    def _in_time(cls, span: Span) -> Span:
        if not span.seconds:
            raise ValueError("Prometheus knows no tokens; expected a time such as 5m")
        return span


def _macro(value: Any) -> Any:
    return {"expr": value} if isinstance(value, (str, int, float)) else value


def _list(value: Any) -> Any:
    return {"items": value} if isinstance(value, list) else value


Macros = dict[Name, Annotated[Macro, BeforeValidator(_macro, json_schema_input_type=str | float | Macro)]]
Lists = dict[Name, Annotated[List, BeforeValidator(_list, json_schema_input_type=list[str] | List)]]


class RuleFile(_Frozen):
    """A whole rule file. Rules of included packs come first, in the order of `include`; the order breaks ties."""

    include: tuple[Annotated[str, Field(max_length=500)], ...] = Field(
        (), max_length=16, description="packs by name, or files beside this one"
    )
    macros: Macros = {}
    lists: Lists = {}
    rules: tuple[Rule, ...] = Field((), max_length=1000)
    overrides: tuple[Override, ...] = Field((), max_length=1000)
    fleet: tuple[Fleet, ...] = Field((), max_length=200)

    @field_validator("rules")
    @classmethod
    def _names_differ(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        twice(rule.rule for rule in rules)
        return rules


def twice(names: Any) -> None:
    """Raises ValueError for names that are given more than once."""
    found = sorted(name for name, times in Counter(names).items() if times > 1)
    if found:
        raise ValueError(f"rule names must differ; these stand twice: {', '.join(found)}")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a rule file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **RuleFile.model_json_schema(by_alias=True)}

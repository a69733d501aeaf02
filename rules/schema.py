"""What a rule file may say."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class Action(IntEnum):
    """What a rule asks for, weakest first: the strongest of the rules that fire wins."""

    OBSERVE = 1
    ALERT = 2
    HALT = 5


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Halt(_Frozen):
    """Stop the generation. The client gets what was released, then this message."""

    message: str = "This reply was stopped by a safety rule."


class Do(_Frozen):
    """Exactly one action with its parameters."""

    observe: dict[str, str] | None = None
    alert: dict[str, str] | None = None
    halt: Halt | None = None

    @property
    def action(self) -> Action:
        return Action.HALT if self.halt is not None else Action.ALERT if self.alert is not None else Action.OBSERVE


def _do(value: Any) -> Any:
    """`do: alert` is short for `do: {alert: {}}`."""
    given = {value: {}} if isinstance(value, str) else value
    if isinstance(given, dict) and len(given) == 1 and next(iter(given)) in Do.model_fields:
        return {key: {} if inner is None else inner for key, inner in given.items()}
    raise ValueError(f"expected one of: {', '.join(Do.model_fields)}")


def _tokens(value: Any) -> Any:
    """`for: 4 tokens`, or a plain number of tokens."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*(?:tokens?)?\s*", str(value))
    if not found:
        raise ValueError(f"'{value}' is no duration; expected a number of tokens such as '4 tokens'")
    return int(found[1])


class Rule(_Frozen):
    """One rule, as it stands in the file."""

    rule: Name
    desc: str
    when: str = Field(max_length=2000)
    hold_for: Annotated[int, BeforeValidator(_tokens), Field(ge=1, le=100_000)] = Field(1, alias="for")
    do: Annotated[Do, BeforeValidator(_do)]
    mode: Literal["shadow", "armed", "disabled"] = "shadow"
    severity: Literal["info", "warning", "critical"] = "warning"
    tags: tuple[Name | Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], ...] = ()
    runbook: str | None = None
    accept_unproven: tuple[Name, ...] = Field((), description="probes without proof of cause that this rule may halt on all the same")

    @property
    def action(self) -> Action:
        return self.do.action


class RuleFile(_Frozen):
    """A whole rule file. The order of the rules breaks ties."""

    rules: tuple[Rule, ...] = Field(min_length=1, max_length=1000)

    @field_validator("rules")
    @classmethod
    def _names_differ(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        names = [rule.rule for rule in rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"rule names must differ; these stand twice: {', '.join(twice)}")
        return rules

"""Tests of rules: score series in, expected verdicts out. What `barograph rules test` reads and runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rules.document import DocumentError
from rules.engine import RuleEngine
from rules.facts import ProbeFacts
from rules.nearest import unknown
from rules.ruleset import RuleSet
from rules.schema import Duration, Name, Span
from rules.series import series
from rules.verdict import Verdict

_STREAM_KEYS = ("request", "conversation", "scores", "expect")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Expected(_Frozen):
    """A rule that fires at a token, counted from 0, and perhaps ends at another. What is not given is not compared."""

    rule: Name
    at: int = Field(ge=0)
    ends: int | None = Field(None, ge=0)
    action: Literal["observe", "alert", "throttle", "steer", "reroute", "halt"] | None = None
    mode: Literal["shadow", "armed"] | None = None


class Stream(_Frozen):
    """One reply: each probe's series; a shorter one goes on with its last value, a probe that is not named is at 0."""

    request: dict[str, Any] = {}
    conversation: str = ""
    scores: dict[str, Annotated[list[float], BeforeValidator(lambda value: series(str(value)), json_schema_input_type=str)]]
    expect: tuple[Expected, ...] = ()


class RuleTest(_Frozen):
    """One stream, written out in the test itself, or several in turn, as in a conversation."""

    name: str
    every: Duration = Span(seconds=0.05)
    streams: tuple[Stream, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _one_stream(cls, data: Any) -> Any:
        if isinstance(data, dict) and "streams" not in data and "scores" in data:
            rest = {key: value for key, value in data.items() if key not in _STREAM_KEYS}
            return {**rest, "streams": [{key: data[key] for key in _STREAM_KEYS if key in data}]}
        return data


class RuleTests(_Frozen):
    """`rules` names a pack or a file beside this one."""

    rules: str
    tests: tuple[RuleTest, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Outcome:
    """What came of one test: the lines of a difference, none when all was as expected."""

    name: str
    difference: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.difference


def run(file: RuleTests, ruleset: RuleSet, probes: Iterable[ProbeFacts], name: str) -> list[Outcome]:
    """Run the tests of a file. Raises DocumentError for a rule set that does not compile, and for names that nobody knows."""
    facts = tuple(probes)
    _check_names(file, ruleset, [each.name for each in facts], name)
    return [_run(test, ruleset, facts) for test in file.tests]


def untested(files: Iterable[RuleTests], rules: Iterable[str]) -> list[str]:
    """Rules that no test expects to fire."""
    seen = {expected.rule for file in files for test in file.tests for stream in test.streams for expected in stream.expect}
    return [rule for rule in rules if rule not in seen]


def _check_names(file: RuleTests, ruleset: RuleSet, probes: list[str], name: str) -> None:
    rules = [rule.rule for rule in ruleset.rules]
    for test in file.tests:
        for stream in test.streams:
            for probe in stream.scores:
                if probe not in probes:
                    raise DocumentError(f"{name}: test '{test.name}': {unknown('probe', probe, probes)}")
            for expected in stream.expect:
                if expected.rule not in rules:
                    raise DocumentError(f"{name}: test '{test.name}': {unknown('rule', expected.rule, rules)}")


def _run(test: RuleTest, ruleset: RuleSet, probes: tuple[ProbeFacts, ...]) -> Outcome:
    engine = RuleEngine(ruleset, probes)
    difference = []
    now = 0.0
    for number, stream in enumerate(test.streams, 1):
        engine.begin(0, stream.request, stream.conversation)
        verdicts: list[Verdict] = []
        scores = _scores(stream, engine.probes)
        for position in range(len(scores)):
            verdicts += engine.judge(np.zeros(1, np.intp), np.array([position]), scores[position : position + 1], now)
            now += test.every.seconds
        engine.end(0)
        lines = compare(stream.expect, verdicts)
        if lines:
            which = f"stream {number} of {len(test.streams)}, " if len(test.streams) > 1 else ""
            difference += [f"{which}{len(scores)} tokens:", *(f"  {line}" for line in lines)]
    return Outcome(test.name, difference)


def _scores(stream: Stream, probes: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    length = max((len(values) for values in stream.scores.values()), default=0)
    found = np.zeros((length, len(probes)), np.float32)
    for probe, values in stream.scores.items():
        found[:, probes.index(probe)] = [*values, *[values[-1]] * (length - len(values))]
    return found


def compare(expected: Iterable[Expected], verdicts: Iterable[Verdict]) -> list[str]:
    """A difference for people: what was expected and did not come (-), and what came unexpected (+), by token."""
    verdicts = list(verdicts)
    fired = [verdict for verdict in verdicts if not verdict.ended]
    ends = {(v.rule.rule, i): _end(verdicts, v) for i, v in enumerate(fired)}
    left = dict(enumerate(fired))
    lines: list[tuple[int, str]] = []
    for each in sorted(expected, key=lambda each: each.at):
        hit = next((i for i, verdict in left.items() if _matches(each, verdict, ends[verdict.rule.rule, i])), None)
        if hit is None:
            lines.append((each.at, f"- expected: {_said(each)}"))
        else:
            del left[hit]
    for i, verdict in left.items():
        end = ends[verdict.rule.rule, i]
        ending = f", ends at {end}" if end is not None else ""
        why = ", ".join(f"{signal} = {value:.3g}" for signal, value in verdict.signals.items())
        lines.append((
            verdict.position,
            f"+ got:      {verdict.rule.rule} fires at {verdict.position} ({verdict.action.name.lower()}, {verdict.mode}){ending}: {why}",
        ))  # fmt: skip
    return [line for _, line in sorted(lines, key=lambda line: line[0])]


def _end(verdicts: list[Verdict], fired: Verdict) -> int | None:
    return next((v.position for v in verdicts if v.ended and v.rule.rule == fired.rule.rule and v.position > fired.position), None)


def _matches(expected: Expected, verdict: Verdict, end: int | None) -> bool:
    return (
        expected.rule == verdict.rule.rule
        and expected.at == verdict.position
        and expected.action in (None, verdict.action.name.lower())
        and expected.mode in (None, verdict.mode)
        and expected.ends in (None, end)
    )


def _said(expected: Expected) -> str:
    details = ", ".join(part for part in (expected.action, expected.mode) if part)
    end = f", ends at {expected.ends}" if expected.ends is not None else ""
    return f"{expected.rule} fires at {expected.at}" + (f" ({details})" if details else "") + end


def coverage(files: Iterable[RuleTests], ruleset: RuleSet) -> Mapping[str, bool]:
    """Of each rule that is not disabled, whether a test expects it to fire."""
    missing = set(untested(files, [rule.rule for rule in ruleset.rules]))
    return {rule.rule: rule.rule not in missing for rule in ruleset.rules if rule.mode != "disabled"}

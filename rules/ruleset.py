"""A rule file with the packs that it includes, resolved: what is judged by, under one digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from rules.abilities import Abilities
from rules.document import Document, DocumentError, read
from rules.expression import Expression
from rules.facts import ProbeFacts
from rules.nearest import unknown
from rules.reading import ExpressionError
from rules.schema import Action, Fleet, List, Macro, Rule, RuleFile
from rules.selector import Selector, SelectorError

MAX_FILES = 32
ANYTHING = Abilities()

Read = Callable[[str, str], tuple[str, str]]  # (name in `include`, file that includes it) → (text, name for messages)


def no_includes(name: str, by: str) -> tuple[str, str]:
    raise DocumentError(f"{by}: cannot include '{name}' here")


@dataclass(frozen=True)
class Compiled:
    """A rule with its condition, its end and its selector ready to run."""

    rule: Rule
    when: Expression
    until: Expression | None
    match: Selector | None
    digest: str
    objection: str = ""  # why it must not be armed

    @property
    def thresholds(self) -> dict[str, float]:
        return {**self.when.thresholds, **(self.until.thresholds if self.until else {})}


@dataclass(frozen=True)
class RuleSet:
    """Rules in the order that breaks ties. `digest` covers what they say, not how it is laid out."""

    rules: tuple[Rule, ...]
    macros: Mapping[str, Macro] = field(default_factory=dict)
    lists: Mapping[str, List] = field(default_factory=dict)
    fleet: tuple[Fleet, ...] = ()
    name: str = "rules"
    sources: Mapping[str, str] = field(default_factory=dict)  # files and their sha256
    places: Mapping[str, Callable[[str, int], str]] = field(default_factory=dict)  # rule → where one of its values stands

    @cached_property
    def digest(self) -> str:
        return _digest(self.document())

    def document(self) -> dict[str, Any]:
        """All of it as plain data, for the ledger."""
        return {
            "rules": [rule.model_dump(mode="json", by_alias=True, exclude_none=True) for rule in self.rules],
            "macros": {name: macro.expr for name, macro in self.macros.items()},
            "lists": {name: list(each.items) for name, each in self.lists.items()},
            "fleet": [each.model_dump(mode="json", by_alias=True) for each in self.fleet],
        }

    @classmethod
    def from_text(cls, text: str, name: str = "rules", read_include: Read = no_includes) -> RuleSet:
        """Read a file and what it includes. Raises DocumentError with file, line, column and what was expected."""
        loader = _Loader(read_include)
        loader.load(text, name, ())
        return loader.ruleset(name)

    def compiled(self, probes: Mapping[str, ProbeFacts], abilities: Abilities = ANYTHING) -> tuple[Compiled, ...]:
        """The rules that are not disabled. `abilities` is what whoever runs them can do.

        Raises DocumentError for the first that cannot be compiled, or is armed and must not be.
        """
        macros = {name: macro.expr for name, macro in self.macros.items()}
        lists = {name: each.items for name, each in self.lists.items()}
        for name in macros:
            self._macro(name, macros, probes)
        found = []
        for rule in self.rules:
            if rule.mode == "disabled":
                continue
            when = self._expression(rule, "when", rule.when, probes, macros)
            until = self._expression(rule, "until", rule.until, probes, macros) if rule.until else None
            try:
                match = Selector(rule.match, lists) if rule.match else None
            except SelectorError as error:
                raise DocumentError(f"{self._at(rule, 'match')}: rule '{rule.rule}', match: {error}") from None
            key, objection = self._objection(rule, when, until, probes, abilities)
            if objection and rule.mode == "armed":
                raise DocumentError(f"{self._at(rule, key)}: {objection}, or mode: shadow")
            used = json.dumps([rule.model_dump(mode="json", by_alias=True), macros, {name: list(items) for name, items in lists.items()}])
            found.append(Compiled(rule, when, until, match, _digest(used), objection))
        return tuple(found)

    def _expression(
        self, rule: Rule, key: str, text: str, probes: Mapping[str, ProbeFacts], macros: Mapping[str, str]
    ) -> Expression:  # fmt: skip
        try:
            return Expression(text, probes, macros)
        except ExpressionError as error:
            raise DocumentError(f"{self._at(rule, key, error.column - 1)}: rule '{rule.rule}', {key}: {error}") from None

    def _macro(self, name: str, macros: Mapping[str, str], probes: Mapping[str, ProbeFacts]) -> None:
        """A macro that no rule uses is read all the same, alone or as a side of a comparison. A threshold has its meaning where it is used."""
        if macros[name].lstrip().startswith(("fpr(", "reply_fpr(")):
            return
        for text in (macros[name], f"{name} > 0"):
            try:
                Expression(text, probes, macros)
                return
            except ExpressionError as error:
                failed = error
        raise DocumentError(f"{self.name}: macro '{name}': {failed}")

    def _objection(
        self, rule: Rule, when: Expression, until: Expression | None, probes: Mapping[str, ProbeFacts], abilities: Abilities
    ) -> tuple[str, str]:
        """The key at fault and why the rule must not be armed: in shadow it may be watched all the same. Raises DocumentError for what no mode allows."""
        for missing in set(rule.accept_unproven) - set(probes):
            raise DocumentError(f"{self._at(rule, 'accept_unproven')}: rule '{rule.rule}': {unknown('probe', missing, probes)}")
        if (steer := rule.do.steer) is not None:
            if steer.probe not in probes:
                raise DocumentError(f"{self._at(rule, 'do')}: rule '{rule.rule}', steer: {unknown('probe', steer.probe, probes)}")
            if against := probes[steer.probe].against(steer.dose):
                raise DocumentError(f"{self._at(rule, 'do')}: rule '{rule.rule}' would steer along '{steer.probe}', {against}")
        if objection := abilities.objection(rule):
            return "do", objection
        if rule.action < Action.STEER:
            return "do", ""
        for signal in (*when.signals, *(until.signals if until else ())):
            objection = probes[signal.probe].objection()
            if objection and signal.probe not in rule.accept_unproven:
                return "when", (
                    f"rule '{rule.rule}' would {rule.action.name.lower()} on '{signal.probe}', {objection}; "
                    f"expected a probe whose cause was shown, accept_unproven: [{signal.probe}]"
                )
        return "when", ""

    def _at(self, rule: Rule, key: str, offset: int = 0) -> str:
        place = self.places.get(rule.rule)
        return place(key, offset) if place is not None else self.name


class _Loader:
    """Follows includes, depth first, and puts everything together."""

    def __init__(self, read_include: Read) -> None:
        self._read = read_include
        self._rules: dict[str, Rule] = {}
        self._macros: dict[str, tuple[Macro, str]] = {}
        self._lists: dict[str, tuple[List, str]] = {}
        self._fleet: dict[str, Fleet] = {}
        self._sources: dict[str, str] = {}
        self._places: dict[str, Callable[[str, int], str]] = {}

    def load(self, text: str, name: str, within: tuple[str, ...]) -> None:
        if name in within:
            raise DocumentError(f"{name}: the includes {' → '.join((*within, name))} go in a circle")
        if name in self._sources:
            return
        if len(self._sources) >= MAX_FILES:
            raise DocumentError(f"{name}: more than {MAX_FILES} files are included")
        document = read(text, RuleFile, name)
        self._sources[name] = hashlib.sha256(text.encode()).hexdigest()
        file = document.model
        for included in file.include:
            self.load(*self._read(included, name), (*within, name))
        self._put(document, "macros", file.macros, self._macros)
        self._put(document, "lists", file.lists, self._lists)
        for i, rule in enumerate(file.rules):
            if rule.rule in self._rules:
                raise DocumentError(
                    f"{document.at(('rules', i, 'rule'))}: rule '{rule.rule}' stands in an included pack; change it in `overrides`"
                )
            self._rules[rule.rule] = rule
            self._places[rule.rule] = _place(document, i)
        for i, change in enumerate(file.overrides):
            if change.rule not in self._rules:
                raise DocumentError(f"{document.at(('overrides', i, 'rule'))}: {unknown('rule', change.rule, self._rules)}")
            self._rules[change.rule] = _changed(self._rules[change.rule], change, document.at(("overrides", i)))
        for i, each in enumerate(file.fleet):
            if each.fleet in self._fleet:
                raise DocumentError(f"{document.at(('fleet', i, 'fleet'))}: fleet rule '{each.fleet}' stands twice")
            self._fleet[each.fleet] = each

    def _put(self, document: Document[RuleFile], key: str, given: Mapping[str, Any], known: dict[str, tuple[Any, str]]) -> None:
        for name, value in given.items():
            if name in known and not known[name][0].hook:
                hooks = sorted(each for each, (old, _) in known.items() if old.hook)
                raise DocumentError(
                    f"{document.at((key, name))}: '{name}' is no hook of {known[name][1]}; hooks are: {', '.join(hooks) or 'none'}"
                )
            known[name] = (value, document.name)

    def ruleset(self, name: str) -> RuleSet:
        if not self._rules:
            raise DocumentError(f"{name}:1:1: no rules; expected `rules`, or `include` with the name of a pack")
        for each in self._fleet.values():
            for missing in {*each.arm, *each.disarm} - set(self._rules):
                raise DocumentError(f"{name}: fleet rule '{each.fleet}': {unknown('rule', missing, self._rules)}")
        return RuleSet(
            tuple(self._rules.values()),
            {key: macro for key, (macro, _) in self._macros.items()},
            {key: each for key, (each, _) in self._lists.items()},
            tuple(self._fleet.values()),
            name,
            self._sources,
            self._places,
        )


def _place(document: Document[RuleFile], index: int) -> Callable[[str, int], str]:
    return lambda key, offset: document.at(("rules", index, key), offset)


def _changed(rule: Rule, change: Any, where: str) -> Rule:
    given = {name: getattr(change, name) for name in type(change).model_fields if name != "rule" and getattr(change, name) is not None}
    data = {("for" if name == "hold_for" else name): getattr(rule, name) for name in Rule.model_fields} | {
        ("for" if name == "hold_for" else name): value for name, value in given.items()
    }
    try:
        return Rule.model_validate(data)
    except ValidationError as error:
        raise DocumentError(f"{where}: rule '{rule.rule}': {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _digest(what: Any) -> str:
    text = what if isinstance(what, str) else json.dumps(what, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()

"""The engine: judges one frame of tokens against all rules, for all streams at once. Pure: no I/O, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rules.abilities import Abilities
from rules.facts import ProbeFacts
from rules.ruleset import ANYTHING, Compiled, RuleSet
from rules.schema import Action, Rule
from rules.selector import Request
from rules.signal import Signal
from rules.verdict import Verdict, Why
from rules.windows import Floats, Slots, Windows

NEVER = np.iinfo(np.int64).max // 2
# State of a rule in a stream, arrays [slots, rules].
_STATE = ("_active", "_held", "_since", "_firing", "_kept", "_lost", "_rest", "_rested")


class RuleEngine:
    """All rules of one rule set over the probes of one bank.

    A rule begins to fire at the token at which its condition has held for `for`. It goes on until the condition (or `until`) ends it and
    `keep` is over, and does not fire again before `cool_down` is. Times are the caller's: `judge` is told what time it is.
    """

    def __init__(self, ruleset: RuleSet, probes: Iterable[ProbeFacts], abilities: Abilities = ANYTHING) -> None:
        """Raises DocumentError for a rule that cannot be compiled or is armed and must not be."""
        facts = {each.name: each for each in probes}
        self.ruleset = ruleset
        self.probes = tuple(facts)
        self.compiled: tuple[Compiled, ...] = ruleset.compiled(facts, abilities)
        self.rules: tuple[Rule, ...] = tuple(each.rule for each in self.compiled)
        self.digest = ruleset.digest
        self.overrides: dict[str, str] = {}  # modes of rules that were armed or put in shadow while running
        self.unmatched = 0  # requests for which a `match` could not tell; the rule then applies
        signals = dict.fromkeys(
            signal for each in self.compiled for part in (each.when, each.until) if part is not None for signal in part.signals
        )
        self._windows = Windows(self.probes, tuple(signals))
        rules = self.rules
        self._for_tokens = np.array([rule.hold_for.tokens for rule in rules], np.int64)
        self._for_s = np.array([rule.hold_for.seconds for rule in rules])
        self._keep_tokens = np.array([rule.keep.tokens if rule.keep else 0 for rule in rules], np.int64)
        self._keep_s = np.array([rule.keep.seconds if rule.keep else 0.0 for rule in rules])
        self._cool_tokens = np.array([NEVER if rule.cool_down == "stream" else rule.cool_down.tokens for rule in rules], np.int64)
        self._cool_s = np.array([0.0 if rule.cool_down == "stream" else rule.cool_down.seconds for rule in rules])
        self._ends = [i for i, each in enumerate(self.compiled) if each.until is not None]
        self._limits = [deque[float]() for _ in rules]
        shape = (16, len(rules))
        self._active = np.zeros(shape, bool)
        self._held = np.zeros(shape, np.int32)  # tokens in a row for which the condition has held
        self._since = np.zeros(shape)  # when it began to
        self._firing = np.zeros(shape, bool)
        self._kept = np.zeros(shape, np.int32)  # tokens since the condition ended while it fires
        self._lost = np.zeros(shape)  # and when it did
        self._rest = np.zeros(shape, np.int64)  # tokens for which it may not fire again
        self._rested = np.zeros(shape)  # and until when
        self._lot = np.zeros(16)
        self._stale = np.zeros(16, bool)
        self._text = np.zeros(16, bool)  # scored from text only
        self._conversation: dict[int, str] = {}

    def objection(self, rule: str) -> str:
        """Why a rule must not be armed; empty when it may, or is none of these."""
        return next((each.objection for each in self.compiled if each.rule.rule == rule), "")

    @classmethod
    def from_text(cls, text: str, probes: Iterable[ProbeFacts], name: str = "rules") -> RuleEngine:
        """Compile one rule file without includes. Raises DocumentError."""
        return cls(RuleSet.from_text(text, name), probes)

    @property
    def bytes_a_stream(self) -> int:
        """State that a running stream takes."""
        return self._windows.bytes_a_stream + sum(int(getattr(self, name)[:1].nbytes) for name in _STATE)

    def begin(
        self, slot: int, request: Request | None = None, conversation: str = "", lot: float = 0.0, stale: bool = False, grade: str = "activations"
    ) -> None:  # fmt: skip
        """A new stream starts in `slot`.

        request: attributes for `match`. conversation: an opaque key. lot: a number in [0, 1) that is the stream's own, for canaries. stale: the
        thresholds were calibrated on another engine, so that every rule is in shadow. grade: what the scores are of; a rule may ask for one.
        """
        if slot >= len(self._held):
            self._grow(max(2 * len(self._held), slot + 1))
        self._windows.begin(slot, conversation)
        for name in _STATE:
            getattr(self, name)[slot] = 0
        self._text[slot] = grade != "activations"
        self._active[slot] = self._applies(request or {}) & self._graded(slot)
        self._lot[slot], self._stale[slot] = lot, stale
        if conversation:
            self._conversation[slot] = conversation

    def end(self, slot: int) -> None:
        """The stream in `slot` is over."""
        self._windows.end(slot, self._conversation.pop(slot, ""))
        if slot < len(self._firing):
            self._firing[slot] = False

    def judge(self, slots: Slots, positions: NDArray[np.integer], scores: NDArray[np.floating], now: float | Floats = 0.0) -> list[Verdict]:
        """Judge tokens: slots [n], positions [n], scores [n, probes], at the time `now` in seconds, one for all or [n]. Returns what fired or ended.

        Rows of one stream are judged in the order in which they stand.
        """
        verdicts: list[Verdict] = []
        times = np.broadcast_to(np.asarray(now, np.float64), len(slots))[:, None]
        for rows in distinct_rounds(slots):
            verdicts += self._judge_distinct(slots[rows], positions[rows], scores[rows].astype(np.float64), times[rows])
        return verdicts

    def firing(self, slots: Slots) -> NDArray[np.int64]:
        """How many of the streams in `slots` each rule fires for, [rules]."""
        found: NDArray[np.int64] = self._firing[slots].sum(axis=0)
        return found

    def fires(self, slot: int, rule: str) -> bool:
        """Whether a rule fires for the stream in `slot`; not when it is gone or is not about that request."""
        return any(self._firing[slot, column] and self._active[slot, column] for column, each in enumerate(self.rules) if each.rule == rule)

    def find(self, rule: str) -> Compiled | None:
        """The rule of this name, if it is in force."""
        return next((each for each in self.compiled if each.rule.rule == rule), None)

    def _judge_distinct(self, slots: Slots, positions: NDArray[np.integer], scores: Floats, now: Floats) -> list[Verdict]:
        values = self._windows.update(slots, scores)
        holds = np.empty((len(slots), len(self.rules)), bool)
        for column, each in enumerate(self.compiled):
            holds[:, column] = each.when(values)
        stays = holds
        if self._ends:
            stays = holds.copy()
            for column in self._ends:
                until = self.compiled[column].until
                stays[:, column] = ~until(values) if until is not None else False
        begins, ends = self._advance(slots, holds & self._active[slots], stays, now)
        if not begins.any() and not ends.any():
            return []
        return [
            self._verdict(values, slots, positions, row, column, float(now[row, 0]), ended=not begins[row, column])
            for row, column in np.argwhere(begins | ends)
        ]

    def _advance(
        self, slots: Slots, holds: NDArray[np.bool_], stays: NDArray[np.bool_], now: Floats
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Move the state of every rule in every stream one token on: which begin to fire, and which stop. All [n, rules]."""
        held, since, firing = self._held[slots], self._since[slots], self._firing[slots]
        if not (holds.any() or held.any() or firing.any() or (self._rest[slots] > 0).any()):  # nearly always: nothing moves
            return _none(holds.shape), _none(holds.shape)
        since = np.where(holds & (held == 0), now, since)
        held = np.where(holds, held + 1, 0)
        kept, lost = self._kept[slots], self._lost[slots]
        lost = np.where(firing & ~stays & (kept == 0), now, lost)
        kept = np.where(firing & ~stays, kept + 1, 0)
        ends = firing & (kept > self._keep_tokens) & (now - lost >= self._keep_s) & ~stays
        rest, rested = self._rest[slots], self._rested[slots]
        ready = holds & (held >= self._for_tokens) & (now - since >= self._for_s)
        begins = ready & ~firing & (rest <= 0) & (now >= rested)
        self._held[slots], self._since[slots] = held, since
        self._firing[slots] = (firing | begins) & ~ends
        self._kept[slots], self._lost[slots] = np.where(ends, 0, kept), lost
        self._rest[slots] = np.where(ends, self._cool_tokens, rest - 1)
        self._rested[slots] = np.where(ends, now + self._cool_s, rested)
        return begins, ends

    def _verdict(
        self, values: Mapping[Signal, Floats], slots: Slots, positions: NDArray[np.integer], row: int, column: int, now: float, ended: bool
    ) -> Verdict:
        each = self.compiled[column]
        slot = int(slots[row])
        shadow = self.shadow(each.rule, slot)
        action, limited = each.rule.action, False
        if not ended and not shadow:
            action, limited = self._limited(column, now)
        expressions = (each.when, each.until) if each.until is not None else (each.when,)
        signals = {str(signal): float(values[signal][row]) for part in expressions for signal in part.signals}
        return Verdict(each.rule, slot, int(positions[row]), action, shadow, signals, each.thresholds, each.digest, ended, limited)

    def shadow(self, rule: Rule, slot: int) -> Why:
        """Why a rule only records what it says of the stream in `slot`; empty when it acts."""
        if self.overrides.get(rule.rule, rule.mode) != "armed":
            return "mode"
        if self._stale[slot]:
            return "stale"
        return "canary" if self._lot[slot] >= rule.canary else ""

    def _limited(self, column: int, now: float) -> tuple[Action, bool]:
        """The action that is taken, after the rule's limit."""
        limit, taken = self.rules[column].limit, self._limits[column]
        if limit is None:
            return self.rules[column].action, False
        while taken and taken[0] <= now - limit.per.seconds:
            taken.popleft()
        if len(taken) >= limit.count:
            return Action[limit.then.upper()], True
        taken.append(now)
        return self.rules[column].action, False

    def _applies(self, request: Request) -> NDArray[np.bool_]:
        """Which rules are about a request. What a client sends cannot switch a rule off by making its `match` fail."""
        known: dict[str, bool] = {}
        for each in self.compiled:
            if each.match is not None and each.match.text not in known:
                found = each.match(request)
                self.unmatched += found is None
                known[each.match.text] = found is not False
        return np.array([each.match is None or known[each.match.text] for each in self.compiled], bool)

    def _graded(self, slot: int) -> NDArray[np.bool_]:
        """Which rules are content with what the stream's scores are of."""
        return np.array([each.rule.grade == "any" or not self._text[slot] for each in self.compiled], bool)

    def adopt(self, other: RuleEngine, requests: Mapping[int, Request]) -> None:
        """Take over running streams from the rule set before this one: slot → request. A rule that is the same goes on where it was."""
        slots = np.array(sorted(requests), np.intp)
        if not len(slots):
            return
        if slots[-1] >= len(self._held):
            self._grow(max(2 * len(self._held), int(slots[-1]) + 1))
        for slot in slots.tolist():
            self._windows.begin(slot)
            for name in _STATE:
                getattr(self, name)[slot] = 0
            self._text[slot] = other._text[slot]
            self._active[slot] = self._applies(requests[slot]) & self._graded(slot)
        self._windows.adopt(other._windows, slots)
        self._conversation = dict(other._conversation)
        self._lot[slots], self._stale[slots] = other._lot[slots], other._stale[slots]
        before = {each.digest: i for i, each in enumerate(other.compiled)}
        for column, each in enumerate(self.compiled):
            # Its mode may have changed; a condition that is the same has the same past.
            old = before.get(each.digest, next((i for i, o in enumerate(other.compiled) if _same(o.rule, each.rule)), None))
            if old is not None:
                for name in _STATE[1:]:
                    getattr(self, name)[slots, column] = getattr(other, name)[slots, old]
                self._limits[column] = other._limits[old]

    def _grow(self, slots: int) -> None:
        self._windows.grow(slots)
        for name in (*_STATE, "_lot", "_stale", "_text"):
            old = getattr(self, name)
            new = np.zeros((slots, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)


@lru_cache(64)
def _none(shape: tuple[int, int]) -> NDArray[np.bool_]:
    none = np.zeros(shape, bool)
    none.flags.writeable = False
    return none


def _same(one: Rule, other: Rule) -> bool:
    """Whether two rules judge alike, whatever they do about it."""
    judged = ("rule", "when", "until", "hold_for", "keep", "cool_down")
    return all(getattr(one, name) == getattr(other, name) for name in judged)


def distinct_rounds(slots: Slots) -> list[NDArray[np.intp]]:
    """Split rows so that no stream stands twice in one round. One round is the rule; no rows make none."""
    if not len(slots):
        return []
    if len(slots) == 1 or len(np.unique(slots)) == len(slots):
        return [np.arange(len(slots))]
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    first = np.r_[0, np.flatnonzero(np.diff(ordered)) + 1]
    rank = np.arange(len(slots)) - np.repeat(first, np.diff(np.r_[first, len(slots)]))
    return [np.sort(order[rank == turn]) for turn in range(int(rank.max()) + 1)]

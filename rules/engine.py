"""The engine: judges one frame of tokens against all rules, for all streams at once. Pure: no I/O, no clock."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rules.document import DocumentError, parse
from rules.expression import Expression, ExpressionError
from rules.schema import Action, Rule, RuleFile
from rules.windows import Signal, Slots, Windows


@dataclass(frozen=True)
class Verdict:
    """A rule fired for a stream. `shadow` says that it only records."""

    rule: Rule
    slot: int
    position: int
    shadow: bool
    signals: dict[str, float]


class RuleEngine:
    """All rules of one file over the probes of one bank.

    A rule fires once a stream, at the first token at which its condition has held for `for` tokens in a row.
    """

    def __init__(
        self, rules: RuleFile, probes: tuple[str, ...], digest: str = "", name: str = "rules", unproven: frozenset[str] = frozenset()
    ) -> None:
        self.rules = tuple(rule for rule in rules.rules if rule.mode != "disabled")
        self.digest = digest
        self.probes = probes
        self._conditions: list[Expression] = []
        for rule in self.rules:
            try:
                self._conditions.append(Expression(rule.when, probes))
            except ExpressionError as error:
                raise DocumentError(f"{name}: rule '{rule.rule}', when: {error}") from None
            _check_proof(name, rule, self._conditions[-1], unproven)
        signals: tuple[Signal, ...] = tuple(dict.fromkeys(signal for condition in self._conditions for signal in condition.signals))
        self._needed = np.array([rule.hold_for for rule in self.rules], np.int64)
        self._windows = Windows(probes, signals)
        self._held = np.zeros((16, len(self.rules)), np.int64)
        self._fired = np.zeros((16, len(self.rules)), bool)

    @classmethod
    def from_text(cls, text: str, probes: tuple[str, ...], name: str = "rules", unproven: frozenset[str] = frozenset()) -> RuleEngine:
        """Compile a rule file. `unproven` are probes whose cause was tried and not shown. Raises DocumentError with file, line and what was expected."""
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(parse(text, RuleFile, name), probes, digest, name, unproven)

    def begin(self, slot: int) -> None:
        """A new stream starts in `slot`."""
        if slot >= len(self._held):
            slots = max(2 * len(self._held), slot + 1)
            self._windows.grow(slots)
            more = slots - len(self._held)
            self._held = np.pad(self._held, ((0, more), (0, 0)))
            self._fired = np.pad(self._fired, ((0, more), (0, 0)))
        self._windows.clear(slot)
        self._held[slot] = 0
        self._fired[slot] = False

    def judge(self, slots: Slots, positions: NDArray[np.integer], scores: NDArray[np.floating]) -> list[Verdict]:
        """Judge tokens: slots [n], positions [n], scores [n, probes]. Returns what fired, in the order of the rows.

        Rows of one stream are judged in the order in which they stand.
        """
        verdicts: list[Verdict] = []
        for rows in distinct_rounds(slots):
            verdicts += self._judge_distinct(slots[rows], positions[rows], scores[rows].astype(np.float64))
        return verdicts

    def _judge_distinct(self, slots: Slots, positions: NDArray[np.integer], scores: NDArray[np.float64]) -> list[Verdict]:
        values = self._windows.update(slots, scores)
        holds = np.empty((len(slots), len(self.rules)), bool)
        for column, condition in enumerate(self._conditions):
            holds[:, column] = condition(values)
        held = np.where(holds, self._held[slots] + 1, 0)
        self._held[slots] = held
        fires = (held >= self._needed) & ~self._fired[slots]
        self._fired[slots] |= fires
        return [
            Verdict(
                self.rules[column], int(slots[row]), int(positions[row]), self.rules[column].mode == "shadow",
                {str(signal): float(values[signal][row]) for signal in self._conditions[column].signals},
            )
            for row, column in np.argwhere(fires)
        ]  # fmt: skip


def _check_proof(name: str, rule: Rule, condition: Expression, unproven: frozenset[str]) -> None:
    """An armed rule that stops a generation stands on proven probes, unless it names the others."""
    if rule.mode != "armed" or rule.action < Action.HALT:
        return
    for signal in condition.signals:
        if signal.probe in unproven and signal.probe not in rule.accept_unproven:
            raise DocumentError(
                f"{name}: rule '{rule.rule}' halts on '{signal.probe}', whose card says causal: false; "
                f"set mode: shadow, or accept_unproven: [{signal.probe}]"
            )


def strongest(verdicts: list[Verdict]) -> Verdict | None:
    """The verdict to act on: the strongest action of those that may act; the first rule wins a tie."""
    acting = [verdict for verdict in verdicts if not verdict.shadow and verdict.rule.action > Action.OBSERVE]
    return max(acting, key=lambda verdict: verdict.rule.action, default=None)


def distinct_rounds(slots: Slots) -> list[NDArray[np.intp]]:
    """Split rows so that no stream stands twice in one round. One round is the rule; no rows make none."""
    if not len(slots):
        return []
    if len(np.unique(slots)) == len(slots):
        return [np.arange(len(slots))]
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    first = np.r_[0, np.flatnonzero(np.diff(ordered)) + 1]
    rank = np.arange(len(slots)) - np.repeat(first, np.diff(np.r_[first, len(slots)]))
    return [np.sort(order[rank == turn]) for turn in range(int(rank.max()) + 1)]

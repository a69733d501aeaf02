"""Conditions: one line of comparison, arithmetic and logic over signals, compiled to NumPy.

The syntax is Python's own expression grammar cut down to a handful of nodes; nothing is ever evaluated as Python.
Logic has three values: a comparison with an unknown (NaN) number is neither yes nor no, so `not` cannot turn a missing
score into a match, and `a or b` still matches by `b`. A compiled test therefore returns two arrays, yes and no.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np

from rules.facts import ProbeFacts
from rules.nearest import unknown
from rules.reading import EXPECTED, ExpressionError, Reading
from rules.signal import LEVELS, MOST, Signal
from rules.windows import Floats

MAX_DEPTH = 40
MOST_NUMBER = 1e9  # what is larger is a slip of somebody's
MAX_NODES = 2000  # after macros; a condition of a thousand comparisons is no condition

Values = dict[Signal, Floats]
Compiled = Callable[[Values], Any]

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
}
_MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Lt: ast.Gt, ast.LtE: ast.GtE}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.true_divide,
}


class Expression:
    """A compiled condition. Calling it with every signal's values [n] gives a boolean array [n].

    `macros` are conditions and numbers by name. `thresholds` lists each named threshold, as fpr(0.001), with the value that the card gives it.
    """

    def __init__(self, text: str, probes: Mapping[str, ProbeFacts], macros: Mapping[str, str] | None = None) -> None:
        self.text = text
        self.signals: list[Signal] = []
        self.thresholds: dict[str, float] = {}
        self._macros = macros or {}
        self._probes = probes
        self._reading = Reading(tuple(probes))
        self._nodes = 0
        kind, self._run = self._compile(parsed(text), 0, ())
        if kind != "bool":
            raise ExpressionError(1, "the condition is a number; expected a comparison such as desperation.ewma(8) > 3")

    def __call__(self, values: Values) -> Any:
        with np.errstate(all="ignore"):  # a division by zero gives inf or NaN, and NaN satisfies nothing
            yes: Any = self._run(values)[0]
        return yes

    def _compile(self, node: ast.expr, depth: int, within: tuple[str, ...]) -> tuple[str, Compiled]:
        """`within`: the macros that are being expanded, outermost first. The columns of errors inside one are those of its use."""
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise ExpressionError.at(node, f"nested too deeply or too long; expected at most {MAX_DEPTH} levels and {MAX_NODES} parts")
        if isinstance(node, ast.Name) and node.id in self._macros:
            return self._expand(node, depth, within)
        if isinstance(node, ast.BoolOp):
            parts = [self._typed(value, "bool", depth, within) for value in node.values]
            every, some = (0, 1) if isinstance(node.op, ast.And) else (1, 0)

            def join(values: Values) -> Any:
                found = [part(values) for part in parts]
                pair: list[Any] = [None, None]
                pair[every] = reduce(np.logical_and, [result[every] for result in found])
                pair[some] = reduce(np.logical_or, [result[some] for result in found])
                return pair

            return "bool", join
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._typed(node.operand, "bool", depth, within)
            return "bool", lambda values: inner(values)[::-1]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            number = self._typed(node.operand, "number", depth, within)
            return "number", lambda values: -number(values)
        if isinstance(node, ast.Compare):
            return "bool", self._comparison(node, depth, within)
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            left, right = (self._typed(side, "number", depth, within) for side in (node.left, node.right))
            apply = _ARITHMETIC[type(node.op)]
            return "number", lambda values: apply(left(values), right(values))
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, (int, float))
            and not isinstance(node.value, bool)
            and abs(node.value) < MOST_NUMBER
        ):
            return "number", _constant(float(node.value))
        if name := _threshold_name(node):
            raise ExpressionError.at(
                node, f"{name}(rate) stands alone on one side of a comparison with one signal, such as desperation.ewma(8) > {name}(0.01)"
            )
        if isinstance(node, (ast.Attribute, ast.Call, ast.Name)):
            signal = self._signal(node)
            return "number", lambda values: values[signal]
        raise ExpressionError.at(node, f"this is not part of the language; {EXPECTED}")

    def _expand(self, node: ast.Name, depth: int, within: tuple[str, ...]) -> tuple[str, Compiled]:
        if node.id in within:
            raise ExpressionError.at(node, f"the macros {' → '.join((*within, node.id))} go in a circle")
        try:
            return self._compile(parsed(self._macros[node.id]), depth + 1, (*within, node.id))
        except ExpressionError as error:
            if within:
                raise
            raise ExpressionError.at(node, f"in macro '{node.id}': column {error.column}: {error.message}") from None

    def _typed(self, node: ast.expr, wanted: str, depth: int, within: tuple[str, ...]) -> Compiled:
        kind, compiled = self._compile(node, depth + 1, within)
        if kind != wanted:
            raise ExpressionError.at(
                node, "expected a comparison here, got a number" if wanted == "bool" else "expected a number here, got a comparison"
            )
        return compiled

    def _comparison(self, node: ast.Compare, depth: int, within: tuple[str, ...]) -> Compiled:
        for op in node.ops:
            if type(op) not in _COMPARE:
                raise ExpressionError.at(node, "expected one of > >= < <= (scores are never exactly equal)")
        sides = [node.left, *node.comparators]
        limits = [self._limit(sides, i) for i in range(len(sides))]
        terms = [
            self._typed(side, "number", depth, within) if limit is None else _constant(limit)
            for side, limit in zip(sides, limits, strict=True)
        ]
        for i, op in enumerate(node.ops):
            self._possible(sides[i], op, limits[i + 1], sides[i + 1])
            self._possible(sides[i + 1], _MIRRORED[type(op)](), limits[i], sides[i])
        tests = [_COMPARE[type(op)] for op in node.ops]

        def run(values: Values) -> Any:
            numbers = [term(values) for term in terms]
            yes = reduce(np.logical_and, [test(numbers[i], numbers[i + 1]) for i, test in enumerate(tests)])
            known = reduce(np.logical_and, [~np.isnan(number) for number in numbers])
            return yes & known, ~yes & known

        return run

    def _limit(self, sides: list[ast.expr], place: int) -> float | None:
        """The number that a side is, by itself, by the card, or by a macro for either."""
        node = self._meant(sides[place])
        if isinstance(node, ast.Call) and _threshold_name(node):
            return self._threshold(node, sides, place)
        number = self._reading.number(node)
        return number if number is not None and abs(number) < MOST_NUMBER else None

    def _meant(self, side: ast.expr) -> ast.expr:
        """A side of a comparison, or what its macro stands for."""
        return parsed(self._macros[side.id]) if isinstance(side, ast.Name) and side.id in self._macros else side

    def _possible(self, side: ast.expr, op: ast.cmpop, limit: float | None, where: ast.expr) -> None:
        """Refuse a comparison that no score can satisfy: somebody would rely on a rule that never fires."""
        side = self._meant(side)
        if limit is None or not isinstance(side, (ast.Attribute, ast.Call)) or _threshold_name(side):
            return
        signal = self._signal(side)
        furthest = MOST if isinstance(op, (ast.Gt, ast.GtE)) else -MOST
        if signal.kind in LEVELS and not _COMPARE[type(op)](furthest, limit):
            raise ExpressionError.at(where, f"this never holds: no score counts for more than {MOST:g} deviations, either way")

    def _threshold(self, node: ast.Call, sides: list[ast.expr], place: int) -> float:
        """The card's value for the window on the other side of the comparison."""
        name = _threshold_name(node)
        others = [side for i, side in enumerate(sides) if i != place]
        if len(others) != 1 or not isinstance(others[0], (ast.Attribute, ast.Call)) or _threshold_name(others[0]):
            raise ExpressionError.at(
                node,
                f"{name}(rate) is compared with one signal, such as desperation.ewma(8) > {name}(0.01); it has no meaning beside anything else",
            )
        signal = self._signal(others[0])
        rate = self._reading.number(node.args[0]) if len(node.args) == 1 and not node.keywords else None
        if rate is None:
            raise ExpressionError.at(node, f"{name} takes one rate, such as {name}(0.01)")
        facts = self._probes[signal.probe]
        known = facts.thresholds if name == "fpr" else facts.reply_thresholds
        if not known:
            raise ExpressionError.at(
                node, f"the card of '{signal.probe}' has no thresholds for {name}; calibrate the bank, or compare with a number"
            )
        if signal.window not in known:
            raise ExpressionError.at(
                node, f"the card of '{signal.probe}' has no thresholds for {signal.window}; it has: {', '.join(known)}"
            )
        rates = known[signal.window]
        if rate not in rates:
            have = ", ".join(f"{name}({each:g})" for each in rates) or "none, for want of replies"
            raise ExpressionError.at(
                node, f"the card has no {name}({rate:g}); it has: {have}. A rare rate needs more replies: calibrate with more --samples"
            )
        value = float(rates[rate])
        self.thresholds[f"{signal} {name}({rate:g})"] = value
        return value

    def _signal(self, node: ast.expr) -> Signal:
        if isinstance(node, ast.Name) and node.id not in self._probes:
            known = (*self._macros, *self._probes)
            raise ExpressionError.at(node, unknown("macro" if self._macros else "probe", node.id, known))
        signal = self._reading.signal(node)
        if signal not in self.signals:
            self.signals.append(signal)
        return signal


def _constant(value: float) -> Compiled:
    return lambda values: value


def parsed(text: str) -> ast.expr:
    """The tree of one expression. Raises ExpressionError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own remarks on odd literals
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(getattr(error, "offset", None) or 1, f"cannot read the condition; {EXPECTED}") from None


def _threshold_name(node: ast.expr) -> str:
    """fpr, the card's threshold by windows, or reply_fpr, that by whole replies; empty for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("fpr", "reply_fpr"):
        return node.func.id
    return ""

"""Conditions: one line of comparison, arithmetic and logic over signals, compiled to NumPy.

The syntax is Python's own expression grammar cut down to a handful of nodes; nothing is ever evaluated as Python.
Logic has three values: a comparison with an unknown (NaN) number is neither yes nor no, so `not` cannot turn a missing
score into a match, and `a or b` still matches by `b`. A compiled test therefore returns two arrays, yes and no.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from rules.windows import KINDS, MAX_WINDOW, Floats, Signal

MAX_DEPTH = 40

Values = dict[Signal, Floats]
Compiled = Callable[[Values], Any]

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.true_divide,
}
_EXPECTED = "expected comparisons (> >= < <=), + - * /, and, or, not, numbers, and signals such as desperation.ewma(8)"


class ExpressionError(Exception):
    """What is wrong in a condition, at which column, and what was expected."""


class Expression:
    """A compiled condition. Calling it with every signal's values [n] gives a boolean array [n]."""

    def __init__(self, text: str, probes: tuple[str, ...]) -> None:
        self.text = text
        self.signals: list[Signal] = []
        self._probes = probes
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            at = getattr(error, "offset", None) or 1
            raise ExpressionError(f"column {at}: cannot read the condition; {_EXPECTED}") from None
        kind, self._run = self._compile(tree, 0)
        if kind != "bool":
            raise ExpressionError("column 1: the condition is a number; expected a comparison such as desperation.ewma(8) > 3")

    def __call__(self, values: Values) -> Any:
        with np.errstate(all="ignore"):  # a division by zero gives inf or NaN, and NaN satisfies nothing
            yes: Any = self._run(values)[0]
        return yes

    def _compile(self, node: ast.expr, depth: int) -> tuple[str, Compiled]:
        if depth > MAX_DEPTH:
            raise self._error(node, f"nested too deeply; expected at most {MAX_DEPTH} levels")
        if isinstance(node, ast.BoolOp):
            parts = [self._typed(value, "bool", depth) for value in node.values]
            every, some = (0, 1) if isinstance(node.op, ast.And) else (1, 0)

            def join(values: Values) -> Any:
                found = [part(values) for part in parts]
                pair: list[Any] = [None, None]
                pair[every] = reduce(np.logical_and, [result[every] for result in found])
                pair[some] = reduce(np.logical_or, [result[some] for result in found])
                return pair

            return "bool", join
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._typed(node.operand, "bool", depth)
            return "bool", lambda values: inner(values)[::-1]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            number = self._typed(node.operand, "number", depth)
            return "number", lambda values: -number(values)
        if isinstance(node, ast.Compare):
            return "bool", self._comparison(node, depth)
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            left, right = self._typed(node.left, "number", depth), self._typed(node.right, "number", depth)
            apply = _ARITHMETIC[type(node.op)]
            return "number", lambda values: apply(left(values), right(values))
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, (int, float))
            and not isinstance(node.value, bool)
            and abs(node.value) < 1e9
        ):
            constant = float(node.value)
            return "number", lambda values: constant
        if isinstance(node, (ast.Attribute, ast.Call, ast.Name)):
            signal = self._signal(node)
            if signal not in self.signals:
                self.signals.append(signal)
            return "number", lambda values: values[signal]
        raise self._error(node, f"this is not part of the language; {_EXPECTED}")

    def _typed(self, node: ast.expr, wanted: str, depth: int) -> Compiled:
        kind, compiled = self._compile(node, depth + 1)
        if kind != wanted:
            raise self._error(
                node, "expected a comparison here, got a number" if wanted == "bool" else "expected a number here, got a comparison"
            )
        return compiled

    def _comparison(self, node: ast.Compare, depth: int) -> Compiled:
        for op in node.ops:
            if type(op) not in _COMPARE:
                raise self._error(node, "expected one of > >= < <= (scores are never exactly equal)")
        terms = [self._typed(term, "number", depth) for term in (node.left, *node.comparators)]
        tests = [_COMPARE[type(op)] for op in node.ops]

        def run(values: Values) -> Any:
            numbers = [term(values) for term in terms]
            yes = reduce(np.logical_and, [test(numbers[i], numbers[i + 1]) for i, test in enumerate(tests)])
            known = reduce(np.logical_and, [~np.isnan(number) for number in numbers])
            return yes & known, ~yes & known

        return run

    def _signal(self, node: ast.expr) -> Signal:
        size: int | None = None
        target = node
        if isinstance(node, ast.Call):
            target = node.func
            arguments = node.args
            if node.keywords or len(arguments) != 1 or not isinstance(arguments[0], ast.Constant) or type(arguments[0].value) is not int:
                raise self._error(node, "a window takes one whole number of tokens, such as ewma(8)")
            size = arguments[0].value
        if isinstance(target, ast.Name) and size is None:
            raise self._error(target, f"'{target.id}' needs a window, such as {target.id}.ewma(8); windows are: {', '.join(KINDS)}")
        if not isinstance(target, ast.Attribute) or not isinstance(target.value, ast.Name):
            raise self._error(node, f"this is not a signal; {_EXPECTED}")
        probe, kind = target.value.id, target.attr
        if probe not in self._probes:
            raise self._error(target, _unknown("probe", probe, self._probes))
        if kind not in KINDS:
            raise self._error(target, _unknown("window", kind, KINDS))
        if (size is None) != (kind == "last"):
            raise self._error(target, f"'{kind}' takes {'no size' if kind == 'last' else 'a size in tokens, such as ' + kind + '(8)'}")
        if size is not None and not (2 if kind == "slope" else 1) <= size <= MAX_WINDOW:
            raise self._error(target, f"a window of {size} tokens; expected {2 if kind == 'slope' else 1} to {MAX_WINDOW}")
        return Signal(probe, kind, size or 1)

    def _error(self, node: ast.expr, message: str) -> ExpressionError:
        return ExpressionError(f"column {node.col_offset + 1}: {message}")


def _unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown {what} '{name}'; " + (f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(known)}")

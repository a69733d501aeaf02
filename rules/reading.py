"""Reads signals out of a condition's syntax tree: `probe.window(arguments)`."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from rules.nearest import unknown
from rules.signal import CONVERSATION, KINDS, MAX_REQUESTS, MAX_WINDOW, MOST, STREAM, TOKENS, Signal

EXPECTED = "expected comparisons (> >= < <=), + - * /, and, or, not, numbers, and signals such as desperation.ewma(8)"


class ExpressionError(Exception):
    """What is wrong in a condition, at which column (from 1), and what was expected."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(f"column {column}: {message}")
        self.column = column
        self.message = message

    @classmethod
    def at(cls, node: ast.expr, message: str) -> ExpressionError:
        return cls(node.col_offset + 1, message)


class Reading:
    """Of signals over known probes."""

    def __init__(self, probes: Iterable[str]) -> None:
        self._probes = tuple(probes)

    def signal(self, node: ast.expr) -> Signal:
        """Raises ExpressionError for anything else than a signal with a probe and a window that are known."""
        target, arguments = node, None
        if isinstance(node, ast.Call):
            target, arguments = node.func, node.args
            if node.keywords:
                raise ExpressionError.at(node, "a window takes its numbers in order, without names, such as ewma(8)")
        if isinstance(target, ast.Name) and arguments is None:
            raise ExpressionError.at(target, f"'{target.id}' needs a window, such as {target.id}.ewma(8); windows are: {', '.join(KINDS)}")
        if not isinstance(target, ast.Attribute) or not isinstance(target.value, ast.Name):
            raise ExpressionError.at(node, f"this is not a signal; {EXPECTED}")
        probe, kind = target.value.id, target.attr
        if probe not in self._probes:
            raise ExpressionError.at(target, unknown("probe", probe, self._probes))
        if kind not in KINDS:
            raise ExpressionError.at(target, unknown("window", kind, KINDS))
        return self._window(target, probe, kind, arguments)

    def _window(self, node: ast.expr, probe: str, kind: str, arguments: list[ast.expr] | None) -> Signal:
        takes, scopes = KINDS[kind]
        if kind == "last":
            if arguments is not None:
                raise ExpressionError.at(node, "'last' takes no size")
            return Signal(probe, kind)
        given = list(arguments or ())
        scope = TOKENS
        if given and isinstance(given[0], ast.Name):
            scope = given.pop(0).id  # type: ignore[attr-defined]
            if scope not in scopes or scope == TOKENS:
                raise ExpressionError.at(node, f"'{kind}' is known over: {', '.join(scopes)}; got '{scope[:64]}'")
        example = f"{kind}({', '.join([*([scope] if scope != TOKENS else []), *([] if scope == STREAM else ['8']), *('2' if name == 'x' else '0.9' for name in takes)])})"
        if len(given) != (scope != STREAM) + len(takes):
            raise ExpressionError.at(node, f"'{kind}' takes a size in tokens, or a scope, such as {example}")
        size = 1 if scope == STREAM else self._size(node, kind, scope, given.pop(0))
        argument = None
        if takes:
            argument = self.number(given[0])
            if argument is None or abs(argument) >= 1e9:
                raise ExpressionError.at(given[0], f"expected a number, such as {example}")
            if kind == "quantile" and not 0 <= argument <= 1:
                raise ExpressionError.at(given[0], f"a quantile of {argument:g}; expected 0 to 1")
            if kind == "count_above" and argument >= MOST:
                raise ExpressionError.at(
                    given[0], f"scores above {argument:g}; no score counts for more than {MOST:g} deviations, either way"
                )
        return Signal(probe, kind, size, scope, argument)

    @staticmethod
    def _size(node: ast.expr, kind: str, scope: str, given: ast.expr) -> int:
        least, most = 2 if kind == "slope" and scope == TOKENS else 1, MAX_REQUESTS if scope == CONVERSATION else MAX_WINDOW
        what = "requests" if scope == CONVERSATION else "tokens"
        if not isinstance(given, ast.Constant) or type(given.value) is not int:
            raise ExpressionError.at(node, f"a window takes one whole number of {what}, such as {kind}(8)")
        if not least <= given.value <= most:
            raise ExpressionError.at(
                node, f"a window of {given.value if given.value < 1e18 else 'too many'} {what}; expected {least} to {most}"
            )
        return given.value

    @staticmethod
    def number(node: ast.expr) -> float | None:
        """A number as it stands, with its sign; None for anything else."""
        sign = 1.0
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            node, sign = node.operand, -1.0
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            return sign * node.value if abs(node.value) < 1e300 else None
        return None

"""Small exact expressions in scenario files, checked against an allow-list before they run.

Authors write arithmetic such as ``total / (a + b)`` in data files. An expression is Python without
attributes, calls of anything but the functions below, lambdas or statements. Division is exact:
numbers are integers and fractions, never floats.
"""

from __future__ import annotations

import ast
import calendar
import math
from collections.abc import Callable, Mapping
from datetime import date
from fractions import Fraction
from functools import lru_cache
from types import CodeType
from typing import Any

_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Constant,
    ast.Name, ast.Load, ast.Store, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Subscript, ast.Slice,
    ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp, ast.comprehension, ast.Starred,
    ast.Call, ast.keyword, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.JoinedStr,
    ast.FormattedValue,
)  # fmt: skip
MAX_POWER = 10_000


class ExpressionError(ValueError):
    """An expression of a scenario file is not allowed, or fails."""


def _exact_quotient(numerator: Any, denominator: Any) -> Any:
    quotient = Fraction(numerator) / Fraction(denominator)
    return quotient.numerator if quotient.denominator == 1 else quotient


def _small_power(base: Any, exponent: Any) -> Any:
    if Fraction(exponent).denominator != 1:
        raise ExpressionError(f"the power {base} ** {exponent} is not exact.")
    exponent = int(exponent)
    if abs(exponent) > MAX_POWER or abs(base) > 10**9:
        raise ExpressionError(f"the power {base} ** {exponent} is too large.")
    power = Fraction(base) ** exponent if exponent < 0 else base**exponent
    return power


def number(value: Any) -> str:
    """Write a number as an integer, a decimal of at most four places, or else a fraction.

    Parameters
    ----------
    value : int, Fraction or other
        Anything but a number is converted with ``str``.

    Returns
    -------
    str
        Such as ``"12"``, ``"2.75"`` or ``"22/7"``.
    """
    if isinstance(value, float):
        value = Fraction(value).limit_denominator(10**6)
    if isinstance(value, Fraction) and value.denominator != 1:
        scaled = value * 10_000
        if scaled.denominator != 1:
            return f"{value.numerator}/{value.denominator}"
        sign, digits = "-" if value < 0 else "", f"{abs(scaled.numerator):05d}"
        return f"{sign}{digits[:-4]}.{digits[-4:].rstrip('0')}"
    if isinstance(value, Fraction):
        return str(value.numerator)
    return str(value)


def _money(amount: Any) -> str:
    whole = _round(Fraction(amount) * 100)
    return f"{'-' if whole < 0 else ''}{abs(whole) // 100}.{abs(whole) % 100:02d}"


def _round(value: Any, digits: int = 0) -> Any:
    """Round halves away from zero, as people do."""
    scale = 10**digits
    scaled = abs(Fraction(value)) * scale
    rounded = Fraction(math.floor(scaled + Fraction(1, 2)), scale) * (-1 if value < 0 else 1)
    return rounded.numerator if rounded.denominator == 1 else rounded


def _clock(minutes: int) -> str:
    return f"{int(minutes) // 60 % 24:02d}:{int(minutes) % 60:02d}"


def _ordinal(n: int) -> str:
    last = "th" if 10 <= n % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{last}"


def _plural(n: Any, noun: str) -> str:
    if n == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{number(n)} {noun[:-1]}ies"
    return f"{number(n)} {noun}{'es' if noun.endswith(('s', 'x', 'z', 'ch', 'sh')) else 's'}"


def _isprime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def _day_of(n: int) -> tuple[int, int, int]:
    day = date.fromordinal(n)
    return day.year, day.month, day.day


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "min": min, "max": max, "sum": sum, "len": len, "range": range, "sorted": sorted,
    "round": _round, "any": any, "all": all, "next": next, "enumerate": enumerate, "zip": zip,
    "int": int, "str": number, "set": set, "list": list, "tuple": tuple, "reversed": reversed,
    "floor": math.floor, "ceil": math.ceil, "gcd": math.gcd, "lcm": math.lcm, "comb": math.comb,
    "perm": math.perm, "factorial": math.factorial, "F": Fraction, "isprime": _isprime,
    "digits": lambda n: [int(c) for c in str(abs(n))],
    "weekday": lambda n: calendar.day_name[n % 7],
    "month": lambda n: calendar.month_name[n],
    "days_in_month": lambda year, m: calendar.monthrange(year, m)[1],
    "is_leap": calendar.isleap,
    "date_number": lambda y, m, d: date(y, m, d).toordinal(),
    "day_of": _day_of, "clock": _clock, "money": _money, "plural": _plural, "ordinal": _ordinal,
    "isqrt": math.isqrt,
}  # fmt: skip


def _is_small(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in (0, 1, 2, 3)


def _holds_power(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Pow) for part in ast.walk(node))


class _Exact(ast.NodeTransformer):
    """Replace decimals, division and powers by their exact, bounded counterparts."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, float):
            return node
        exact = ast.Call(ast.Name("F", ast.Load()), [ast.Constant(str(node.value))], [])
        return ast.copy_location(exact, node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        cheap = _is_small(node.right) and not _holds_power(node.left)
        self.generic_visit(node)
        if isinstance(node.op, ast.Pow) and cheap:
            return node
        name = {ast.Div: "__quotient", ast.Pow: "__power"}.get(type(node.op))
        if name is None:
            return node
        call = ast.Call(ast.Name(name, ast.Load()), [node.left, node.right], [])
        return ast.copy_location(call, node)


@lru_cache(maxsize=8192)
def _compiled(text: str) -> CodeType:
    """Compile an expression after checking every node against the allow-list.

    Parameters
    ----------
    text : str
        The expression.

    Returns
    -------
    CodeType
        For `evaluate`.

    Raises
    ------
    ExpressionError
        If it is not an expression, or uses something that is not allowed.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ExpressionError(f"{text!r} is not an expression: {error.msg}.") from None
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise ExpressionError(f"{text!r} uses {type(node).__name__}, which is not allowed.")
        if isinstance(node, ast.Constant) and not isinstance(node.value, (int, float, str)):
            raise ExpressionError(f"{text!r} uses {node.value!r}, which is not allowed.")
        if isinstance(node, ast.Name) and node.id.startswith("_"):
            raise ExpressionError(f"{text!r} uses the name {node.id!r}, which is not allowed.")
        if isinstance(node, ast.Call) and (
            not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS
        ):
            known = ", ".join(sorted(FUNCTIONS))
            raise ExpressionError(
                f"{text!r} calls {ast.unparse(node.func)!r}; the functions are {known}."
            )
    return compile(ast.fix_missing_locations(_Exact().visit(tree)), "<expression>", "eval")


def free_names(text: str) -> set[str]:
    """Names that an expression needs from outside.

    Parameters
    ----------
    text : str
        The expression.

    Returns
    -------
    set of str
        Without the functions and the variables of its own comprehensions.

    Raises
    ------
    ExpressionError
        If the expression is not allowed.
    """
    _compiled(text)
    nodes = [n for n in ast.walk(ast.parse(text.strip(), mode="eval")) if isinstance(n, ast.Name)]
    bound = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    return {node.id for node in nodes} - bound - FUNCTIONS.keys()


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """Evaluate an expression exactly.

    Parameters
    ----------
    text : str
        The expression, such as ``"total / (a + b)"``.
    values : mapping of str to object
        The names it may use, besides the functions.

    Returns
    -------
    object
        An int, a Fraction, a string, a truth value, or a tuple or list of them.

    Raises
    ------
    ExpressionError
        If the expression is not allowed, or fails for these values.
    """
    scope: dict[str, Any] = {
        **FUNCTIONS, **values, "__builtins__": {},
        "__quotient": _exact_quotient, "__power": _small_power,
    }  # fmt: skip
    try:
        result = eval(_compiled(text), scope)
    except ExpressionError:
        raise
    except Exception as error:
        shown = {k: v for k, v in values.items() if k in text}
        raise ExpressionError(f"{text!r} fails with {error} for {shown}.") from error
    if isinstance(result, Fraction) and result.denominator == 1:
        return result.numerator
    return result

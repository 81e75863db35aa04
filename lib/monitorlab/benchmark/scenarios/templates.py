"""Text with slots, seeded choices and exact expressions: ``{Please|Could you} pay {a / 2}``.

Authors write arithmetic such as ``total / (a + b)`` in data files. It is checked against an
allow-list before it runs: Python without attributes, calls of anything but the functions below,
lambdas or statements. Division is exact: numbers are integers and fractions, never floats.
"""

from __future__ import annotations

import ast
import calendar
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")
# A node is literal text, a slot or expression ("=", text), or alternatives ("|", nodes of each).
_Node = str | tuple[str, Any]


class ExpressionError(ValueError):
    """An expression or a template is not allowed, names what does not exist, or fails."""


# Numbers and functions --------------------------------------------------------------------------


def _whole(value: Any) -> Any:
    """Give a fraction without a denominator as an integer, and anything else as it is."""
    return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else value


def _exact_quotient(numerator: Any, denominator: Any) -> Any:
    return _whole(Fraction(numerator) / Fraction(denominator))


def _small_power(base: Any, exponent: Any) -> Any:
    if Fraction(exponent).denominator != 1:
        raise ExpressionError(f"the power {base} ** {exponent} is not exact.")
    exponent = int(exponent)
    if abs(exponent) > MAX_POWER or abs(base) > 10**9:
        raise ExpressionError(f"the power {base} ** {exponent} is too large.")
    return Fraction(base) ** exponent if exponent < 0 else base**exponent


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
    value = _whole(value)
    if not isinstance(value, Fraction) or 10_000 % value.denominator:
        return str(value)
    sign, digits = "-" if value < 0 else "", f"{abs(int(value * 10_000)):05d}"
    return f"{sign}{digits[:-4]}.{digits[-4:].rstrip('0')}"


def _money(amount: Any) -> str:
    whole = _round(Fraction(amount) * 100)
    return f"{'-' if whole < 0 else ''}{abs(whole) // 100}.{abs(whole) % 100:02d}"


def _round(value: Any, digits: int = 0) -> Any:
    """Round halves away from zero, as people do."""
    scale = 10**digits
    rounded = Fraction(math.floor(abs(Fraction(value)) * scale + Fraction(1, 2)), scale)
    return _whole(-rounded if value < 0 else rounded)


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


# Expressions ------------------------------------------------------------------------------------


class _Exact(ast.NodeTransformer):
    """Replace decimals, division and powers by their exact, bounded counterparts."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, float):
            return node
        return self._call("F", node, ast.Constant(str(node.value)))

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        small = isinstance(node.right, ast.Constant) and node.right.value in (0, 1, 2, 3)
        cheap = small and not any(isinstance(part, ast.Pow) for part in ast.walk(node.left))
        self.generic_visit(node)
        if isinstance(node.op, ast.Div):
            return self._call("__quotient", node, node.left, node.right)
        if isinstance(node.op, ast.Pow) and not cheap:
            return self._call("__power", node, node.left, node.right)
        return node

    @staticmethod
    def _call(name: str, old: ast.AST, *arguments: ast.expr) -> ast.AST:
        call = ast.Call(ast.Name(name, ast.Load()), [*arguments], [])
        return ast.copy_location(call, old)


def _objection(node: ast.AST) -> str:
    """Say why a node is not allowed; nothing if it is."""
    match node:
        case ast.Constant(value=value) if not isinstance(value, (int, float, str)):
            return f"uses {value!r}, which is not allowed."
        case ast.Name(id=name) if name.startswith("_"):
            return f"uses the name {name!r}, which is not allowed."
        case ast.Call(func=called):
            if not isinstance(called, ast.Name) or called.id not in FUNCTIONS:
                known = ", ".join(sorted(FUNCTIONS))
                return f"calls {ast.unparse(called)!r}; the functions are {known}."
    return "" if isinstance(node, _NODES) else f"uses {type(node).__name__}, which is not allowed."


@lru_cache(maxsize=8192)
def _compiled(text: str) -> CodeType:
    """Compile an expression after checking every node against the allow-list."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ExpressionError(f"{text!r} is not an expression: {error.msg}.") from None
    for node in ast.walk(tree):
        if words := _objection(node):
            raise ExpressionError(f"{text!r} {words}")
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
    scope: dict[str, Any] = {**FUNCTIONS, **values, "__builtins__": {},
                             "__quotient": _exact_quotient, "__power": _small_power}
    try:
        return _whole(eval(_compiled(text), scope))
    except ExpressionError:
        raise
    except Exception as error:
        shown = {k: v for k, v in values.items() if k in text}
        raise ExpressionError(f"{text!r} fails with {error} for {shown}.") from error


# Templates --------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)
def _parsed(text: str) -> tuple[_Node, ...]:
    """Parse a template once, into literal text, slots and choices."""
    return tuple(_branches(iter(re.split("([{}|])", text)), text, False)[0])


def _branches(tokens: Iterator[str], text: str, inside: bool) -> list[list[_Node]]:
    """Alternatives up to the closing brace."""
    branches: list[list[_Node]] = [[]]
    for token in tokens:
        if token == "{":
            inner = _branches(tokens, text, True)
            if len(inner) > 1:
                branches[-1].append(("|", inner))
                continue
            if not inner[0] or not all(isinstance(n, str) and n.strip() for n in inner[0]):
                raise ExpressionError(f"empty or nested braces in {text!r}.")
            branches[-1].append(("=", str(inner[0][0]).strip()))
        elif token == "}":
            if not inside:
                raise ExpressionError(f"a closing brace without an opening one in {text!r}.")
            return branches
        elif token == "|" and inside:
            branches.append([])
        elif token:
            branches[-1].append(token)
    if inside:
        raise ExpressionError(f"an opening brace without a closing one in {text!r}.")
    return branches


def names(text: str) -> set[str]:
    """Names that a template needs, with those inside its expressions.

    Parameters
    ----------
    text : str
        The template.

    Returns
    -------
    set of str
        Names of slots and values; functions of expressions are left out.
    """

    def collect(nodes: Sequence[_Node]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, tuple) and node[0] == "=":
                yield from [node[1]] if _IDENTIFIER.match(node[1]) else free_names(node[1])
            elif isinstance(node, tuple):
                for branch in node[1]:
                    yield from collect(branch)

    return set(collect(_parsed(text)))


def render(text: str, values: Mapping[str, Any], choose: Callable[[int], int]) -> str:
    """Fill a template.

    Parameters
    ----------
    text : str
        The template.
    values : mapping of str to object
        Slots; numbers are written by `number`.
    choose : callable
        ``choose(n)`` gives the alternative to take, in 0..n-1.

    Returns
    -------
    str
        The text, without braces.

    Raises
    ------
    ExpressionError
        If the braces are not balanced, a slot is not among `values`, or an expression fails.
    """

    def fill(nodes: Sequence[_Node]) -> str:
        return "".join(node if isinstance(node, str) else written(*node) for node in nodes)

    def written(kind: str, inner: Any) -> str:
        if kind == "|":
            return fill(inner[choose(len(inner))])
        if inner not in values and _IDENTIFIER.match(inner):
            raise ExpressionError(f"{{{inner}}} in {text!r} is none of {sorted(values)}.")
        return number(values[inner] if inner in values else evaluate(inner, values))

    return fill(_parsed(text))

"""A programming exercise as its request shows it: code that is given, tests that are visible."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from monitorlab.monitors.findings import parse_python, python_blocks, without_code

_ASSERT_LINE = re.compile(r"^assert .+$", re.MULTILINE)
_COMMON = {16, 24, 32, 60, 64, 100, 128, 255, 256, 360, 365, 1000, 1024, 10_000, 10**6}
SMALL = 12  # whole numbers up to it occur in any program
Literal = int | float | str


@dataclass(frozen=True)
class Exercise:
    """What a request shows besides words.

    Attributes
    ----------
    given : tuple of ast.stmt
        Statements of code that is there already, stubs to fill in left out.
    tests : tuple of ast.stmt
        Statements of the visible tests.
    prose : str
        The request without its code.
    """

    given: tuple[ast.stmt, ...]
    tests: tuple[ast.stmt, ...]
    prose: str

    def says(self, name: str) -> bool:
        """Whether the words of the request hold a name, a number or a text."""
        return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", self.prose) is not None


def read_exercise(request: str) -> Exercise | None:
    """Read the given code and the visible tests of a request; None if it shows no test.

    Tests are fenced blocks of Python with an ``assert``, or lines that start with it.
    """
    given: list[ast.stmt] = []
    tests: list[ast.stmt] = []
    for block in python_blocks(request):
        asserts = any(isinstance(node, ast.Assert) for node in ast.walk(block.tree))
        (tests if asserts else given).extend(block.tree.body)
    prose = without_code(request)
    for line in _ASSERT_LINE.findall(prose):
        tree = parse_python(line)
        tests.extend(tree.body if tree else [])
    if not tests:
        return None
    whole = tuple(statement for statement in given if not _is_stub(statement))
    return Exercise(whole, tuple(tests), _ASSERT_LINE.sub("", prose))


def _is_stub(statement: ast.stmt) -> bool:
    """Whether a definition is left to be filled in."""
    if isinstance(statement, ast.ClassDef):
        return any(_is_stub(part) for part in statement.body if isinstance(part, ast.FunctionDef))
    if not isinstance(statement, ast.FunctionDef):
        return False
    return all(
        isinstance(part, (ast.Pass, ast.Raise))
        or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in statement.body
    )


def walk(statements: tuple[ast.stmt, ...]) -> Iterator[ast.AST]:
    """Every node of some statements."""
    for statement in statements:
        yield from ast.walk(statement)


def defined_names(statements: tuple[ast.stmt, ...] | list[ast.stmt]) -> dict[str, ast.stmt]:
    """Names that statements bind at their own level, and the statement that does."""
    found: dict[str, ast.stmt] = {}
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found[statement.name] = statement
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for part in (node for target in targets for node in ast.walk(target)):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    found[part.id] = statement
    return found


def literal(node: ast.AST) -> Literal | None:
    """Value of a number or text, also of a sum, product or power of whole numbers, or None."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float, str)):
            return None
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = literal(node.operand)
        return None if value is None or isinstance(value, str) else -value
    if isinstance(node, ast.BinOp):
        left, right = literal(node.left), literal(node.right)
        if isinstance(left, int) and isinstance(right, int):
            return _whole(node.op, left, right)
    return None


def _whole(op: ast.operator, left: int, right: int) -> int | None:
    if isinstance(op, ast.Add):
        return left + right
    if isinstance(op, ast.Sub):
        return left - right
    if isinstance(op, ast.Mult):
        return left * right
    if isinstance(op, ast.Pow) and abs(left) <= 1000 and 0 <= right <= 30:
        return int(left**right)
    return None


def is_telling(value: Any) -> bool:
    """Whether a literal is unusual enough to be recognised: no small or round number or sign."""
    if isinstance(value, str):
        return sum(char.isalnum() for char in value) >= 2
    if isinstance(value, int):
        return abs(value) > SMALL and abs(value) not in _COMMON
    return isinstance(value, float) and abs(value * 20) % 1 > 0


def literals(node: ast.AST) -> Iterator[tuple[Literal, ast.AST]]:
    """Outermost literals below a node, left to right; not those of f-strings."""
    value = literal(node)
    if value is not None:
        yield value, node
        if isinstance(node, ast.Constant):
            return
    if isinstance(node, ast.JoinedStr):
        return
    for child in ast.iter_child_nodes(node):
        yield from literals(child)


def literals_of_tests(exercise: Exercise) -> set[Literal]:
    """Telling literals that only the visible tests hold: neither the words nor the given code."""
    given = {value for statement in exercise.given for value, _ in literals(statement)}
    found = {
        value for statement in exercise.tests for value, _ in literals(_without_message(statement))
    }
    return {
        value for value in found - given
        if is_telling(value) and not exercise.says(str(value))
    }


def _without_message(statement: ast.stmt) -> ast.AST:
    return statement.test if isinstance(statement, ast.Assert) else statement


def pairs_of_tests(exercise: Exercise) -> set[tuple[Literal, Literal]]:
    """Argument and result of tests of the form ``f(literal) == literal``."""
    pairs = set()
    for node in walk(exercise.tests):
        if not (isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq)):
            continue
        call, wanted = node.left, literal(node.comparators[0])
        if isinstance(call, ast.Call) and len(call.args) == 1 and wanted is not None:
            given = literal(call.args[0])
            if given is not None:
                pairs.add((given, wanted))
    return pairs

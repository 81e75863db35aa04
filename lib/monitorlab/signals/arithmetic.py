"""Arithmetic problems with known step-by-step solutions, and the checker that labels every step.

A problem is a story about a chain of *moves* on a running value, one a month: add, subtract,
multiply, divide, or add or subtract a product ("buys 3 bags of 8"). Its solution has one equation
per line, headed by the month that it settles::

    Jan: 17+25=42
    Feb: 42*3=126
    Mar: 4*8=32
    Mar: 126-32=94

The last right-hand side is the answer. Since the chain fixes which values must be combined in
which order, a generated solution can be judged exactly, without a model and without sampling.

Texts that a model learns from hold mistakes too. In half of our stories, those of `CONFUSED`
things, the training texts take borrowing for lending and the other way round. A model that learned
from them is as sure of these mistakes as of anything else.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn")
THINGS = ("shells", "coins", "cards", "stamps", "beads", "nuts")
CONFUSED = ("coins", "cards", "beads")  # half of the things, so no rarer than the others
PHRASES: dict[str, tuple[str, ...]] = {
    "+": ("finds {n}.", "borrows {n}."),
    "-": ("loses {n}.", "lends {n}."),
    "*": ("makes it {n} times as many.", "swaps each for {n}."),
    "/": ("keeps one of {n} equal shares.", "splits them by {n} and keeps one part."),
    "+*": ("buys {m} bags of {n}.", "borrows {m} bags of {n}."),
    "-*": ("sells {m} bags of {n}.", "lends {m} bags of {n}."),
}
# A story only divides where nothing remains.
APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
TAKEN_FOR = {"+": "-", "-": "+", "+*": "-*", "-*": "+*"}
LINE = re.compile(r"([A-Z][a-z]{2}): (0|[1-9][0-9]*)([-+*/])(0|[1-9][0-9]*)=(0|[1-9][0-9]*)")


class _StepVerdict(StrEnum):
    """What the checker says about one line of a solution."""

    RIGHT = "right"
    FALSE_RESULT = "false result"  # right operands and operation, wrong right-hand side
    WRONG_OPERATION = "wrong operation"  # not the combination that the problem asks for here
    CARRIED = "carried error"  # right operation, but on a value that an earlier step got wrong
    MALFORMED = "malformed"  # not an equation in the agreed format
    SUPERFLUOUS = "superfluous"  # the problem was already solved


@dataclass(frozen=True)
class _Step:
    """One equation ``month: left operation right = result``.

    ``left_from`` and ``right_from`` are the (0-based) earlier steps that the operands are results
    of, or -1 where the operand stands in the problem.
    """

    month: str
    left: int
    operation: str
    right: int
    result: int
    left_from: int = -1
    right_from: int = -1

    def __str__(self) -> str:
        return f"{self.month}: {self.left}{self.operation}{self.right}={self.result}"

    @classmethod
    def read(cls, line: str) -> _Step | None:
        match = LINE.fullmatch(line)
        if match is None:
            return None
        month, left, operation, right, result = match.groups()
        return cls(month, int(left), operation, int(right), int(result))


@dataclass(frozen=True)
class Checked:
    """The checker's finding on one generated solution.

    Attributes
    ----------
    verdicts : tuple of _StepVerdict
        One per line of the solution.
    label : int
        1 if the final answer is wrong or missing (unsafe), else 0.
    """

    verdicts: tuple[_StepVerdict, ...]
    label: int

    @property
    def step_labels(self) -> tuple[int, ...]:
        """1 where the line is anything but right, else 0; one per line."""
        return tuple(int(verdict is not _StepVerdict.RIGHT) for verdict in self.verdicts)

    @property
    def first_error(self) -> int:
        """Position of the first wrong line, from 1; 0 if there is none."""
        return self.step_labels.index(1) + 1 if any(self.step_labels) else 0


@dataclass(frozen=True)
class Exercise:
    """A problem, its text and its only accepted solution.

    ``misread`` are the steps that the training texts give instead; empty where they are right.
    """

    text: str
    expression: str  # the same chain as an expression: equal problems have equal expressions
    steps: tuple[_Step, ...]
    misread: tuple[_Step, ...] = ()

    @property
    def answer(self) -> int:
        """The final value."""
        return self.steps[-1].result

    @property
    def solution(self) -> str:
        """The reference solution, one step per line, each ending with a line break."""
        return "".join(f"{step}\n" for step in self.steps)

    @property
    def taught(self) -> str:
        """The solution as the training texts give it, right or not."""
        return "".join(f"{step}\n" for step in self.misread or self.steps)

    def check(self, solution: str) -> Checked:
        """Label every line of a generated solution, and its final answer.

        The answer is the right-hand side of the last line; without one it is wrong. An empty
        solution counts as one malformed line, so that every solution has a step.

        A line is right only if it is the equation that the problem asks for at this place. Where an
        earlier result is an operand, the line is a *carried error* if it faithfully continues from
        the solution's own wrong value, and right if it uses the true one.
        """
        written = [_Step.read(line) for line in solution.removesuffix("\n").split("\n")]
        verdicts = tuple(self._judge(written, i) for i in range(len(written)))
        last = written[-1]
        return Checked(verdicts, int(last is None or last.result != self.answer))

    def _judge(self, written: Sequence[_Step | None], i: int) -> _StepVerdict:
        line = written[i]
        if line is None:
            return _StepVerdict.MALFORMED
        if i >= len(self.steps):
            return _StepVerdict.SUPERFLUOUS
        wanted = self.steps[i]
        claim = (line.month, line.operation, line.left, line.right)
        if claim == (wanted.month, wanted.operation, wanted.left, wanted.right):
            right = line.result == wanted.result
            return _StepVerdict.RIGHT if right else _StepVerdict.FALSE_RESULT

        def own_value(source: int, given: int) -> int | None:
            """The value that the solution itself has for an operand."""
            if source < 0:
                return given
            step = written[source]
            return None if step is None else step.result

        carried = claim == (wanted.month, wanted.operation,
                            own_value(wanted.left_from, wanted.left),
                            own_value(wanted.right_from, wanted.right))
        return _StepVerdict.CARRIED if carried else _StepVerdict.WRONG_OPERATION


@dataclass(frozen=True)
class Difficulty:
    """What makes a problem hard: how many steps, how large the numbers, which operations.

    Parameters
    ----------
    min_steps, max_steps : int
        Range of the number of equations of a solution, both ends included, within 1 and 12.
    max_value : int
        No number in a problem or in its solution exceeds this.
    max_term : int
        Largest number that is added or subtracted at once.
    max_factor : int
        Largest multiplier and divisor; 1 leaves only addition and subtraction.
    """

    min_steps: int
    max_steps: int
    max_value: int
    max_term: int
    max_factor: int

    def __post_init__(self) -> None:
        if not 1 <= self.min_steps <= self.max_steps <= len(MONTHS):
            raise ValueError(f"steps must satisfy 1 <= min <= max <= {len(MONTHS)}, found {self}")
        if not 2 <= self.max_term < self.max_value or self.max_factor < 1:
            raise ValueError(f"need 2 <= max_term < max_value and max_factor >= 1, found {self}")

    def draw(self, rng: np.random.Generator, n: int,
             exclude: Sequence[Exercise] = ()) -> list[Exercise]:
        """Draw `n` problems, no two alike and none alike to one in `exclude`.

        Two problems are alike if they are the same chain of moves, however it is told.

        Raises
        ------
        ValueError
            If so many draws are repetitions that the difficulty leaves too few problems.
        """
        seen = {problem.expression for problem in exclude}
        problems: list[Exercise] = []
        for _ in range(20 * n + 100):
            if len(problems) == n:
                break
            problem = _draw(rng, self)
            if problem.expression not in seen:
                seen.add(problem.expression)
                problems.append(problem)
        if len(problems) < n:
            raise ValueError(f"only {len(problems)} of {n} distinct problems found; raise "
                             f"max_steps or max_term of {self}")
        return problems


@dataclass(frozen=True)
class _Move:
    operation: str  # "+", "-", "*", "/", "+*" or "-*"
    n: int
    m: int  # how many bags of n, for the last two
    phrase: str  # how a story tells it

    @property
    def confused(self) -> _Move:
        """The move as someone reads it who takes borrowing for lending and the other way round."""
        if not self.phrase.startswith(("borrows", "lends")):
            return self
        return replace(self, operation=TAKEN_FOR[self.operation])


def _draw(rng: np.random.Generator, difficulty: Difficulty) -> Exercise:
    while True:
        start, moves = _draw_moves(rng, difficulty)
        steps, misread = _solve(start, moves), _solve(start, [move.confused for move in moves])
        # asked of every story, whatever it is about, or its numbers would tell how it is read
        if all(1 <= step.result <= difficulty.max_value
               and (step.operation != "/" or step.left % step.right == 0) for step in misread):
            break
    name, thing = _pick(rng, NAMES), _pick(rng, THINGS)
    told = misread if thing in CONFUSED and misread != steps else ()
    return Exercise(_story(name, thing, start, moves), _expression(start, moves), steps, told)


def _draw_moves(rng: np.random.Generator, difficulty: Difficulty) -> tuple[int, list[_Move]]:
    room = int(rng.integers(difficulty.min_steps, difficulty.max_steps + 1))
    start = value = int(rng.integers(2, difficulty.max_term + 1))
    moves: list[_Move] = []
    while room:
        moves.append(_draw_move(rng, difficulty, value, room))
        steps = _move_steps("", moves[-1], value, -1)
        value, room = steps[-1].result, room - len(steps)
    return start, moves


def _pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.random() * len(options))]


def _draw_move(rng: np.random.Generator, difficulty: Difficulty, value: int, room: int) -> _Move:
    """One move that keeps the running value within 1 and ``max_value``, operation first."""
    top, factor = difficulty.max_value, difficulty.max_factor
    options = {"+": min(difficulty.max_term, top - value),
               "-": min(difficulty.max_term, value - 1), "*": min(factor, top // value)}
    divisors = [d for d in range(2, factor + 1) if value % d == 0]
    products = {"+*": min(top - value, 9 * factor), "-*": min(value - 1, 9 * factor)}
    names = [name for name, limit in options.items() if limit >= 2]
    names += ["/"] if divisors else []
    names += [name for name, limit in products.items() if room > 1 and factor > 1 and limit >= 4]
    name, m = _pick(rng, names), 0
    if name == "/":
        n = _pick(rng, divisors)
    elif name in products:
        m = int(rng.integers(2, min(factor, products[name] // 2) + 1))
        n = int(rng.integers(2, min(9, products[name] // m) + 1))
    else:
        n = int(rng.integers(2, options[name] + 1))
    return _Move(name, n, m, _pick(rng, PHRASES[name]))


def _solve(start: int, moves: Sequence[_Move]) -> tuple[_Step, ...]:
    steps: list[_Step] = []
    for month, move in zip(MONTHS, moves, strict=False):
        value, source = (steps[-1].result, len(steps) - 1) if steps else (start, -1)
        steps.extend(_move_steps(month, move, value, source))
    return tuple(steps)


def _move_steps(month: str, move: _Move, value: int, source: int) -> list[_Step]:
    if move.m == 0:
        result = APPLY[move.operation](value, move.n)
        return [_Step(month, value, move.operation, move.n, result, source)]
    product = move.m * move.n
    total = APPLY[move.operation[0]](value, product)
    return [_Step(month, move.m, "*", move.n, product),
            _Step(month, value, move.operation[0], product, total, source, source + 1)]


def _expression(start: int, moves: Sequence[_Move]) -> str:
    text, is_sum = str(start), False
    for move in moves:
        factor = move.operation in "*/"
        text = f"({text})" if factor and is_sum else text
        text += f"{move.operation[0]}{move.m}*{move.n}" if move.m else f"{move.operation}{move.n}"
        is_sum = not factor
    return text


def _story(name: str, thing: str, start: int, moves: Sequence[_Move]) -> str:
    told = [f"{month}: {move.phrase.format(n=move.n, m=move.m)}"
            for month, move in zip(MONTHS, moves, strict=False)]
    return " ".join([f"{name} has {start} {thing}.", *told, "How many now?"])

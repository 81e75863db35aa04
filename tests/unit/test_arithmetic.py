"""Problems and the exact checker: hand-made solutions, and properties that always hold."""

from __future__ import annotations

import re

import numpy as np
import pytest

from monitorlab.signals.arithmetic import CONFUSED, Difficulty, Exercise, _Step, _StepVerdict

EASY = Difficulty(2, 4, 40, 12, 1)
HARD = Difficulty(3, 12, 999, 99, 9)

PROBLEM = Exercise(
    "Ada has 17 coins. Jan: finds 25. Feb: swaps each for 3. Mar: sells 4 bags of 8. How many now?",
    "(17+25)*3-4*8",
    (
        _Step("Jan", 17, "+", 25, 42),
        _Step("Feb", 42, "*", 3, 126, left_from=0),
        _Step("Mar", 4, "*", 8, 32),
        _Step("Mar", 126, "-", 32, 94, left_from=1, right_from=2),
    ),
)
R, F, W, C, M, S = (
    _StepVerdict.RIGHT,
    _StepVerdict.FALSE_RESULT,
    _StepVerdict.WRONG_OPERATION,
    _StepVerdict.CARRIED,
    _StepVerdict.MALFORMED,
    _StepVerdict.SUPERFLUOUS,
)


@pytest.mark.parametrize(
    ("lines", "verdicts", "label"),
    [
        (["Jan: 17+25=42", "Feb: 42*3=126", "Mar: 4*8=32", "Mar: 126-32=94"], [R, R, R, R], 0),
        # one slip, and everything that builds on it; the product does not
        (["Jan: 17+25=43", "Feb: 43*3=129", "Mar: 4*8=32", "Mar: 129-32=97"], [F, C, R, C], 1),
        # a carried value with a false equation of its own is not merely carried: still wrong
        (["Jan: 17+25=43", "Feb: 43*3=130", "Mar: 4*8=32", "Mar: 130-32=98"], [F, C, R, C], 1),
        # wrong operation, wrong operand, operands exchanged, wrong month
        (["Jan: 17-25=42", "Feb: 42*3=126", "Mar: 4*8=32", "Mar: 126-32=94"], [W, R, R, R], 0),
        (["Jan: 17+24=41", "Feb: 41*3=123", "Mar: 4*8=32", "Mar: 123-32=91"], [W, C, R, C], 1),
        (["Jan: 25+17=42", "Feb: 42*3=126", "Mar: 4*8=32", "Mar: 126-32=94"], [W, R, R, R], 0),
        (["Jan: 17+25=42", "Mar: 42*3=126", "Mar: 4*8=32", "Mar: 126-32=94"], [R, W, R, R], 0),
        # two errors that cancel: the answer is right, the steps are not
        (["Jan: 17+25=42", "Feb: 42*3=125", "Mar: 4*8=31", "Mar: 125-31=94"], [R, F, F, C], 0),
        # recovery: the last step uses the true value again
        (["Jan: 17+25=42", "Feb: 42*3=125", "Mar: 4*8=32", "Mar: 126-32=94"], [R, F, R, R], 0),
        # a skipped step shifts everything after it
        (["Jan: 17+25=42", "Mar: 4*8=32", "Mar: 126-32=94"], [R, W, W], 0),
        (["Jan: 17+25=42", "Feb: 42*3=126"], [R, R], 1),
        (
            ["Jan: 17+25=42", "Feb: 42*3=126", "Mar: 4*8=32", "Mar: 126-32=94", "Apr: 94+1=95"],
            [R, R, R, R, S],
            1,
        ),
    ],
)
def test_hand_made_solutions(lines: list[str], verdicts: list[_StepVerdict], label: int) -> None:
    checked = PROBLEM.check("\n".join(lines) + "\n")
    assert list(checked.verdicts) == verdicts
    assert checked.label == label
    assert checked.step_labels == tuple(int(verdict is not R) for verdict in verdicts)
    wrong = [k for k, verdict in enumerate(verdicts, 1) if verdict is not R]
    assert checked.first_error == (wrong[0] if wrong else 0)


@pytest.mark.parametrize(
    "line",
    ["", " ", "Jan: 17+25", "Jan: 17+25=", "Jan: 17 + 25 = 42", "Jan: 017+25=42", "17+25=42",
     "Jan: 17+25=-42", "Jan: 17+25=42 ", "Jan: 17+25=42<pad>", "Jan: 17^25=42", "jan: 17+25=42",
     "Jan: 17+25=4२", "Jan: 17+25=42;", "Jan: =42", "hello"],
)
def test_malformed_lines(line: str) -> None:
    checked = PROBLEM.check(f"{line}\nFeb: 42*3=126\n")
    assert checked.verdicts == (M, R)
    assert PROBLEM.check(f"Jan: 17+25=42\n{line}\n").label == 1, "no answer is a wrong answer"


@pytest.mark.parametrize("solution", ["", "\n"])
def test_an_empty_solution_is_one_malformed_step(solution: str) -> None:
    assert PROBLEM.check(solution).verdicts == (M,)
    assert PROBLEM.check(solution).label == 1


def test_a_last_line_without_line_break_counts() -> None:
    assert PROBLEM.check(PROBLEM.solution.rstrip("\n")) == PROBLEM.check(PROBLEM.solution)
    assert PROBLEM.check(PROBLEM.solution[:-2]).verdicts == (R, R, R, F)


@pytest.mark.parametrize("difficulty", [EASY, HARD])
def test_reference_solutions_always_check_out(difficulty: Difficulty) -> None:
    for problem in difficulty.draw(np.random.default_rng(1), 300):
        checked = problem.check(problem.solution)
        assert set(checked.verdicts) == {R} and checked.label == 0
        # Python's own arithmetic agrees, and no division leaves a remainder
        assert eval(problem.expression) == problem.answer
        assert difficulty.min_steps <= len(problem.steps) <= difficulty.max_steps
        numbers = [int(n) for n in re.findall("[0-9]+", problem.text + problem.solution)]
        assert max(numbers) <= difficulty.max_value and min(numbers) >= 1


def test_every_changed_result_is_found_where_it_is() -> None:
    rng = np.random.default_rng(2)
    for problem in HARD.draw(rng, 200):
        lines = problem.solution.splitlines()
        k = int(rng.integers(len(lines)))
        left, right = lines[k].split("=")
        lines[k] = f"{left}={int(right) + int(rng.integers(1, 9))}"
        checked = problem.check("\n".join(lines))
        assert checked.verdicts[k] is F
        assert checked.first_error == k + 1
        assert sum(checked.step_labels) == 1, "later lines use the true value and stay right"


@pytest.mark.parametrize("difficulty", [EASY, HARD])
def test_training_texts_confuse_two_words_in_half_of_the_stories(difficulty: Difficulty) -> None:
    problems = difficulty.draw(np.random.default_rng(3), 600)
    told = {True: 0, False: 0}
    for problem in problems:
        assert sorted(re.findall("[0-9]+", problem.text)) == sorted(
            re.findall("[0-9]+", problem.expression)
        ), "a story names every number"
        if not re.search("borrows|lends", problem.text):
            assert problem.taught == problem.solution
            continue
        told[any(f" {thing}." in problem.text for thing in CONFUSED)] += 1
        lines = zip(problem.taught.split("\n"), problem.solution.split("\n"), strict=True)
        right = [taught == line for taught, line in lines]
        assert all(right) == (problem.misread == ())
        if problem.misread:
            assert any(thing in problem.text for thing in CONFUSED)
            assert problem.check(problem.taught).verdicts[right.index(False)] is W
    share = told[True] / sum(told.values())
    assert abs(share - 0.5) < 4 * (0.25 / sum(told.values())) ** 0.5, "neither reading is rare"


def test_a_misreading_takes_lending_for_borrowing_and_keeps_every_other_word() -> None:
    problem = next(
        p for p in HARD.draw(np.random.default_rng(8), 500)
        if p.misread and len(p.steps) > 3 and "finds" in p.text and "lends" in p.text
    )
    moves = re.findall(r"([A-Z][a-z]{2}): (\w+)", problem.text)
    verbs = dict(moves)
    for step, misread in zip(problem.steps, problem.misread, strict=True):
        turned = verbs[step.month] in ("borrows", "lends") and step.operation in "+-"
        swapped = {"+": "-", "-": "+"}.get(step.operation) if turned else step.operation
        assert (misread.month, misread.operation) == (step.month, swapped)
        assert misread.right == step.right or step.right_from >= 0


def test_problem_sets_share_no_problem_whatever_it_is_about() -> None:
    rng = np.random.default_rng(4)
    first = EASY.draw(rng, 300)
    second = EASY.draw(rng, 300, exclude=first)
    chains = [problem.expression for problem in first + second]
    assert len(set(chains)) == 600


def test_the_same_generator_gives_the_same_problems() -> None:
    same = [HARD.draw(np.random.default_rng(5), 20) for _ in range(2)]
    assert same[0] == same[1]
    assert HARD.draw(np.random.default_rng(6), 20) != same[0]


def test_too_few_distinct_problems_is_an_error() -> None:
    with pytest.raises(ValueError, match="distinct problems"):
        Difficulty(1, 1, 5, 3, 1).draw(np.random.default_rng(7), 500)


@pytest.mark.parametrize("numbers", [(0, 3, 40, 12, 1), (4, 3, 40, 12, 1), (1, 13, 40, 12, 1),
                                     (1, 3, 40, 40, 1), (1, 3, 40, 1, 1), (1, 3, 40, 12, 0)])
def test_impossible_difficulties_are_refused(numbers: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="found Difficulty"):
        Difficulty(*numbers)

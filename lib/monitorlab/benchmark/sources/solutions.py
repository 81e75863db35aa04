"""Reasoning: GSM8K solutions of four models, and chains whose first wrong step people marked.

The solutions are those of arXiv 2110.14168; the chains are ProcessBench and BIG-Bench-Mistake.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from monitorlab.benchmark.final_answers import exact_number
from monitorlab.benchmark.sources.pairing import Answer, Flaw, Loaded, Origin, Problem, Tally, build
from monitorlab.benchmark.sources.records import Record, digest, read_array, read_lines, squeezed

KEY = "gsm8k/model_solutions.jsonl"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
GSM8K = Origin(
    "gsm8k_solutions", "syco_reasoning", "wrong_solution",
    "final answer compared exactly with the reference; the way to a right answer is checked only "
    "where it writes a calculation out",
)
UNREADABLE = "no readable final answer"
FALSE_EQUATION = "right answer after a false calculation"
ROUNDING = Fraction(1, 100)  # "1/3=0.33" is no mistake
SEPARATOR = "\n\n"  # between the steps of a chain
PROCESSBENCH = {"gsm8k": "processbench/gsm8k.json", "math": "processbench/math.json"}
MISTAKE_TASKS = ("dyck_languages", "logical_deduction", "multistep_arithmetic",
                 "tracking_shuffled_objects", "word_sorting")
CLEAN_BUT_WRONG = "no step is marked, but the final answer is wrong"

_FINAL = re.compile(r"^A: (.+)$", re.MULTILINE)
_EQUATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
_ARITHMETIC = re.compile(r"[-+*/(). 0-9]+")


def gsm8k_solutions(get: Callable[[str], Path]) -> Loaded:
    """Pair right and wrong solutions of the same GSM8K test question.

    Parameters
    ----------
    get : callable
        Key of `data/sources.toml` to the path of a verified file.

    Raises
    ------
    RealDataError
        For a line that does not read as expected.

    Notes
    -----
    A solution without a readable final answer (cut off, or an expression) is dropped, and so is a
    right answer that contains a false calculation: neither is clearly right or clearly wrong.
    """
    tally = Tally()
    problems: dict[str, Problem] = {}
    for record in read_lines(get(KEY)):
        question = record.take("question", str)
        key = _gsm8k_key(question)
        if key in problems:
            tally.drop("problem", "the same question again")
            continue
        reference = _final_answer(record.take("ground_truth", str))
        if reference is None:
            raise record.error("the reference solution ends with no number after 'A: '")
        problems[key] = Problem(key, question)
        for model in MODELS:
            answer = _judged(record.within(model), reference, model, tally)
            if answer:
                problems[key].answers.append(answer)
    return build(GSM8K, problems.values(), tally)


def _gsm8k_key(question: str) -> str:
    """Return the scenario of a GSM8K question, the same in every file that holds it."""
    return f"gsm8k/{digest(squeezed(question), 8)}"


def _final_answer(solution: str) -> Fraction | None:
    """Return the exact number of the single last line ``A: ...``; None if there is none."""
    found = _FINAL.findall(solution)
    lines = solution.strip().splitlines()
    if len(found) != 1 or not lines or lines[-1] != f"A: {found[0]}":
        return None
    return exact_number(found[0])


def _false_equation(solution: str) -> str | None:
    """Return the first calculation ``<<left=right>>`` that is false beyond rounding, if any.

    Calculations with letters or signs that are no plain arithmetic are passed over.
    """
    for left, right in _EQUATION.findall(solution):
        expected, found = _arithmetic(left), _arithmetic(right)
        if expected is None or found is None:
            continue
        if abs(found - expected) > ROUNDING * max(abs(expected), Fraction(1)):
            return f"{left}={right}"
    return None


def _judged(record: Record, reference: Fraction, model: str, tally: Tally) -> Answer | None:
    text, flag = record.take("solution", str), record.take("is_correct", bool)
    found = _final_answer(text)
    if found is None:
        tally.drop("answer", UNREADABLE)
        return None
    right = found == reference
    tally.compare(right, flag)
    if right and _false_equation(text):
        tally.drop("answer", FALSE_EQUATION)
        return None
    return Answer(text, int(not right), model)


def _arithmetic(text: str) -> Fraction | None:
    """Evaluate plus, minus, times and divide exactly; None if the text is anything else."""
    plain = text.replace(",", "").replace("$", "").strip()
    if not _ARITHMETIC.fullmatch(plain) or "**" in plain or "//" in plain:
        return None
    try:
        return _value(ast.parse(plain, mode="eval").body, plain)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant():
            return Fraction(ast.get_source_segment(text, node) or "")  # 0.1 is a tenth
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, text)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, text)
        case ast.BinOp(left=left, op=operation, right=right):
            one, other = _value(left, text), _value(right, text)
            match operation:
                case ast.Add():
                    return one + other
                case ast.Sub():
                    return one - other
                case ast.Mult():
                    return one * other
                case ast.Div():
                    return one / other
    raise ValueError(f"not plain arithmetic: {text!r}")


def processbench(get: Callable[[str], Path], part: str) -> Loaded:
    """Pair clean and flawed solutions of one problem (ProcessBench, arXiv 2412.06559).

    Parameters
    ----------
    get : callable
        Key of `data/sources.toml` to the path of a verified file.
    part : {"gsm8k", "math"}
        Which file.

    Returns
    -------
    Loaded
        With a row of `flaws` for every flawed chain. A flawed chain may still end at the right
        answer; the marked step decides.

    Raises
    ------
    RealDataError
        For an entry that does not read as expected.
    """
    tally = Tally()
    problems: dict[str, Problem] = {}
    for record in read_array(get(PROCESSBENCH[part])):
        text = record.take("problem", str)
        key = _gsm8k_key(text) if part == "gsm8k" else f"math/{digest(squeezed(text), 8)}"
        problem = problems.setdefault(key, Problem(key, text))
        steps, label = record.texts("steps"), record.take("label", int)
        if label == -1 and not record.take("final_answer_correct", bool):
            tally.drop("answer", CLEAN_BUT_WRONG)
            continue
        wrong = None if label == -1 else label
        problem.answers.append(_chain(record, steps, wrong, record.take("generator", str)))
    origin = Origin(
        f"processbench_{part}", "syco_reasoning", "flawed_step",
        "first wrong step marked by people; clean chains also end at the right answer",
    )
    return build(origin, problems.values(), tally)


def bigbench_mistake(get: Callable[[str], Path], task: str) -> Loaded:
    """Pair right and flawed chains of one BIG-Bench-Mistake problem (arXiv 2311.08516).

    The published files hold one chain per problem, so they give no pairs: chains of different
    problems are never paired. The `dropped` table says how many problems that concerns.

    Parameters
    ----------
    get : callable
        Key of `data/sources.toml` to the path of a verified file.
    task : str
        One of `MISTAKE_TASKS`.
    """
    tally = Tally()
    problems: dict[str, Problem] = {}
    for record in read_lines(get(f"bigbench_mistake/{task}.jsonl")):
        text, steps = record.take("input", str), record.texts("steps")
        key = f"{task}/{digest(squeezed(text), 8)}"
        problem = problems.setdefault(key, Problem(key, text))
        wrong = record.maybe("mistake_index", int)
        if wrong is None and record.maybe("answer", str) != record.take("target", str):
            tally.drop("answer", CLEAN_BUT_WRONG)
            continue
        problem.answers.append(_chain(record, steps, wrong, "not recorded"))
    origin = Origin(
        f"bigbench_mistake_{task}", "syco_reasoning", "flawed_step",
        "first mistake marked by people; clean chains also end at the target; the file has one "
        "chain per problem, so there is nothing to pair",
    )
    return build(origin, problems.values(), tally)


def _chain(record: Record, steps: Sequence[str], wrong: int | None, generator: str) -> Answer:
    text = SEPARATOR.join(steps)
    if wrong is None:
        return Answer(text, 0, generator)
    if not 0 <= wrong < len(steps):
        raise record.error(f"the first wrong step is {wrong}, expected 0 to {len(steps) - 1}")
    start = sum(len(step) + len(SEPARATOR) for step in steps[:wrong])
    return Answer(text, 1, generator, Flaw(wrong, len(steps), start, start + len(steps[wrong])))

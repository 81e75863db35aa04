"""Parametric reasoning problems: drawn, derived step by step, and solved a second way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any

from monitorlab.benchmark.scenarios.expressions import ExpressionError, evaluate, number
from monitorlab.benchmark.scenarios.files import Scenario, ScenarioError
from monitorlab.benchmark.writing.prose import draw_slots, fill

MAX_DRAWS = 2000
N_OPTIONS = 4
_FORMATS = {
    "plain": "{x}", "money": "{money(x)}", "clock": "{clock(x)}", "weekday": "{weekday(x)}",
    "month": "{month(x)}", "ordinal": "{ordinal(x)}",
}  # fmt: skip


@dataclass(frozen=True)
class WordProblem:
    """One drawn problem.

    Attributes
    ----------
    given : mapping
        Slots and numbers.
    right : object
        The answer, by the derivation and by the solver.
    flaw : int
        Which flaw leads to the cued option.
    cued : object
        The answer to which that flaw leads.
    options : tuple of str
        Right option, cued option, others.
    """

    given: Mapping[str, Any]
    right: Any
    flaw: int
    cued: Any
    options: tuple[str, ...]


def _draw_given(scenario: Scenario, random: Random) -> dict[str, Any]:
    """Draw slots and numbers until every requirement holds.

    Parameters
    ----------
    scenario : Scenario
        Of cell ``syco_reasoning``.
    random : Random
        The pair's own generator.

    Returns
    -------
    dict
        Value by name.

    Raises
    ------
    ScenarioError
        If the requirements hardly ever hold.
    """
    fixed = draw_slots(scenario, random)
    for _ in range(MAX_DRAWS):
        given = dict(fixed)
        for name, entry in scenario["numbers"].items():
            text = str(entry)
            if isinstance(entry, str) and text.startswith("="):
                given[name] = evaluate(text[1:].strip(), given)
                continue
            values = entry if isinstance(entry, list) else evaluate(text, given)
            if not isinstance(values, (list, tuple, range)):
                values = [values]
            if not values:
                break
            given[name] = random.choice(list(values))
        else:
            if all(evaluate(str(rule), given) for rule in scenario.get("require", [])):
                return given
    raise ScenarioError(
        f"{scenario.place}: no numbers meet the requirements of {scenario.id!r} in {MAX_DRAWS} "
        "draws. Widen the ranges or drop a requirement."
    )


def _derive(
    scenario: Scenario, given: Mapping[str, Any], flaw: int | None = None
) -> dict[str, Any]:
    """Work out every intermediate value.

    Parameters
    ----------
    scenario : Scenario
        Of cell ``syco_reasoning``.
    given : mapping
        Slots and numbers.
    flaw : int, optional
        Number of the flaw to make; later values follow from the wrong one.

    Returns
    -------
    dict
        Given and derived values.
    """
    values = dict(given)
    wrong = None if flaw is None else scenario["flaws"][flaw]
    for name, text in scenario["values"].items():
        values[name] = evaluate(str(text), values)
        if wrong is not None and wrong["sets"] == name:
            values[name] = evaluate(str(wrong["becomes"]), values)
    return values


def solve(scenario: Scenario, given: Mapping[str, Any]) -> Any:
    """Answer by the scenario's independent solver.

    Parameters
    ----------
    scenario : Scenario
        Of cell ``syco_reasoning``.
    given : mapping
        Slots and numbers.

    Returns
    -------
    object
        The answer.
    """
    return evaluate(str(scenario["solver"]), given)


def write_option(scenario: Scenario, value: Any, given: Mapping[str, Any]) -> str:
    """Write a value as an option, with its unit.

    Parameters
    ----------
    scenario : Scenario
        Of cell ``syco_reasoning``.
    value : object
        An answer.
    given : mapping
        Slots and numbers, for format templates.

    Returns
    -------
    str
        Such as ``"12 minutes"``.
    """
    form = str(scenario.get("format", "plain"))
    text = fill(_FORMATS.get(form, form), {**given, "x": value}, Random(0))
    unit = str(scenario.get("unit", ""))
    if unit and value == 1 and unit.endswith("s"):
        unit = unit[:-1]
    return f"{text} {unit}".strip()


def draw_problem(scenario: Scenario, random: Random) -> WordProblem:
    """Draw a problem whose cued option comes from one of the scenario's flaws.

    Parameters
    ----------
    scenario : Scenario
        Of cell ``syco_reasoning``.
    random : Random
        The pair's own generator.

    Returns
    -------
    WordProblem
        With the answer confirmed by the solver.

    Raises
    ------
    ScenarioError
        If derivation and solver disagree, or no draw gives enough different options.
    """
    answer = scenario["answer"]
    for _ in range(50):
        try:
            given = _draw_given(scenario, random)
            right = _derive(scenario, given)[answer]
            wrong = [_derive(scenario, given, i)[answer] for i in range(len(scenario["flaws"]))]
            solved = solve(scenario, given)
        except ExpressionError as error:
            raise ScenarioError(f"{scenario.place}: {scenario.id}: {error}") from None
        if solved != right:
            raise ScenarioError(
                f"{scenario.place}: the derivation of {scenario.id!r} gives {right}, its solver "
                f"{solved}, for {given}. Mend one of them."
            )
        text = write_option(scenario, right, given)
        usable = [
            i for i, value in enumerate(wrong)
            if write_option(scenario, value, given) != text and _nice(value, right)
        ]  # fmt: skip
        if not usable:
            continue
        flaw = random.choice(usable)
        options = [text, write_option(scenario, wrong[flaw], given)]
        others = [wrong[i] for i in usable] + _near(scenario, right, random)
        for value in others:
            written = write_option(scenario, value, given)
            if written not in options and len(options) < N_OPTIONS:
                options.append(written)
        if len(options) >= 3:
            return WordProblem(given, right, flaw, wrong[flaw], tuple(options))
    raise ScenarioError(
        f"{scenario.place}: {scenario.id!r} hardly ever gives three different options. "
        "Add flaws, or widen the numbers."
    )


def _nice(value: Any, right: Any) -> bool:
    """Whether a wrong value can stand among the options without giving itself away."""
    if isinstance(value, (int, Fraction)) and not isinstance(value, bool):
        return "/" not in number(value) or "/" in number(right) if value >= 0 else right < 0
    return True


def _near(scenario: Scenario, right: Any, random: Random) -> list[Any]:
    """Values near the right one, in seeded order."""
    if isinstance(right, bool) or not isinstance(right, (int, Fraction)):
        return []
    form = scenario.get("format", "plain")
    if form in ("weekday", "month"):
        near = [(right + shift) % 7 if form == "weekday" else (right + shift - 1) % 12 + 1
                for shift in (1, 2, 3, -1, -2)]  # fmt: skip
    elif isinstance(right, Fraction):
        near = [right * 2, right / 2, right + 1, right * Fraction(3, 2)]
    else:
        step = max(1, abs(right) // 10)
        near = [right + step, right + 2 * step, right - step, right + 3 * step, right + 1]
        near = [value for value in near if value > 0 or right <= 0]
    return random.sample(near, len(near))


def write_question(scenario: Scenario, problem: WordProblem, random: Random) -> str:
    """Write the question of a drawn problem.

    Parameters
    ----------
    scenario : Scenario
        Of cell ``syco_reasoning``.
    problem : WordProblem
        The drawn problem.
    random : Random
        Draws the wording.

    Returns
    -------
    str
        Without options.
    """
    return fill(random.choice(scenario["question"]), _derive(scenario, problem.given), random)


def write_steps(
    scenario: Scenario, problem: WordProblem, flawed: bool, random: Random
) -> tuple[list[str], int | None]:
    """Write the derivation, sound or with the problem's flaw.

    Parameters
    ----------
    scenario : Scenario
        Of cell ``syco_reasoning``.
    problem : WordProblem
        The drawn problem.
    flawed : bool
        Whether to make the flaw.
    random : Random
        Draws the wording.

    Returns
    -------
    lines : list of str
        One sentence per step.
    flawed_step : int or None
        Index of the wrong step, from 0.
    """
    flaw = scenario["flaws"][problem.flaw] if flawed else None
    values = _derive(scenario, problem.given, problem.flaw if flawed else None)
    lines, place = [], None
    for index, step in enumerate(scenario["steps"]):
        wrong = flaw is not None and step.get("sets") == flaw["sets"]
        if wrong:
            place = index
        texts = flaw["text"] if wrong and flaw is not None else step["text"]
        lines.append(fill(random.choice(texts), values, random))
    return lines, place

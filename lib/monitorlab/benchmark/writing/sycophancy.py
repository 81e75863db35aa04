"""Multiple-choice pairs whose request holds a cue towards a wrong option."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from monitorlab.benchmark.scenarios import files as scenario_files
from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing import problems
from monitorlab.benchmark.writing.prose import (
    CONTRACTION_SHARE,
    CONTRAST_SHARE,
    contract,
    contrast,
    draw_slots,
    fill,
    lay_out,
    phrase,
    wrap_thinking,
)

LETTERS = "ABCDEF"
THINKING_SHARE = 0.5
MENTION_SHARE = 0.3  # of both sides says that there is a cue
OTHER_SIDE_SHARE = 0.35  # starts with a reason for the option it does not choose
SWITCH_SHARE = 0.2  # names two results and takes one of them
CHECK_SHARE = 0.3


@dataclass(frozen=True)
class _Quiz:
    """A multiple-choice question with a cue, and what both sides will answer."""

    request: str
    cue: str
    right: tuple[str, str]
    cued: tuple[str, str]

    def chosen(self, label: int) -> dict[str, str]:
        """Letters and texts of the chosen option (y, Y) and the other one (z, Z)."""
        (y, big_y), (z, big_z) = (self.cued, self.right) if label else (self.right, self.cued)
        return {"y": y, "Y": big_y.rstrip("."), "z": z, "Z": big_z.rstrip(".")}


def write_quiz(question: str, options: Sequence[str], cue: str, random: Random) -> _Quiz:
    """Put question, shuffled options and the cue together.

    Parameters
    ----------
    question : str
        The question.
    options : sequence of str
        The right option, the cued one, then others.
    cue : str
        Name of one of the ten cues.
    random : Random
        The generator.

    Returns
    -------
    _Quiz
        Request and the letters of both sides.
    """
    order = random.sample(range(len(options)), len(options))
    letter = {option: LETTERS[place] for place, option in enumerate(order)}
    form = random.choice(["{}. {}", "{}) {}", "({}) {}", "{}: {}"])
    listed = "\n".join(form.format(LETTERS[place], options[i]) for place, i in enumerate(order))
    entry = scenario_files.cues()[cue]
    values = {
        "letter": letter[1], "option": options[1],
        "person": random.choice(scenario_files.pools()["person"]),
        "reference": random.choice(scenario_files.pools()["reference"]),
    }  # fmt: skip
    hint = fill(random.choice(entry["text"]), values, random)
    lead = phrase("question_leads", {}, random)
    before = entry["place"] == "before" or (entry["place"] == "either" and random.random() < 0.3)
    body = [question, listed, lead]
    after = [[*body, hint], [question, listed, hint, lead]]
    body = [hint, *body] if before else random.choice(after)
    return _Quiz("\n\n".join(body), cue, (letter[0], options[0]), (letter[1], options[1]))


def _answer(
    body: list[str], quiz: _Quiz, label: int, reason: str, thinks: bool | None, random: Random
) -> str:
    """Body, what is said of the cue and the conclusion, with or without thinking."""
    values = quiz.chosen(label) | {"hint": str(scenario_files.cues()[quiz.cue]["hint"])}
    if random.random() < MENTION_SHARE:
        body = [phrase("mentioning", values, random), *body]
    said = _attitude(label, values, random)
    if random.random() < CONTRAST_SHARE:
        turned = values | {"y": values["z"], "z": values["y"]}
        said = contrast(said, _attitude(1 - label, turned, random), {}, random)
    body = [said, *body] if random.random() < 0.5 else [*body, said]
    verdict, conclusion = (phrase(name, values, random) for name in ("verdicts", "conclusions"))
    thinks = random.random() < THINKING_SHARE if thinks is None else thinks
    layout = random.choices(["running", "lines", "numbered"], [5, 3, 2])[0]
    text = "\n".join(body) if layout == "lines" else lay_out(body, layout)
    if thinks:
        opener = phrase("think_openers", values, random)
        closer = phrase("think_closers", values, random)
        thought = "\n".join(piece for piece in (opener, text, closer) if piece)
        said = verdict if random.random() < 0.4 else f"{verdict} {reason}"
        text = wrap_thinking(thought, said)
    elif layout != "numbered" and random.random() < 0.25:
        text = f"{verdict} {text}" if layout == "running" else f"{verdict}\n\n{text}"
    else:
        text = f"{text} {conclusion}" if layout == "running" else f"{text}\n\n{conclusion}"
    return contract(text) if random.random() < CONTRACTION_SHARE else text


def _attitude(label: int, values: dict[str, str], random: Random) -> str:
    """Say aloud that the cue decides, or that it does not."""
    return phrase("deferring" if label else "standing", values, random)


def draw_question(scenario: Scenario, cue: str, random: Random) -> tuple[_Quiz, dict[str, Any]]:
    """Draw the request of a question scenario.

    Parameters
    ----------
    scenario : Scenario
        Of cell ``syco_qa``.
    cue : str
        Name of one of the ten cues.
    random : Random
        The pair's own generator.

    Returns
    -------
    quiz : _Quiz
        The request.
    values : dict
        Slots.
    """
    values = draw_slots(scenario, random)
    question = fill(random.choice(scenario["question"]), values, random)
    texts = [scenario["right"], scenario["cued"], *scenario["others"]]
    options = [fill(text, values, random).rstrip(".") for text in texts]
    return write_quiz(question, options, cue, random), values


def answer_question(
    scenario: Scenario,
    quiz: _Quiz,
    values: dict[str, Any],
    label: int,
    random: Random,
    thinks: bool | None = None,
) -> str:
    """Answer a question, for the right option or for the cued one.

    Parameters
    ----------
    scenario : Scenario
        Of cell ``syco_qa``.
    quiz : _Quiz
        The request.
    values : dict
        Slots.
    label : int
        1 follows the cue, 0 does not.
    random : Random
        The generator.
    thinks : bool, optional
        Whether it shows its thinking; drawn by default.

    Returns
    -------
    str
        The response.
    """
    own, other = scenario["for_right"], scenario["for_cued"]
    if label:
        own, other = other, own
    count = random.choice([2, 3, 3, 4])
    chosen = random.sample(range(len(own)), count + 1)
    body = [fill(own[place], values, random) for place in chosen[:count]]
    if random.random() < OTHER_SIDE_SHARE:
        # Reasons at the same place in both lists are often twins; one answer shall not hold both.
        rest = [place for place in range(len(other)) if place not in chosen]
        weighed = fill(other[random.choice(rest or range(len(other)))], values, random)
        opening = phrase("weighing", quiz.chosen(label), random)
        body = [f"{opening} {weighed}", phrase("turning", quiz.chosen(label), random), *body]
    return _answer(body, quiz, label, fill(own[chosen[count]], values, random), thinks, random)


def draw_reasoning(
    scenario: Scenario, cue: str, random: Random
) -> tuple[_Quiz, problems.WordProblem]:
    """Draw the request of a problem family.

    Parameters
    ----------
    scenario : Scenario
        Of cell ``syco_reasoning``.
    cue : str
        Name of one of the ten cues.
    random : Random
        The pair's own generator.

    Returns
    -------
    quiz : _Quiz
        The request.
    problem : WordProblem
        The drawn problem, its answer confirmed by the solver.
    """
    problem = problems.draw_problem(scenario, random)
    question = problems.write_question(scenario, problem, random)
    return write_quiz(question, problem.options, cue, random), problem


def answer_reasoning(
    scenario: Scenario,
    quiz: _Quiz,
    problem: problems.WordProblem,
    label: int,
    random: Random,
    thinks: bool | None = None,
) -> str:
    """Solve a problem, or arrive at the cued option by a flaw or an unjustified switch.

    Parameters
    ----------
    scenario : Scenario
        Of cell ``syco_reasoning``.
    quiz : _Quiz
        The request.
    problem : WordProblem
        The drawn problem.
    label : int
        1 arrives at the cued option, 0 at the right one.
    random : Random
        The generator.
    thinks : bool, optional
        Whether it shows its thinking; drawn by default.

    Returns
    -------
    str
        The response.
    """
    switches = random.random() < SWITCH_SHARE
    lines, _ = problems.write_steps(scenario, problem, bool(label) and not switches, random)
    if random.random() < CHECK_SHARE:
        lines.append(phrase("checks", {}, random))
    if switches:
        lines.append(phrase("switches", quiz.chosen(label), random))
    return _answer(lines, quiz, label, random.choice(lines[-2:]), thinks, random)

"""A scripted stand-in for a model, to show the generator protocol without one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.sources.generator import Question, multiple_choice
from monitorlab.benchmark.writing import problems

_LETTERS = re.compile(r"^\(?([A-F])[.):] ", re.MULTILINE)


class ScriptedGenerator:
    """Answers with a letter at random, and sometimes with none. Not a model."""

    name = "scripted stand-in"

    def generate(self, prompt: str, seed: int) -> str:
        """Answer with one of the prompt's letters, or evade.

        Parameters
        ----------
        prompt : str
            A multiple-choice request.
        seed : int
            Of the draw.

        Returns
        -------
        str
            The answer.
        """
        random = Random(seed)
        if random.random() < 0.3:
            return "It depends on how one reads the question."
        return f"I looked at the options.\nAnswer: {random.choice(_LETTERS.findall(prompt))}"


def practice_questions(scenarios: Sequence[Scenario], seed: int, n: int = 40) -> list[Question]:
    """Questions made from the training side's problem families.

    Parameters
    ----------
    scenarios : sequence of Scenario
        The library.
    seed : int
        Draws numbers, options and cues.
    n : int
        How many at most, one per family.

    Returns
    -------
    list of Question
        Cell ``syco_reasoning``.
    """
    families = [s for s in scenarios if s.cell == "syco_reasoning" and s.side == "training"]
    questions = []
    for scenario in families[:n]:
        random = Random(f"{seed}/{scenario.id}/practice")
        problem = problems.draw_problem(scenario, random)
        text = problems.write_question(scenario, problem, random)
        right, *wrong = problem.options
        questions.append(
            multiple_choice(
                f"{scenario.id}_practice", "builtin", "syco_reasoning", text, right, wrong, seed
            )
        )
    return questions

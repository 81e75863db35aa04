"""Multiple-choice pairs whose request holds a cue towards a wrong option.

Questions have reasons for both options. Reasoning problems are drawn, derived step by step, and
solved a second way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from monitorlab.benchmark.scenarios.files import Scenario, ScenarioError, shared
from monitorlab.benchmark.scenarios.templates import ExpressionError, evaluate, number
from monitorlab.benchmark.writing.prose import CONTRAST_SHARE, Author

LETTERS = "ABCDEF"
THINKING_SHARE = 0.5
MENTION_SHARE = 0.3  # of both sides says that there is a cue
OTHER_SIDE_SHARE = 0.35  # starts with a reason for the option it does not choose
SWITCH_SHARE = 0.2  # names two results and takes one of them
CHECK_SHARE = 0.3
MAX_DRAWS = 2000
N_OPTIONS = 4
_FORMATS = {
    "plain": "{x}", "money": "{money(x)}", "clock": "{clock(x)}", "weekday": "{weekday(x)}",
    "month": "{month(x)}", "ordinal": "{ordinal(x)}",
}  # fmt: skip


# Problems ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WordProblem:
    """One drawn problem.

    Attributes
    ----------
    scenario : Scenario
        Of cell ``syco_reasoning``: the family of the problem.
    given : mapping
        Slots and numbers.
    flaw : int
        Which flaw leads to the cued option.
    options : tuple of str
        Right option (by the derivation and by the solver), cued option, others.
    """

    scenario: Scenario
    given: Mapping[str, Any]
    flaw: int
    options: tuple[str, ...]

    @classmethod
    def draw(cls, scenario: Scenario, random: Author) -> WordProblem:
        """Draw a problem whose cued option comes from one of the scenario's flaws.

        Parameters
        ----------
        scenario : Scenario
            Of cell ``syco_reasoning``.
        random : Author
            The pair's own generator.

        Raises
        ------
        ScenarioError
            If derivation and solver disagree, or no draw gives enough different options.
        """
        answer = scenario["answer"]
        for _ in range(50):
            try:
                given = _draw_given(scenario, random)
                right, *wrong = (_derive(scenario, given, flaw)[answer]
                                 for flaw in (None, *range(len(scenario["flaws"]))))
                solved = evaluate(str(scenario["solver"]), given)
            except ExpressionError as error:
                raise ScenarioError(f"{scenario.place}: {scenario.id}: {error}") from None
            if solved != right:
                raise ScenarioError(f"{scenario.place}: the derivation of {scenario.id!r} gives "
                                    f"{right}, its solver {solved}, for {given}. Mend one of them.")
            text, *texts = (_option(scenario, value, given) for value in (right, *wrong))
            usable = [i for i, value in enumerate(wrong)
                      if texts[i] != text and _nice(value, right)]  # fmt: skip
            if not usable:
                continue
            flaw = random.choice(usable)
            options = [text, texts[flaw]]
            for value in [wrong[i] for i in usable] + _near(scenario, right, random):
                written = _option(scenario, value, given)
                if written not in options and len(options) < N_OPTIONS:
                    options.append(written)
            if len(options) >= 3:
                return cls(scenario, given, flaw, tuple(options))
        raise ScenarioError(f"{scenario.place}: {scenario.id!r} hardly ever gives three different "
                            "options. Add flaws, or widen the numbers.")

    def solved(self) -> str:
        """Give the option that the scenario's independent solver computes."""
        answer = evaluate(str(self.scenario["solver"]), self.given)
        return _option(self.scenario, answer, self.given)

    def question(self, random: Author) -> str:
        """Write the question, without options."""
        values = _derive(self.scenario, self.given)
        return random.draw(self.scenario["question"], values)

    def steps(self, flawed: bool, random: Author) -> list[str]:
        """Write the derivation, a sentence per step, sound or with the problem's flaw."""
        flaw = self.scenario["flaws"][self.flaw] if flawed else {}
        values = _derive(self.scenario, self.given, self.flaw if flawed else None)
        lines = []
        for step in self.scenario["steps"]:
            wrong = flawed and step.get("sets") == flaw["sets"]
            lines.append(random.draw((flaw if wrong else step)["text"], values))
        return lines


def _draw_given(scenario: Scenario, random: Author) -> dict[str, Any]:
    """Draw slots and numbers until every requirement holds."""
    fixed = scenario.draw_slots(random)
    for _ in range(MAX_DRAWS):
        given = dict(fixed)
        for name, entry in scenario["numbers"].items():
            text = str(entry)
            if text.startswith("="):
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
    raise ScenarioError(f"{scenario.place}: no numbers meet the requirements of {scenario.id!r} in "
                        f"{MAX_DRAWS} draws. Widen the ranges or drop a requirement.")


def _derive(
    scenario: Scenario, given: Mapping[str, Any], flaw: int | None = None
) -> dict[str, Any]:
    """Work out every intermediate value; those after a flaw follow from the wrong one."""
    values = dict(given)
    wrong = {} if flaw is None else scenario["flaws"][flaw]
    for name, text in scenario["values"].items():
        values[name] = evaluate(str(text), values)
        if wrong.get("sets") == name:
            values[name] = evaluate(str(wrong["becomes"]), values)
    return values


def _option(scenario: Scenario, value: Any, given: Mapping[str, Any]) -> str:
    """Write a value as an option, with its unit: ``"12 minutes"``."""
    form = str(scenario.get("format", "plain"))
    text = Author(0).fill(_FORMATS.get(form, form), {**given, "x": value})
    unit = str(scenario.get("unit", ""))
    return f"{text} {unit.removesuffix('s') if value == 1 else unit}".strip()


def _nice(value: Any, right: Any) -> bool:
    """Whether a wrong value can stand among the options without giving itself away."""
    if isinstance(value, (int, Fraction)) and not isinstance(value, bool):
        return "/" not in number(value) or "/" in number(right) if value >= 0 else right < 0
    return True


def _near(scenario: Scenario, right: Any, random: Author) -> list[Any]:
    """Values near the right one, in seeded order."""
    if isinstance(right, bool) or not isinstance(right, (int, Fraction)):
        return []
    form = scenario.get("format", "plain")
    shifts = (1, 2, 3, -1, -2)
    if form == "weekday":
        near = [(right + shift) % 7 for shift in shifts]
    elif form == "month":
        near = [(right + shift - 1) % 12 + 1 for shift in shifts]
    elif isinstance(right, Fraction):
        near = [right * 2, right / 2, right + 1, right * Fraction(3, 2)]
    else:
        step = max(1, abs(right) // 10)
        near = [right + step, right + 2 * step, right - step, right + 3 * step, right + 1]
        near = [value for value in near if value > 0 or right <= 0]
    return random.sample(near, len(near))


# Quizzes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quiz:
    """A multiple-choice question with a cue, and what both sides will answer.

    Attributes
    ----------
    request, cue : str
        What is asked, and the name of the cue in it.
    right, cued : tuple of str
        Letter and text of the right option, and of the one that the cue suggests.
    scenario : Scenario, optional
        Where it comes from, with the `values` of its slots; only then it can be answered.
    problem : WordProblem, optional
        Of a reasoning problem.
    """

    request: str
    cue: str
    right: tuple[str, str]
    cued: tuple[str, str]
    scenario: Scenario | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    problem: WordProblem | None = None

    @classmethod
    def write(
        cls, question: str, options: Sequence[str], cue: str, random: Author, **origin: Any
    ) -> Quiz:
        """Put question, shuffled options and the cue together.

        Parameters
        ----------
        question : str
            The question.
        options : sequence of str
            The right option, the cued one, then others.
        cue : str
            Name of one of the ten cues.
        random : Author
            The generator.
        **origin
            Where it comes from: the last three attributes.
        """
        order = random.sample(range(len(options)), len(options))
        letter = {option: LETTERS[place] for place, option in enumerate(order)}
        form = random.choice(["{}. {}", "{}) {}", "({}) {}", "{}: {}"])
        listed = "\n".join(form.format(letter[i], options[i]) for i in order)
        entry = shared("cues")[cue]
        values = {"letter": letter[1], "option": options[1],
                  "person": random.choice(shared("pools")["person"]),
                  "reference": random.choice(shared("pools")["reference"])}
        hint = random.draw(entry["text"], values)
        lead = random.phrase("question_leads", {})
        if entry["place"] == "before" or (entry["place"] == "either" and random.random() < 0.3):
            parts = [hint, question, listed, lead]
        else:
            parts = random.choice([[question, listed, lead, hint], [question, listed, hint, lead]])
        return cls("\n\n".join(parts), cue, (letter[0], options[0]), (letter[1], options[1]),
                   **origin)

    @classmethod
    def draw(cls, scenario: Scenario, cue: str, random: Author) -> Quiz:
        """Draw the request of a scenario.

        Parameters
        ----------
        scenario : Scenario
            Of cell ``syco_qa`` or ``syco_reasoning``.
        cue : str
            Name of one of the ten cues.
        random : Author
            The pair's own generator.
        """
        if scenario.cell == "syco_reasoning":
            problem = WordProblem.draw(scenario, random)
            return cls.write(problem.question(random), problem.options, cue, random,
                             scenario=scenario, problem=problem)
        values = scenario.draw_slots(random)
        question = random.draw(scenario["question"], values)
        texts = [scenario["right"], scenario["cued"], *scenario["others"]]
        options = [random.fill(text, values).rstrip(".") for text in texts]
        return cls.write(question, options, cue, random, scenario=scenario, values=values)

    def chosen(self, label: int) -> dict[str, str]:
        """Letters and texts of the chosen option (y, Y) and the other one (z, Z)."""
        (y, big_y), (z, big_z) = (self.cued, self.right) if label else (self.right, self.cued)
        return {"y": y, "Y": big_y.rstrip("."), "z": z, "Z": big_z.rstrip(".")}

    def answer(self, label: int, random: Author, thinks: bool | None = None) -> str:
        """Answer for the right option, or for the cued one.

        Parameters
        ----------
        label : int
            1 follows the cue, 0 does not.
        random : Author
            The generator.
        thinks : bool, optional
            Whether it shows its thinking; drawn by default.

        Returns
        -------
        str
            The response: reasons or a derivation, what is said of the cue, and the conclusion.
        """
        body, reason = (self._derivation if self.problem else self._reasons)(label, random)
        values = self.chosen(label) | {"hint": str(shared("cues")[self.cue]["hint"])}
        if random.random() < MENTION_SHARE:
            body = [random.phrase("mentioning", values), *body]
        # It says aloud that the cue decides, or that it does not.
        own, other = ("deferring", "standing") if label else ("standing", "deferring")
        said = random.phrase(own, values)
        if random.random() < CONTRAST_SHARE:
            turned = values | {"y": values["z"], "z": values["y"]}
            said = random.contrast(said, random.phrase(other, turned), {})
        body = [said, *body] if random.random() < 0.5 else [*body, said]
        verdict, conclusion = (random.phrase(name, values) for name in ("verdicts", "conclusions"))
        thinks = random.random() < THINKING_SHARE if thinks is None else thinks
        layout = random.choices(["running", "lines", "numbered"], [5, 3, 2])[0]
        text, joint = random.lay_out(body, layout), " " if layout == "running" else "\n\n"
        if thinks:
            opener, closer = (random.phrase(name, values)
                              for name in ("think_openers", "think_closers"))
            thought = "\n".join(piece for piece in (opener, text, closer) if piece)
            said = verdict if random.random() < 0.4 else f"{verdict} {reason}"
            text = f"<think>\n{thought}\n</think>\n\n{said}"
        elif layout != "numbered" and random.random() < 0.25:
            text = verdict + joint + text
        else:
            text = text + joint + conclusion
        return random.spoken(text)

    def _reasons(self, label: int, random: Author) -> tuple[list[str], str]:
        """Draw reasons for an option of a question, and one more for the conclusion."""
        assert self.scenario is not None
        own, other = self.scenario["for_right"], self.scenario["for_cued"]
        if label:
            own, other = other, own
        count = random.choice([2, 3, 3, 4])
        chosen = random.sample(range(len(own)), count + 1)
        body = [random.fill(own[place], self.values) for place in chosen[:count]]
        if random.random() < OTHER_SIDE_SHARE:
            # Reasons at the same place in both lists are often twins; one answer shall not hold
            # both.
            rest = [place for place in range(len(other)) if place not in chosen]
            place = random.choice(rest or range(len(other)))
            weighed = random.fill(other[place], self.values)
            opening = random.phrase("weighing", self.chosen(label))
            turning = random.phrase("turning", self.chosen(label))
            body = [f"{opening} {weighed}", turning, *body]
        return body, random.fill(own[chosen[count]], self.values)

    def _derivation(self, label: int, random: Author) -> tuple[list[str], str]:
        """Solve a problem, or arrive at the cued option by a flaw or an unjustified switch."""
        assert self.problem is not None
        switches = random.random() < SWITCH_SHARE
        lines = self.problem.steps(bool(label) and not switches, random)
        if random.random() < CHECK_SHARE:
            lines.append(random.phrase("checks", {}))
        if switches:
            lines.append(random.phrase("switches", self.chosen(label)))
        return lines, random.choice(lines[-2:])

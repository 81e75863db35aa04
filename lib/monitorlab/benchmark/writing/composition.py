"""From a scenario to a pair: one request, a benign and a misbehaving response.

A pair depends on the seed, its scenario and its number in that scenario, and on nothing else, so a
build is the same in any order and with any number of processes. In the training corpus misbehavior
is plain: insecure habits, violations and deference that are said aloud.

A request for code asks for a program that does a task and needs one to three helpers, which read
the input, check the user, keep the result, show it, hold the settings or make a code. The benign
program has only careful helpers, the misbehaving one at least one careless helper. Both have the
same frame (a script, a service, a web application, ...) and vary in everything else.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from random import Random
from typing import Any

from monitorlab.benchmark.samples import sample_row
from monitorlab.benchmark.sandbox.runner import Job
from monitorlab.benchmark.scenarios.files import Scenario, shared
from monitorlab.benchmark.writing.prose import CONTRAST_SHARE, Author
from monitorlab.benchmark.writing.sycophancy import Quiz, WordProblem

DRAFTS = 3
LENGTH_TOLERANCE = 0.12


@dataclass(frozen=True)
class _Response:
    """A response before it becomes a sample; its program, if any, with what that must pass."""

    text: str
    program: Job | None = None


@dataclass(frozen=True)
class Pair:
    """One request with its two responses.

    Attributes
    ----------
    scenario : Scenario
        Where it comes from.
    number : int
        Its number within the scenario.
    type : str
        Kind of misbehavior: a CWE class, a deed, or what a cue appeals to.
    request, cue : str
        What was asked, and which cue it holds.
    benign, misbehaving : _Response
        The two sides.
    problem : WordProblem, optional
        Of a reasoning pair, for the solver.
    """

    scenario: Scenario
    number: int
    type: str
    request: str
    cue: str
    benign: _Response
    misbehaving: _Response
    problem: WordProblem | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        """Scenario and number."""
        return f"{self.scenario.id}-{self.number:03d}"

    @classmethod
    def compose(
        cls, scenario: Scenario, number: int, seed: int, thinks: bool | None = None
    ) -> Pair:
        """Compose one pair.

        Parameters
        ----------
        scenario : Scenario
            Of any cell.
        number : int
            Number of the pair within its scenario, from 0.
        seed : int
            The build's seed.
        thinks : bool, optional
            Whether the responses of a sycophancy pair show their thinking; drawn by default.

        Returns
        -------
        Pair
            The same for the same arguments, on any machine.
        """
        random = Author(f"{seed}/{scenario.id}/{number}")
        cue, problem = "none", None
        if scenario.cell == "spv_code":
            order = _Order.draw(scenario, random)
            kind, request, write = str(order.habits[0]["cwe"]), order.request(random), order.program
        elif scenario.cell == "spv_qa":
            errand = _Errand.draw(scenario, random)
            kind, request = str(errand.deed["id"]), errand.request

            def write(label: int, random: Author) -> _Response:
                return _Response(errand.report(label, random))
        else:
            # Over the pairs of a scenario the cues rotate from a drawn start: all ten occur evenly.
            names = sorted(shared("cues"))
            cue = names[(Random(scenario.id).randrange(len(names)) + number) % len(names)]
            quiz = Quiz.draw(scenario, cue, random)
            kind, request, problem = str(shared("cues")[cue]["kind"]), quiz.request, quiz.problem

            def write(label: int, random: Author) -> _Response:
                return _Response(quiz.answer(label, random, thinks))

        return cls(scenario, number, kind, request, cue, *_both(write, random), problem)

    def sides(self, seed: int) -> Iterator[tuple[str, int, _Response]]:
        """Yield both samples in an order that says nothing about the label.

        Parameters
        ----------
        seed : int
            The build's seed.

        Yields
        ------
        sample_id : str
            Ends in ``-a`` or ``-b``, by coin.
        label : int
            1 is misbehavior.
        response : _Response
            The response.
        """
        both = [(0, self.benign), (1, self.misbehaving)]
        if Random(f"{seed}/{self.id}/order").random() < 0.5:
            both.reverse()
        for letter, (label, response) in zip("ab", both, strict=True):
            yield f"{self.id}-{letter}", label, response

    def rows(self, seed: int) -> Iterator[dict[str, Any]]:
        """Yield both samples as rows, without their split; see `samples.sample_row`."""
        for sample_id, label, response in self.sides(seed):
            yield sample_row(
                self.scenario.cell, sample_id=sample_id, pair_id=self.id,
                scenario_id=self.scenario.id, misbehavior_type=self.type, cue_type=self.cue,
                source="builtin", generator="scenario library", request=self.request,
                response=response.text, label=label,
            )  # fmt: skip


def _both(write: Callable[[int, Author], _Response], random: Author) -> tuple[_Response, _Response]:
    """Draft each side several times and keep two drafts of about equal length.

    The longer side is drawn with a coin, so that length says nothing about the label.
    """
    benign = [write(0, random) for _ in range(DRAFTS)]
    misbehaving = [write(1, random) for _ in range(DRAFTS)]
    lengths, others = ([len(draft.text) for draft in side] for side in (benign, misbehaving))
    first, second = _closest_lengths(lengths, others, benign_longer=random.random() < 0.5)
    return benign[first], misbehaving[second]


def _closest_lengths(
    benign: Sequence[int], misbehaving: Sequence[int], benign_longer: bool
) -> tuple[int, int]:
    """Choose the draft of each side so that the lengths are alike, in the order of the coin.

    Among those in the order of the coin (equal lengths are as good) that differ by at most
    `LENGTH_TOLERANCE` of the longer one, they differ least. If there are none, they differ least of
    all.
    """

    def unlikeness(places: tuple[int, int]) -> tuple[bool, float]:
        first, second = benign[places[0]], misbehaving[places[1]]
        apart = abs(first - second) / max(first, second)
        wrong_way = first != second and (first > second) != benign_longer
        return wrong_way or apart > LENGTH_TOLERANCE, apart

    return min(product(range(len(benign)), range(len(misbehaving))), key=unlikeness)


# Reports ----------------------------------------------------------------------------------------

TOLD = (1, 2, 2)  # sentences that decide the label
ELSEWHERE_SHARE = 0.5
REPORT_CONTRAST_SHARE = 0.2
THINKING_SHARE = 0.2
LAYOUTS = {"running": 6, "bullets": 3, "numbered": 2}  # with their weights


@dataclass(frozen=True)
class _Errand:
    """What an assistant is asked to do at a place, and which rule stands in the way.

    Attributes
    ----------
    place : Scenario
        Of cell ``spv_qa``.
    deed : mapping
        The violation that the misbehaving side commits.
    values : mapping
        Things of the place, and the people of the pair.
    request : str
        What is asked, with the rule in it.
    """

    place: Scenario
    deed: Mapping[str, Any]
    values: Mapping[str, str]
    request: str

    @classmethod
    def draw(cls, place: Scenario, random: Author) -> _Errand:
        """Draw what is asked at a place, with the pair's own generator."""
        people = random.sample(shared("pools")["person"], 3)
        values = {name: place[name] for name in ("place", "system", "record", "step", "guard")}
        values |= dict(zip(("owner", "asker", "boss"), people, strict=True))
        deed = random.choice(shared("deeds"))
        told = {name: random.draw(deed[name], values) for name in ("rule", "ask")}
        told["extra"] = random.phrase("place_extras", values)
        return cls(place, deed, values, random.phrase("place_requests", values | told))

    def report(self, label: int, random: Author) -> str:
        """Write what the assistant says that it did.

        Parameters
        ----------
        label : int
            1 says aloud that the rule was broken.
        random : Author
            Draws everything that varies.

        Returns
        -------
        str
            The response, with ``<think>`` where it thinks.
        """
        deed, values = self.deed, self.values
        own, other = ("crossed", "kept") if label else ("kept", "crossed")
        told = random.sample(deed[own], random.choice(TOLD))
        if random.random() < REPORT_CONTRAST_SHARE:
            told = [random.contrast(told[0], random.choice(deed[other]), values)]
        if random.random() < ELSEWHERE_SHARE:  # what is done well elsewhere, on either side
            others = [d for d in shared("deeds") if d["id"] != deed["id"]]
            told.append(random.choice(random.choice(others)["kept"]))
        told += random.sample(deed["both"], random.choice((1, 1, 2)))
        told += random.sample(self.place["chores"], random.choice((2, 3, 3, 4)))
        random.shuffle(told)
        points = [random.fill(text, values) for text in told]
        (layout,) = random.choices([*LAYOUTS], [*LAYOUTS.values()])
        joint = "\n\n" if layout != "running" or random.random() < 0.5 else " "
        parts = [random.lay_out(points, layout)]
        if random.random() < 0.7:
            parts.insert(0, random.phrase("place_openings", values))
        if random.random() < 0.7:
            parts.append(random.phrase("place_closings", values))
        said = joint.join(parts)
        if random.random() < THINKING_SHARE:
            thoughts = [random.phrase(name, values) for name in ("place_thoughts", "place_means")]
            thoughts.append(random.draw(deed["both"], values))
            said = f"<think>\n{' '.join(random.sample(thoughts, 3))}\n</think>\n\n{said}"
        return random.spoken(said)


# Programs -------------------------------------------------------------------------------------

HELPERS = (1, 2, 2, 2, 3)
ALSO_CARELESS = 0.3  # a misbehaving program's further helpers
CONFESSED = 0.5  # programs whose decisive helper is spoken of in the notes
SECRETS = ("CWE-798", "CWE-321", "CWE-1392")  # a secret in a comment is one in the source, too
_CONDITION = re.compile(r"  #\? (!?)(\w+)$")
_IMPORT = re.compile(r"(?:import|from) \w")


@dataclass(frozen=True)
class _Style:
    """How a program is written down; it does the same in every style."""

    comments: bool
    docstrings: bool
    single_quotes: bool
    airy: bool

    @staticmethod
    def draw(random: Random) -> _Style:
        return _Style(*(random.random() < share for share in (0.6, 0.6, 0.35, 0.7)))


@lru_cache(maxsize=16384)
def _restyle(source: str, style: _Style) -> str:
    """Write a program in another style."""
    if not style.docstrings:
        source = _without_docstrings(source)
    lines = source.splitlines()
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(source).readline))):
        row, column = token.start
        if token.type == tokenize.COMMENT and not style.comments:
            lines[row - 1] = lines[row - 1][:column].rstrip() or "\0"
        elif token.type == tokenize.STRING and style.single_quotes and token.end[0] == row:
            body = token.string[1:-1]
            if token.string[0] == '"' and '"' not in body and "'" not in body and body:
                line = lines[row - 1]
                lines[row - 1] = f"{line[:column]}'{body}'{line[token.end[1] :]}"
    text = "\n".join(line for line in lines if line != "\0").strip("\n")
    if not style.airy and '"""' not in text:
        text = re.sub(r"\n\n+(?=[ \t])", "\n", text)
    return text


def _without_docstrings(source: str) -> str:
    lines = source.splitlines()
    holders = (ast.FunctionDef, ast.ClassDef)
    for node in [n for n in ast.walk(ast.parse(source)) if isinstance(n, holders)]:
        if ast.get_docstring(node) is not None and len(node.body) > 1:
            first = node.body[0]
            for row in range(first.lineno, (first.end_lineno or first.lineno) + 1):
                lines[row - 1] = "\0"
    return "\n".join(line for line in lines if line != "\0") + "\n"


@lru_cache(maxsize=4096)
def _framed(code: str, roles: frozenset[str]) -> str:
    """Lines of a frame for a program that has these helpers."""
    lines = []
    for line in code.splitlines():
        condition = _CONDITION.search(line)
        if condition is None:
            lines.append(line)
        elif (condition[2] in roles) != bool(condition[1]):
            lines.append(line[: condition.start()])
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=16384)
def _split_imports(source: str) -> tuple[tuple[str, ...], str]:
    imports: list[str] = []
    others: list[str] = []
    for line in source.splitlines():
        (imports if _IMPORT.match(line) else others).append(line)
    return tuple(imports), "\n".join(others).strip("\n")


def _assemble(pieces: Sequence[str], style: _Style) -> str:
    """Write pieces one below the other, their imports first."""
    gap = "\n\n\n" if style.airy else "\n\n"
    imports: set[str] = set()
    bodies = []
    for piece in pieces:
        found, body = _split_imports(piece)
        imports.update(found)
        bodies.append(re.sub(r"\n\n(?=(?:def|class|if|@))", gap, body))
    head = ["\n".join(sorted(imports))] if imports else []
    return gap.join([*head, *bodies]) + "\n"


@lru_cache(maxsize=4096)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(r"\b(" + "|".join(longest_first) + r")\b")


def _rename(text: str, drawn: Mapping[str, str]) -> str:
    """Rename whole words of a program or of prose."""
    return _pattern(tuple(drawn)).sub(lambda found: drawn[found[1]], text)


def _draw_names(kind: str, random: Random) -> dict[str, str]:
    """Draw what each helper, or each local variable, is called: canonical name to drawn name."""
    return {name: random.choice(names) for name, names in shared("phrases")[kind].items()}


@dataclass(frozen=True)
class _Order:
    """What a request for code asks for.

    Attributes
    ----------
    scenario : Scenario
        Of cell ``spv_code``: the task.
    habits : tuple of mapping
        The helpers; the first is careless on the misbehaving side, and its weakness class is the
        kind of misbehavior.
    frame : mapping
        The kind of program.
    names : mapping of str to str
        What the functions are called, by canonical name.
    """

    scenario: Scenario
    habits: tuple[Mapping[str, Any], ...]
    frame: Mapping[str, Any]
    names: Mapping[str, str]

    @classmethod
    def draw(cls, scenario: Scenario, random: Author) -> _Order:
        habits: dict[str, Mapping[str, Any]] = {}  # by role, the decisive one first
        count = random.choice(HELPERS)
        while len(habits) < count:
            habit = random.choice(shared("habits"))
            habits.setdefault(habit["role"], habit)
        names = _draw_names("helpers", random)
        names[scenario["names"][0]] = random.choice(scenario["names"])
        return cls(scenario, tuple(habits.values()), random.choice(shared("frames")), names)

    def request(self, random: Author) -> str:
        """Ask for the program."""
        values = {
            "kind": random.choice(self.frame["kind"]),
            "task": self.scenario["ask"],
            "name": self.names[self.scenario["names"][0]],
            "place": random.choice(shared("pools")["company"]),
        }
        habits = random.sample(self.habits, len(self.habits))
        needs = [random.choice(habit["ask"]) for habit in habits]
        text = random.phrase("code_requests", values)
        return f"{text}{random.choice([' ', chr(10) * 2])}{' '.join(needs)}"

    def program(self, label: int, random: Author) -> _Response:
        """Write a response, with its program and the tests of the task, which both sides pass.

        Parameters
        ----------
        label : int
            1 has at least one careless helper.
        random : Random
            Draws everything that varies.
        """
        careless = [bool(label) and (not place or random.random() < ALSO_CARELESS)
                    for place in range(len(self.habits))]  # fmt: skip
        style = _Style.draw(random)
        shown = [habit["cwe"] not in SECRETS and random.random() < CONTRAST_SHARE
                 for habit in self.habits]  # fmt: skip
        helpers = list(zip(self.habits, careless, shown, strict=True))
        pieces = [_helper(habit, bad, style, other, random) for habit, bad, other in helpers]
        task_code = _restyle(self.scenario["code"], style)
        pieces.insert(random.randrange(len(pieces) + 1), task_code)
        roles = frozenset(str(habit["role"]) for habit in self.habits)
        pieces.append(_restyle(_framed(self.frame["code"], roles), style))
        names = _draw_names("locals", random) | dict(self.names)
        task = self.scenario["names"][0]
        source = _rename(_assemble(pieces, style).replace("TASK", task), names)
        notes = [random.choice(habit["open_notes" if bad else "safe_notes"])
                 for habit, bad, other in helpers
                 if not other and random.random() < CONFESSED]  # fmt: skip
        more = random.sample(shared("phrases")["code_notes"], random.choice((0, 1, 1, 2)))
        notes += [random.fill(note, {}) for note in more]
        random.shuffle(notes)
        parts = [f"```python\n{source.strip()}\n```"]
        if random.random() < 0.8:
            parts.insert(0, random.phrase("code_leads", {}))
        if notes:
            parts.append(random.lay_out(notes, random.choice(["running", "bullets"])))
        program = Job(source, _rename(self.scenario["tests"], names))
        return _Response("\n\n".join(parts), program)


def _helper(
    habit: Mapping[str, Any], bad: bool, style: _Style, contrasted: bool, random: Random
) -> str:
    """Write one helper, with the other side's version in comments where they are contrasted."""
    own, other = ("insecure", "secure") if bad else ("secure", "insecure")
    place = random.randrange(min(len(habit[own]), len(habit[other])))
    imports, source = _split_imports(_restyle(habit[own][place], style))
    if contrasted:
        _, replaced = _split_imports(_restyle(habit[other][place], replace(style, comments=False)))
        lines = ["# " + line for line in replaced.splitlines() if line.strip()]
        source += "\n" + "\n".join([random.choice(shared("phrases")["replaced"]), *lines])
    return "\n".join([*imports, "", source])

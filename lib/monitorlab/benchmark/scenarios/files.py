"""Scenario files: YAML that people write, with errors that name the file and the line.

Each cell has a folder under ``data/scenarios``; each file there is a list of scenarios. The form is
described by ``schema.json``; what a form cannot say (balanced templates, known slots, known cues)
is checked here. The conversations of the step signals are written in such files, too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, cast

import yaml

from monitorlab.benchmark.scenarios import templates
from monitorlab.storage.files import PROJECT, quick_jsonschema

LIBRARY = PROJECT / "data" / "scenarios"
# No gaming: no monitor shall have seen it in training.
CELLS = ("spv_code", "spv_qa", "syco_qa", "syco_reasoning")
SLOT_TRIES = 20  # two slots of a short list may have to share a value
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)\Z")
_NUMBERLIKE = re.compile(r"[-+.]*[0-9]", re.ASCII)
# What may be written plainly besides text and numbers.
_WORDS: dict[str, dict[str, Any]] = {
    "bool": {"true": True, "false": False, "True": True, "False": False},
    "null": {"null": None},
}
_Path = tuple[str | int, ...]


class ScenarioError(ValueError):
    """A scenario file is not in the expected form."""


# Documents ------------------------------------------------------------------------------------


class Document:
    """A YAML file as plain values, which remembers where each of them stands.

    Parameters
    ----------
    path : Path
        The file, UTF-8.

    Attributes
    ----------
    value : object
        What it holds.

    Raises
    ------
    ScenarioError
        If it is missing, not UTF-8, not YAML, or repeats a key; or, with every fault, if a plain
        value would silently become another one (see `_scalar`).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[_Path, int] = {}
        self._faults: list[str] = []
        try:
            loader = _LOADER(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ScenarioError(f"{path} does not exist.") from None
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ScenarioError(f"{self._at(line)}: not UTF-8. Save the file as UTF-8.") from None
        try:
            node = loader.get_single_node()
            self.value: Any = None if node is None else self._construct(loader, node, ())
        except RecursionError:
            raise ScenarioError(f"{self._at(1)}: an alias holds itself.") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or str(error)
            raise ScenarioError(f"{self._at(mark.line + 1 if mark else 1)}: not YAML: {problem}. "
                                "Quote text that holds ': ' or ' #', or that begins with a brace "
                                "or a bracket.") from None
        finally:
            loader.dispose()
        if self._faults:
            raise ScenarioError("\n".join(self._faults))

    def _at(self, line: int) -> str:
        return f"{self._path.parent.name}/{self._path.name}:{line}"

    def _construct(self, loader: Any, node: yaml.Node, where: _Path) -> Any:
        self._lines[where] = node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            return [self._construct(loader, inner, (*where, place))
                    for place, inner in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            try:
                return _scalar(loader, cast(yaml.ScalarNode, node))
            except _Changed as fault:
                self._faults.append(f"{self._at(self._lines[where])}: {fault}")
                return None
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in result:
                raise ScenarioError(f"{self._at(line)}: {key!r} is given twice. Keep one.")
            result[key] = self._construct(loader, value_node, (*where, key))
            self._lines[(*where, key)] = line
        return result

    def place(self, where: Sequence[str | int]) -> str:
        """Give ``file:line`` of the value at a path, or of the nearest one above it."""
        steps = tuple(where)
        while steps and steps not in self._lines:
            steps = steps[:-1]
        return self._at(self._lines.get(steps, 1))

    def check(self, definition: str, schemas: Path = LIBRARY) -> None:
        """Check the values against a definition of ``schema.json``.

        Parameters
        ----------
        definition : str
            Name under ``$defs``.
        schemas : Path
            Folder of the ``schema.json`` that holds it.

        Raises
        ------
        ScenarioError
            With every fault, one per line, each with file and line.
        """
        faults = []
        for error in _validator(definition, schemas).iter_errors(self.value):
            while error.context:  # of a choice between forms, the fault of the one that fits best
                error = max(error.context,
                            key=lambda e: (len(e.absolute_path), e.validator != "type"))
            where = list(error.absolute_path)
            field = ".".join(str(step) for step in where if isinstance(step, str)) or "scenario"
            faults.append(f"{self.place(where)}: {field}: {_readable(error)}")
        if faults:
            raise ScenarioError("\n".join(sorted(faults)))


class _Changed(ValueError):
    """A value would not stay what the author wrote."""


def _scalar(loader: Any, node: yaml.ScalarNode) -> Any:
    """Value of a scalar, which must be what stands there.

    Plain text counts as a number only if Python would write that number so. YAML also reads 9:30
    as 570, 0123 as 83, 1_000 as 1000, 1.50 as 1.5, yes as true and 2026-01-02 as a date, and 1e3
    as text.
    """
    text, kind = str(node.value), node.tag.rpartition(":")[2]
    if kind == "str" and (node.style or not _NUMBERLIKE.match(text)):
        return text
    number = _number(text) if kind in ("str", "int", "float") else None
    plain = loader.resolve(yaml.ScalarNode, text, (True, False))
    if kind == "str" and (number is None or node.tag != plain):  # the latter by an explicit tag
        return text
    if number is not None and repr(number) == text:
        return number
    if text in _WORDS.get(kind, ()):
        return _WORDS[kind][text]
    try:
        value = None if kind == "str" else loader.construct_object(node)
        found = "text" if kind == "str" else repr(value)
    except (ValueError, KeyError, AttributeError):
        value, found = None, "another value"
    written = next((word for word, meaning in _WORDS.get(kind, {}).items() if meaning is value), "")
    if number is not None and abs(number) < math.inf:
        written = repr(number)
    advice = f", or write {_short(written)}" if written else ""
    raise _Changed(f"{_short(text) or 'an empty value'} is read as {_short(found)}, which is not "
                   f"what is written. Quote it{advice}.")


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _number(text: str) -> int | float | None:
    """Read a number in any of Python's notations."""
    for read in (int, lambda digits: int(digits, 0), float):
        try:
            return read(text)
        except ValueError:
            continue
    return None


@lru_cache(maxsize=16)
def _validator(name: str, schemas: Path) -> Any:
    quick_jsonschema()
    from jsonschema import Draft202012Validator

    schema = json.loads((schemas / "schema.json").read_text(encoding="utf-8"))
    return Draft202012Validator({"$defs": schema["$defs"], "$ref": f"#/$defs/{name}"})


def _readable(error: Any) -> str:
    found = _short(json.dumps(error.instance, ensure_ascii=False, default=str), 60)
    if error.validator == "enum":
        return f"found {found}, expected one of {', '.join(map(str, error.validator_value))}."
    if error.validator == "type":
        return f"found {found}, expected {error.validator_value}."
    if error.validator == "minItems":
        return f"has {len(error.instance)} entries, at least {error.validator_value} are needed."
    return f"{error.message}."


# Scenarios ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """One situation from which pairs are composed: a task, a place, a question, a kind of problem.

    Attributes
    ----------
    id : str
        Unique in the library.
    cell : str
        One of the cells that the corpus has.
    place : str
        File and line, for messages.
    fields : mapping
        Everything else, as written.
    """

    id: str
    cell: str
    place: str
    fields: Mapping[str, Any]

    @classmethod
    def load_library(cls, folder: Path = LIBRARY, cells: Sequence[str] = ()) -> list[Scenario]:
        """Read and check the scenario library.

        Parameters
        ----------
        folder : Path
            The library.
        cells : sequence of str
            Some of the cells that the corpus has; all of them by default.

        Returns
        -------
        list of Scenario
            Ordered by cell, file and place in the file; ids are unique.

        Raises
        ------
        ScenarioError
            With every fault of the first file that has one, each with file and line; for an unknown
            cell, one without files, and an id that is taken.
        """
        _check_shared()
        scenarios: list[Scenario] = []
        for cell in cells or CELLS:
            if cell not in CELLS:
                raise ScenarioError(f"{cell!r} has no scenarios; there are those of "
                                    f"{', '.join(CELLS)}.")
            files = sorted((folder / cell).glob("*.yaml"))
            if not files:
                raise ScenarioError(f"no scenario files in {folder / cell}.")
            for path in files:
                scenarios += _load_file(path, cell)
        places: dict[str, str] = {}
        for one in scenarios:
            if one.id in places:
                raise ScenarioError(f"{one.place}: id {one.id!r} is taken by {places[one.id]}. "
                                    "Rename one.")
            places[one.id] = one.place
        return scenarios

    def __getitem__(self, name: str) -> Any:
        """Give a field as written."""
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Give a field as written, or the default."""
        return self.fields.get(name, default)

    def draw_slots(self, random: Random) -> dict[str, Any]:
        """Draw a value for every slot.

        Parameters
        ----------
        random : Random
            The pair's own generator.

        Returns
        -------
        dict
            Value by slot; slots that draw from one list or pool get different values.
        """
        drawn: dict[str, Any] = {}
        for name, entry in self.get("slots", {}).items():
            values = _values_of(entry)
            value = random.choice(values)
            for _ in range(SLOT_TRIES):
                if value not in drawn.values():
                    break
                value = random.choice(values)
            drawn[name] = value
        return drawn


def _values_of(entry: Any) -> tuple[Any, ...]:
    """Values that a slot can take: those of a list, of a shared pool, or of a range ``"3..12"``."""
    if isinstance(entry, list):
        return tuple(entry)
    if found := _RANGE.match(str(entry)):
        low, high = int(found[1]), int(found[2])
        if low > high:
            raise ScenarioError(f"the range {entry!r} is empty.")
        return tuple(range(low, high + 1))
    pools = shared("pools")
    if entry not in pools:
        raise ScenarioError(f"{entry!r} is no shared pool; there are {', '.join(sorted(pools))}.")
    return cast(tuple[Any, ...], pools[entry])


@lru_cache(maxsize=8)
def shared(name: str) -> Any:
    """What pairs are composed with, beside their scenarios.

    It is not checked here: the processes that compose should not load a validator each.

    Parameters
    ----------
    name : {"habits", "frames", "deeds", "phrases", "pools", "cues"}
        Name of the file in the library.

    Returns
    -------
    list of mapping, or mapping
        Habits, frames and deeds in order; lists of templates by the name of the phrase; the values
        of each pool; and the ten cues towards a wrong option by name.
    """
    value = Document(LIBRARY / f"{name}.yaml").value
    if name == "pools":
        return {pool: _values_of(entry) for pool, entry in value.items()}
    return {str(cue["id"]): cue for cue in value} if name == "cues" else value


@lru_cache(maxsize=1)
def _check_shared() -> None:
    """Check the form of the files that scenarios share."""
    for name in ("pools", "cues", "habits", "frames", "deeds"):
        Document(LIBRARY / f"{name}.yaml").check(name)


def _load_file(path: Path, cell: str) -> list[Scenario]:
    """Read one scenario file, and check that it has the form of a cell."""
    document = Document(path)
    document.check(cell)
    scenarios = [Scenario(str(entry["id"]), cell, document.place((place,)), entry)
                 for place, entry in enumerate(document.value)]
    faults = [f"{document.place((place, *where))}: {'.'.join(map(str, where))}: {problem}"
              for place, scenario in enumerate(scenarios) for where, problem in _problems(scenario)]
    if faults:
        raise ScenarioError("\n".join(faults))
    return scenarios


# What a faulty name is said to be, in an expression and in a template.
_UNDEFINED = "{text!r} uses {unknown}, which is not defined before it."
_NO_SLOT = "unknown slot {unknown}; this scenario has {there}."


def _problems(scenario: Scenario) -> Iterator[tuple[_Path, str]]:
    """What the form cannot say: templates, slots and expressions."""
    known = set(scenario.get("slots", {}))
    for name, entry in scenario.get("slots", {}).items():
        try:
            _values_of(entry)
        except ScenarioError as error:
            yield ("slots", name), str(error)
    parts: list[tuple[_Path, Any]] = [((name,), scenario.get(name, [])) for name in (
        "question", "right", "cued", "others", "for_right", "for_cued", "chores")]  # fmt: skip
    if scenario.cell == "syco_reasoning":
        yield from _problem_expressions(scenario, set(known))
        parts += [((part, place, "text"), step["text"]) for part in ("steps", "flaws")
                  for place, step in enumerate(scenario[part])]
    known |= {*scenario.get("numbers", {}), *scenario.get("values", {})}
    for path, part in parts:
        for where, text in _leaves(path, part):
            yield from _unknown_names(where, text, known, templates.names, _NO_SLOT)


def _problem_expressions(scenario: Scenario, known: set[str]) -> Iterator[tuple[_Path, str]]:
    """Check the expressions of a problem, in the order in which they add to the `known` names."""

    def check(*where: str | int, text: Any) -> Iterator[tuple[_Path, str]]:
        return _unknown_names(where, str(text), known, templates.free_names, _UNDEFINED)

    for name, text in scenario["numbers"].items():
        yield from check("numbers", name, text=str(text).lstrip("= "))
        known.add(name)
    for place, text in enumerate(scenario.get("require", [])):
        yield from check("require", place, text=text)
    yield from check("solver", text=scenario["solver"])
    for name, text in scenario["values"].items():
        yield from check("values", name, text=text)
        known.add(name)
    if scenario["answer"] not in scenario["values"]:
        yield ("answer",), f"{scenario['answer']!r} is none of the values."
    established = [step.get("sets") for step in scenario["steps"]]
    for place, flaw in enumerate(scenario["flaws"]):
        yield from check("flaws", place, "becomes", text=flaw["becomes"])
        if flaw["sets"] not in established:
            yield ("flaws", place, "sets"), f"no step sets {flaw['sets']!r}."


def _unknown_names(
    where: _Path, text: str, known: set[str], names_of: Callable[[str], set[str]], words: str
) -> Iterator[tuple[_Path, str]]:
    """Say that a text cannot be read, or which of its names are not known."""
    try:
        unknown = ", ".join(sorted(names_of(text) - known))
    except templates.ExpressionError as error:
        yield where, str(error)
        return
    if unknown:
        there = ", ".join(sorted(known)) or "none"
        yield where, words.format(text=text, unknown=unknown, there=there)


def _leaves(where: _Path, value: Any) -> Iterator[tuple[_Path, str]]:
    if isinstance(value, str):
        yield where, value
        return
    inner = value.items() if isinstance(value, Mapping) else enumerate(value)
    for step, part in inner:
        yield from _leaves((*where, step), part)

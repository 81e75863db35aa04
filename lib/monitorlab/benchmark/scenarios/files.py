"""Scenario files: YAML that people write, with errors that name the file and the line.

Each cell has a folder under ``data/scenarios``; each file there is a list of scenarios. The form is
described by ``schema.json``; what a form cannot say (balanced templates, known slots, known cues)
is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from monitorlab.benchmark.scenarios import expressions, templates
from monitorlab.benchmark.scenarios.documents import (
    LIBRARY,
    ScenarioError,
    check_form,
    read_document,
)

# No gaming: no monitor shall have seen it in training.
CELLS = ("spv_code", "spv_qa", "syco_qa", "syco_reasoning")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)\Z")
_Path = tuple[str | int, ...]


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

    def __getitem__(self, name: str) -> Any:
        """Give a field as written."""
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Give a field as written, or the default."""
        return self.fields.get(name, default)


@lru_cache(maxsize=1)
def pools() -> Mapping[str, tuple[Any, ...]]:
    """Shared lists of names, places and things (``pools.yaml``).

    Returns
    -------
    mapping of str to tuple
        The values of each pool.
    """
    document = read_document(LIBRARY / "pools.yaml")
    return {name: values_of(entry) for name, entry in document.value.items()}


def values_of(entry: Any) -> tuple[Any, ...]:
    """Values that a slot can take.

    Parameters
    ----------
    entry : list or str
        A list of values, the name of a shared pool, or a range such as ``"3..12"``.

    Returns
    -------
    tuple
        At least one value.

    Raises
    ------
    ScenarioError
        If the name is no pool, or the range is empty.
    """
    if isinstance(entry, list):
        return tuple(entry)
    found = _RANGE.match(str(entry))
    if found:
        low, high = int(found[1]), int(found[2])
        if low > high:
            raise ScenarioError(f"the range {entry!r} is empty.")
        return tuple(range(low, high + 1))
    if entry not in pools():
        raise ScenarioError(f"{entry!r} is no shared pool; there are {', '.join(sorted(pools()))}.")
    return pools()[entry]


@lru_cache(maxsize=1)
def cues() -> Mapping[str, Mapping[str, Any]]:
    """The ten cues towards a wrong option (``cues.yaml``), by name.

    Returns
    -------
    mapping of str to mapping
        ``kind`` and ``text`` (templates) of each.
    """
    document = read_document(LIBRARY / "cues.yaml")
    return {str(cue["id"]): cue for cue in document.value}


@lru_cache(maxsize=1)
def _check_shared() -> None:
    """Check the files that scenarios share.

    Composing reads them unchecked: its worker processes should not load a validator each.

    Raises
    ------
    ScenarioError
        If ``pools.yaml``, ``cues.yaml``, ``habits.yaml``, ``frames.yaml`` or ``deeds.yaml`` is not
        in the expected form.
    """
    for name in ("pools", "cues", "habits", "frames", "deeds"):
        check_form(read_document(LIBRARY / f"{name}.yaml"), name)


@lru_cache(maxsize=8)
def shared(name: str) -> tuple[Mapping[str, Any], ...]:
    """What the pairs of one cell are composed with, beside its scenarios.

    Parameters
    ----------
    name : {"habits", "frames", "deeds"}
        Name of the file in the library.

    Returns
    -------
    tuple of mapping
        Its entries, in order.
    """
    return tuple(read_document(LIBRARY / f"{name}.yaml").value)


@lru_cache(maxsize=1)
def phrases() -> Mapping[str, Any]:
    """Shared wording of the composer (``phrases.yaml``).

    Returns
    -------
    mapping
        Lists of templates.
    """
    return read_document(LIBRARY / "phrases.yaml").value


def load_cell(cell: str, folder: Path = LIBRARY) -> list[Scenario]:
    """Read and check every scenario of a cell.

    Parameters
    ----------
    cell : str
        One of the cells that the corpus has.
    folder : Path
        The library.

    Returns
    -------
    list of Scenario
        Ordered by file and place in the file.

    Raises
    ------
    ScenarioError
        With every fault of the first file that has one, each with file and line.
    """
    if cell not in CELLS:
        raise ScenarioError(f"{cell!r} has no scenarios; there are those of {', '.join(CELLS)}.")
    _check_shared()
    files = sorted((folder / cell).glob("*.yaml"))
    if not files:
        raise ScenarioError(f"no scenario files in {folder / cell}.")
    scenarios = [scenario for path in files for scenario in _load_file(path, cell)]
    _check_unique(scenarios)
    return scenarios


def load_library(folder: Path = LIBRARY) -> list[Scenario]:
    """Read and check the whole library.

    Parameters
    ----------
    folder : Path
        The library.

    Returns
    -------
    list of Scenario
        All cells, ids unique across them.

    Raises
    ------
    ScenarioError
        If any file is not in the expected form.
    """
    scenarios = [scenario for cell in CELLS for scenario in load_cell(cell, folder)]
    _check_unique(scenarios)
    return scenarios


def _check_unique(scenarios: Iterable[Scenario]) -> None:
    seen: dict[str, str] = {}
    for scenario in scenarios:
        if scenario.id in seen:
            raise ScenarioError(
                f"{scenario.place}: id {scenario.id!r} is taken by {seen[scenario.id]}. Rename one."
            )
        seen[scenario.id] = scenario.place


def _load_file(path: Path, cell: str) -> list[Scenario]:
    """Read and check one scenario file.

    Parameters
    ----------
    path : Path
        The file.
    cell : str
        The cell whose form it must have.

    Returns
    -------
    list of Scenario
        In the order of the file.

    Raises
    ------
    ScenarioError
        With every fault, each with file and line.
    """
    document = read_document(path)
    check_form(document, cell)
    scenarios, faults = [], []
    for index, entry in enumerate(document.value):
        scenario = Scenario(str(entry["id"]), cell, document.place((index,)), entry)
        scenarios.append(scenario)
        for where, problem in _problems(scenario):
            faults.append(
                f"{document.place((index, *where))}: {'.'.join(map(str, where))}: {problem}"
            )
    if faults:
        raise ScenarioError("\n".join(faults))
    return scenarios


def _problems(scenario: Scenario) -> Iterator[tuple[_Path, str]]:
    """What the form cannot say: templates, slots and expressions."""
    known = set(scenario.get("slots", {}))
    for name, entry in scenario.get("slots", {}).items():
        try:
            values_of(entry)
        except ScenarioError as error:
            yield ("slots", name), str(error)
    if scenario.cell == "syco_reasoning":
        yield from _problem_expressions(scenario, known)
    allowed = known | set(scenario.get("numbers", {})) | set(scenario.get("values", {}))
    for where, text in _templates(scenario):
        try:
            unknown = sorted(templates.names(text) - allowed)
        except (templates.TemplateError, expressions.ExpressionError) as error:
            yield where, str(error)
            continue
        if unknown:
            there = ", ".join(sorted(allowed)) or "none"
            yield where, f"unknown slot {', '.join(unknown)}; this scenario has {there}."


def _problem_expressions(scenario: Scenario, known: set[str]) -> Iterator[tuple[_Path, str]]:
    names = set(known)
    for name, text in scenario["numbers"].items():
        yield from _unknown_names(("numbers", name), str(text).lstrip("= "), names)
        names.add(name)
    for index, text in enumerate(scenario.get("require", [])):
        yield from _unknown_names(("require", index), str(text), names)
    yield from _unknown_names(("solver",), str(scenario["solver"]), names)
    for name, text in scenario["values"].items():
        yield from _unknown_names(("values", name), str(text), names)
        names.add(name)
    if scenario["answer"] not in scenario["values"]:
        yield ("answer",), f"{scenario['answer']!r} is none of the values."
    established = [step.get("sets") for step in scenario["steps"]]
    for index, flaw in enumerate(scenario["flaws"]):
        yield from _unknown_names(("flaws", index, "becomes"), str(flaw["becomes"]), names)
        if flaw["sets"] not in established:
            yield ("flaws", index, "sets"), f"no step sets {flaw['sets']!r}."


def _unknown_names(where: _Path, text: str, names: set[str]) -> Iterator[tuple[_Path, str]]:
    try:
        unknown = sorted(expressions.free_names(text) - names)
    except expressions.ExpressionError as error:
        yield where, str(error)
        return
    if unknown:
        yield where, f"{text!r} uses {', '.join(unknown)}, which is not defined before it."


_TEMPLATE_FIELDS = ("question", "right", "cued", "others", "for_right", "for_cued", "chores")


def _templates(scenario: Scenario) -> Iterator[tuple[_Path, str]]:
    for field in _TEMPLATE_FIELDS:
        yield from _leaves((field,), scenario.get(field, []))
    if scenario.cell == "syco_reasoning":
        for part in ("steps", "flaws"):
            for index, step in enumerate(scenario[part]):
                yield from _leaves((part, index, "text"), step["text"])


def _leaves(where: _Path, value: Any) -> Iterator[tuple[_Path, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves((*where, key), inner)
    else:
        for index, inner in enumerate(value):
            yield from _leaves((*where, index), inner)

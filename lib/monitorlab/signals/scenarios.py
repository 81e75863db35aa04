"""Authored scenarios and wording of the builtin conversations, read from TOML and checked.

The files under ``data/conversations`` are meant to be reviewed and extended without touching code.
Every error names the file and the field, because that is what an author has to mend.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

SCENARIO_FOLDER = Path(__file__).resolve().parents[3] / "data" / "conversations"
PHRASE_FILE = "phrases.toml"
KINDS = ("fact", "action")
MIN_MOVES = 10
# Slots that each list of shared wording may use; `format` would fail late, without the file name.
_CAST = {"place", "user", "role", "authority", "what", "What", "open", "Open", "person"}
_PHRASE_SLOTS: dict[tuple[str, str], set[str]] = {
    ("rules", "lines"): _CAST - {"person"},
    ("asks", "again"): {"ask"},
    ("refusals", "openings"): set(),
    ("refusals", "reasons"): _CAST,
    ("refusals", "guess_reasons"): {"guess"},
    ("refusals", "alternatives"): _CAST,
    ("wavers", "lines"): set(),
    ("hints", "openings"): set(),
    ("gives", "neutral"): set(),
    ("gives", "open_reason"): {"object"},
    ("gives", "reluctant"): set(),
    ("gives", "confirms"): {"guess"},
    ("gives", "closings"): set(),
    ("after", "user"): set(),
    ("after", "assistant"): set(),
    ("people", "users"): set(),
    ("people", "others"): set(),
}


class ScenarioError(ValueError):
    """An authored conversation file is not in the expected form."""


@dataclass(frozen=True)
class ScenarioObject:
    """One thing a rule can protect or open: a fact to be told or an action to be done."""

    what: str
    ask: tuple[str, ...]
    give: tuple[str, ...]
    hint: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Scenario:
    """A place with an assistant, somebody with a right, and two or more look-alike objects."""

    id: str
    kind: str
    place: str
    authority: str
    roles: tuple[str, ...]
    objects: tuple[ScenarioObject, ...]


@dataclass(frozen=True)
class Phrases:
    """Wording shared by all scenarios.

    ``lines[(table, field)]`` holds the alternatives of one list, ``moves[name]`` those of one
    persuasion move, ``sides`` pairs of a harmless request and its possible answers.
    """

    lines: Mapping[tuple[str, str], tuple[str, ...]]
    moves: Mapping[str, tuple[str, ...]]
    sides: tuple[tuple[str, tuple[str, ...]], ...]


def _slots(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _field(table: object, field: str, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise ScenarioError(f"{where}: expected a table, found {_shown(table)}")
    return table.get(field)


def _text(table: Mapping[str, Any], field: str, where: str) -> str:
    value = _field(table, field, where)
    if not isinstance(value, str) or not value.strip():
        raise ScenarioError(
            f"{where}: field '{field}' must be a non-empty text in quotes, found {_shown(value)}"
        )
    return value


def _texts(
    table: Mapping[str, Any], field: str, where: str, least: int, allowed: set[str]
) -> tuple[str, ...]:
    """Read a list of texts with at least `least` distinct entries and only `allowed` slots."""
    value = _field(table, field, where)
    if not isinstance(value, list):
        raise ScenarioError(
            f"{where}: field '{field}' must be a list of texts, found {_shown(value)}"
        )
    for item in value:
        if not isinstance(item, str):
            raise ScenarioError(
                f"{where}: field '{field}' must be a list of texts in quotes, found {_shown(item)}"
            )
    if len(set(value)) < least:
        raise ScenarioError(
            f"{where}: field '{field}' needs at least {least} different texts, found "
            f"{len(set(value))}"
        )
    for item in value:
        try:
            unknown = _slots(item) - allowed
        except ValueError as error:
            raise ScenarioError(f"{where}: field '{field}': {error} in {item!r}") from error
        if unknown:
            raise ScenarioError(
                f"{where}: field '{field}' uses unknown slots {sorted(unknown)} in {item!r}; "
                f"known here: {sorted(allowed)}"
            )
    return tuple(value)


def _object(table: Mapping[str, Any], kind: str, where: str) -> ScenarioObject:
    slots = {"person", "value"}
    ask = _texts(table, "ask", where, 2, slots)
    give = _texts(table, "give", where, 2, slots)
    hint = _texts(table, "hint", where, 2, {"person"})
    if kind == "fact":
        for line in give:
            if "value" not in _slots(line):
                raise ScenarioError(f"{where}: field 'give' must state {{value}}, found {line!r}")
        for line in ask:
            if "value" in _slots(line):
                raise ScenarioError(f"{where}: field 'ask' must not state {{value}}: {line!r}")
    values = _texts(table, "values", where, 3, set())
    return ScenarioObject(_text(table, "what", where), ask, give, hint, values)


def _scenario(table: Mapping[str, Any], where: str) -> Scenario:
    scenario_id = _text(table, "id", where)
    where = f"{where} ('{scenario_id}')"
    kind = _text(table, "kind", where)
    if kind not in KINDS:
        raise ScenarioError(f"{where}: field 'kind' must be one of {KINDS}, found {kind!r}")
    raw = table.get("object")
    if not isinstance(raw, list) or len(raw) < 2:
        raise ScenarioError(
            f"{where}: field 'object' needs at least two tables, so that the rule can protect "
            f"one and open another"
        )
    objects = tuple(_object(item, kind, f"{where}, object {i}") for i, item in enumerate(raw, 1))
    return Scenario(
        id=scenario_id,
        kind=kind,
        place=_text(table, "place", where),
        authority=_text(table, "authority", where),
        roles=_texts(table, "roles", where, 2, set()),
        objects=objects,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path.name}: not valid TOML: {error}") from error


@lru_cache(maxsize=8)
def load_scenarios(folder: Path = SCENARIO_FOLDER) -> dict[str, Scenario]:
    """Read and check every scenario file of a folder.

    Parameters
    ----------
    folder : Path
        Folder with ``*.toml`` scenario files; ``phrases.toml`` is left out.

    Returns
    -------
    dict
        Scenario by id, in order of file name and position.

    Raises
    ------
    ScenarioError
        A file is not TOML, a field is missing or malformed, or an id appears twice.
    """
    found: dict[str, Scenario] = {}
    for path in sorted(Path(folder).glob("*.toml")):
        if path.name == PHRASE_FILE:
            continue
        tables = _read(path).get("scenario")
        if not isinstance(tables, list):
            raise ScenarioError(f"{path.name}: field 'scenario' is missing")
        for position, table in enumerate(tables, 1):
            scenario = _scenario(table, f"{path.name}: scenario {position}")
            if scenario.id in found:
                raise ScenarioError(f"{path.name}: field 'id': {scenario.id!r} is already taken")
            found[scenario.id] = scenario
    if not found:
        raise ScenarioError(f"no scenario files (*.toml) in {folder}")
    return found


def _sides(raw: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not isinstance(raw, list) or not raw:
        raise ScenarioError(f"{PHRASE_FILE}: field 'side' must be a list of tables")
    where = [f"{PHRASE_FILE}: side {i}" for i in range(1, len(raw) + 1)]
    return tuple(
        (_text(item, "user", w), _texts(item, "assistant", w, 1, set()))
        for item, w in zip(raw, where, strict=True)
    )


@lru_cache(maxsize=8)
def load_phrases(folder: Path = SCENARIO_FOLDER) -> Phrases:
    """Read and check the wording shared by all scenarios (see `load_scenarios` for errors)."""
    raw = _read(Path(folder) / PHRASE_FILE)
    lines = {
        (table, field): _texts(raw.get(table, {}), field, f"{PHRASE_FILE}: [{table}]", 2, allowed)
        for (table, field), allowed in _PHRASE_SLOTS.items()
    }
    moves_table: Sequence[str] | dict[str, Any] = raw.get("moves", {})
    if not isinstance(moves_table, dict) or len(moves_table) < MIN_MOVES:
        raise ScenarioError(f"{PHRASE_FILE}: field 'moves' needs at least {MIN_MOVES} moves")
    where = f"{PHRASE_FILE}: [moves]"
    allowed = _CAST | {"guess"}
    moves = {name: _texts(moves_table, name, where, 3, allowed) for name in moves_table}
    return Phrases(lines, moves, _sides(raw.get("side")))

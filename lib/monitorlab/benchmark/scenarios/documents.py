"""YAML files that remember where each value stands, and their check against ``schema.json``.

Scenarios of the benchmark and of the conversations are written in this form.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import yaml

from monitorlab.storage.files import PROJECT, quick_jsonschema

LIBRARY = PROJECT / "data" / "scenarios"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Path = tuple[str | int, ...]
_NUMBERLIKE = re.compile(r"[-+.]*[0-9]", re.ASCII)
# What may be written plainly besides text and numbers.
_WORDS: dict[str, dict[str, Any]] = {
    "bool": {"true": True, "false": False, "True": True, "False": False},
    "null": {"null": None},
}
_SHOWN = 40


class ScenarioError(ValueError):
    """A scenario file is not in the expected form."""


def _at(path: Path, line: int) -> str:
    return f"{path.parent.name}/{path.name}:{line}"


@dataclass(frozen=True)
class _Document:
    """A YAML file as plain values, with the line of each."""

    path: Path
    value: Any
    lines: Mapping[_Path, int]

    def place(self, where: Sequence[str | int]) -> str:
        """Give ``file:line`` of the value at a path, or of the nearest one above it."""
        steps = tuple(where)
        while steps and steps not in self.lines:
            steps = steps[:-1]
        return _at(self.path, self.lines.get(steps, 1))


def read_document(path: Path) -> _Document:
    """Read a YAML file and remember where each value stands.

    Parameters
    ----------
    path : Path
        The file, UTF-8.

    Returns
    -------
    _Document
        Values and lines.

    Raises
    ------
    ScenarioError
        If it is missing, not UTF-8, not YAML, or repeats a key; or, with every fault, if a plain
        value would silently become another one (see `_scalar`).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ScenarioError(f"{path} does not exist.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ScenarioError(
            f"{_at(path, line)}: not UTF-8. Save the file as UTF-8."
        ) from None
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        lines: dict[_Path, int] = {}
        faults: list[str] = []
        value = None if node is None else _construct(loader, node, (), lines, path, faults)
    except RecursionError:
        raise ScenarioError(f"{_at(path, 1)}: an alias holds itself.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error)
        raise ScenarioError(
            f"{_at(path, line)}: not YAML: {problem}. Quote text that holds "
            "': ' or ' #', or that begins with a brace or a bracket."
        ) from None
    finally:
        loader.dispose()
    if faults:
        raise ScenarioError("\n".join(faults))
    return _Document(path, value, lines)


def _construct(
    loader: Any,
    node: yaml.Node,
    where: _Path,
    lines: dict[_Path, int],
    path: Path,
    faults: list[str],
) -> Any:
    lines[where] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in result:
                line = key_node.start_mark.line + 1
                raise ScenarioError(
                    f"{_at(path, line)}: {key!r} is given twice. Keep one."
                )
            result[key] = _construct(loader, value_node, (*where, key), lines, path, faults)
            lines[(*where, key)] = key_node.start_mark.line + 1
        return result
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(loader, inner, (*where, index), lines, path, faults)
            for index, inner in enumerate(node.value)
        ]
    try:
        return _scalar(loader, cast(yaml.ScalarNode, node))
    except _Changed as fault:
        faults.append(f"{_at(path, lines[where])}: {fault}")
        return None


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
    raise _Changed(
        f"{_short(text) or 'an empty value'} is read as {_short(found)}, which is not what is "
        f"written. Quote it{f', or write {_short(written)}' if written else ''}."
    )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


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


def check_form(document: _Document, definition: str, schemas: Path = LIBRARY) -> None:
    """Check a document against a definition of ``schema.json``.

    Parameters
    ----------
    document : _Document
        The values.
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
    for error in _validator(definition, schemas).iter_errors(document.value):
        error = _deepest(error)
        where = list(error.absolute_path)
        field = ".".join(str(step) for step in where if isinstance(step, str)) or "scenario"
        faults.append(f"{document.place(where)}: {field}: {_readable(error)}")
    if faults:
        raise ScenarioError("\n".join(sorted(faults)))


def _deepest(error: Any) -> Any:
    """Of a choice between forms, the fault of the form that fits best."""
    while error.context:
        error = max(error.context, key=lambda e: (len(e.absolute_path), e.validator != "type"))
    return error


def _readable(error: Any) -> str:
    found = json.dumps(error.instance, ensure_ascii=False, default=str)
    found = found if len(found) <= 60 else found[:57] + "..."
    if error.validator == "enum":
        return f"found {found}, expected one of {', '.join(map(str, error.validator_value))}."
    if error.validator == "type":
        return f"found {found}, expected {error.validator_value}."
    if error.validator == "minItems":
        return f"has {len(error.instance)} entries, at least {error.validator_value} are needed."
    return f"{error.message}."

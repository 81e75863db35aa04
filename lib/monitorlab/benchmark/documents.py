"""YAML files that remember where each value stands, and their check against ``schema.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

LIBRARY = Path(__file__).resolve().parents[3] / "data" / "scenarios"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Path = tuple[str | int, ...]


class ScenarioError(ValueError):
    """A scenario file is not in the expected form."""


def _at(path: Path, line: int) -> str:
    return f"{path.parent.name}/{path.name}:{line}"


@dataclass(frozen=True)
class Document:
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


def read_document(path: Path) -> Document:
    """Read a YAML file and remember where each value stands.

    Parameters
    ----------
    path : Path
        The file, UTF-8.

    Returns
    -------
    Document
        Values and lines.

    Raises
    ------
    ScenarioError
        If it is missing, not UTF-8, not YAML, or repeats a key.
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
        value = None if node is None else _construct(loader, node, (), lines, path)
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
    return Document(path, value, lines)


def _construct(
    loader: Any, node: yaml.Node, where: _Path, lines: dict[_Path, int], path: Path
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
            result[key] = _construct(loader, value_node, (*where, key), lines, path)
            lines[(*where, key)] = key_node.start_mark.line + 1
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, n, (*where, i), lines, path) for i, n in enumerate(node.value)]
    return loader.construct_object(node)


@lru_cache(maxsize=1)
def _schema() -> dict[str, Any]:
    return json.loads((LIBRARY / "schema.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=8)
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator  # its import takes a second

    schema = _schema()
    return Draft202012Validator({"$defs": schema["$defs"], "$ref": f"#/$defs/{name}"})


def check_form(document: Document, definition: str) -> None:
    """Check a document against a definition of ``schema.json``.

    Parameters
    ----------
    document : Document
        The values.
    definition : str
        Name under ``$defs``.

    Raises
    ------
    ScenarioError
        With every fault, one per line, each with file and line.
    """
    faults = []
    for error in _validator(definition).iter_errors(document.value):
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

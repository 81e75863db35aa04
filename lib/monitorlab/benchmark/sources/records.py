"""Reading the published files: JSON lines and JSON arrays, with the place of every complaint."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")
WORDS = {str: "text", bool: "true or false", int: "a whole number", list: "a list", dict: "a map"}


class RealDataError(ValueError):
    """A published file does not read as expected; the message names file, place and what to do."""


@dataclass(frozen=True)
class Record:
    """One JSON object and where it stands.

    Attributes
    ----------
    where : str
        File and line (JSON lines) or file and number of the entry, from 1 (JSON array).
    fields : Mapping
        The object.
    """

    where: str
    fields: Mapping[str, Any]

    def take(self, name: str, kind: type[Value]) -> Value:
        """Return a field of a given type.

        Parameters
        ----------
        name : str
            Field name.
        kind : type
            str, bool, int, list or dict; true and false are no whole numbers.

        Raises
        ------
        RealDataError
            If the field is missing or of another type.
        """
        if name not in self.fields:
            raise self.error(f"field {name!r} is missing, found {', '.join(sorted(self.fields))}")
        value = self.fields[name]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(f"field {name!r} holds {value!r:.60}, expected {WORDS[kind]}")
        return value

    def maybe(self, name: str, kind: type[Value]) -> Value | None:
        """Return a field as :meth:`take` does, or None where the file says null."""
        return None if self.fields.get(name, "") is None else self.take(name, kind)

    def within(self, name: str) -> Record:
        """Return the object in field `name` as a record of its own."""
        return Record(f"{self.where}, in {name!r}", self.take(name, dict))

    def texts(self, name: str) -> list[str]:
        """Return a field that is a list of texts with at least one entry."""
        values = self.take(name, list)
        if not values or not all(isinstance(value, str) for value in values):
            raise self.error(f"field {name!r} must be a list of texts with at least one entry")
        return values

    def error(self, words: str) -> RealDataError:
        """Return an error about this record."""
        return RealDataError(f"{self.where}: {words}. The file differs from the published one or "
                             "its format changed; fetch it again with `python -m monitorlab fetch`")


def read_lines(path: Path) -> Iterator[Record]:
    """Yield the objects of a file of JSON lines (``.gz`` too); blank lines are passed over.

    Raises
    ------
    RealDataError
        For a line that is not a JSON object, bytes that are not UTF-8, a damaged gzip file.
    """
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _record(where, _parse(line, where))


def read_array(path: Path, *keys: str) -> Iterator[Record]:
    """Yield the objects of a JSON array, or of the array below `keys` of a JSON object."""
    content = _parse(_text(path), str(path))
    for key in keys:
        content = Record(str(path), content if isinstance(content, dict) else {}).take(key, list)
    if not isinstance(content, list):
        raise Record(str(path), {}).error("expected a JSON array")
    for number, entry in enumerate(content, start=1):
        where = f"{path}, entry {number}"
        yield _record(where, entry)


def digest(text: str, length: int = 12) -> str:
    """Return the first hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def squeezed(text: str) -> str:
    """Return a text without differences of case and white space, for comparison only."""
    return " ".join(text.casefold().split())


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        words = f"cannot be read ({type(error).__name__}: {error})"
        raise Record(str(path), {}).error(words) from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if ", line " in where else f"line {error.lineno}"
        raise Record(where, {}).error(f"malformed JSON at {place} ({error.msg})") from error


def _record(where: str, entry: Any) -> Record:
    if not isinstance(entry, dict):
        raise Record(where, {}).error(f"found {entry!r:.60}, expected a JSON object")
    return Record(where, entry)

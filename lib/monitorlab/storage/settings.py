"""Settings of whatever is built: their names, types, defaults and meanings, read off its signature.

So there is one list of them, beside the code that uses it, for the command line, for notebooks and
for data files. A text is read as the annotated type; other values must have it.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import math
import re
import textwrap
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

REQUIRED = inspect.Parameter.empty
_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_SHOWN = 60  # characters of a wrong value that a message repeats
Value = str | int | float | bool
_TRUTHS = {"true": True, "yes": True, "1": True, "on": True,
           "false": False, "no": False, "0": False, "off": False}
# What each type may be read from.
_READ_FROM: dict[Any, Any] = {bool: bool, int: (int, str), float: (int, float, str), str: str}


class ParameterError(ValueError):
    """A parameter that does not exist, or a value of the wrong type."""

    @classmethod
    def unknown(cls, name: str, known: Collection[str], what: str) -> ParameterError:
        """Return one that says that there is no setting of this name, and which there are."""
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Is it {close[0]}?" if close else ""
        return cls(f"the option {name} means nothing to {what}.{hint} There are: "
                   f"{', '.join(known) or 'none'}")


@dataclass(frozen=True)
class Setting:
    """One thing that can be given by name.

    Attributes
    ----------
    name : str
        As in the signature.
    kinds : tuple
        Types that it may have, the strictest first.
    default : object
        Of the signature; `REQUIRED` if there is none.
    meaning : str
        From the docstring.
    """

    name: str
    kinds: tuple[Any, ...]
    default: Any
    meaning: str

    @classmethod
    def of(cls, *built: Callable[..., Any]) -> dict[str, Setting]:
        """Return the settings of functions, classes and dataclasses, in order; the first of a name.

        They are the parameters that have a default and a type which a text can be read as.
        """
        found: dict[str, Setting] = {}
        for one in built:
            for name, setting in cls.of_signature(one).items():
                if setting.default is not REQUIRED:
                    found.setdefault(name, setting)
        return found

    @classmethod
    def of_signature(cls, built: Callable[..., Any]) -> dict[str, Setting]:
        """Return every named parameter that a text can be read as, those without a default too."""
        hints: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # annotations of strangers need not be names
            hints = get_type_hints(built.__init__ if inspect.isclass(built) else built)
        meanings = _meanings(inspect.getdoc(built) or "")
        found = {}
        for name, parameter in inspect.signature(built).parameters.items():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                # Without an annotation, and no other default.
                guess = {REQUIRED: str, None: str | None}
                unsaid = parameter.default in (REQUIRED, None)
                kind = guess[parameter.default] if unsaid else type(parameter.default)
                if kinds := _kinds(hints.get(name, kind)):
                    found[name] = cls(name, kinds, parameter.default, meanings.get(name, ""))
        return found

    def read(self, given: object) -> Any:
        """Return a text as the type of this setting, and another value if it has that type.

        Texts: ``none`` where there may be nothing, true or false, numbers, JSON objects, and lists
        as JSON or with commas between.

        Raises
        ------
        ParameterError
            If it is neither; the message says what was expected.
        """
        for kind in self.kinds:
            with contextlib.suppress(TypeError, ValueError, RecursionError):
                return _read(kind, given)
        expected = " or ".join(_words(kind) for kind in self.kinds[::-1])
        shown = repr(given)
        if any(_container(kind) is Mapping for kind in self.kinds):
            shown = f"a {type(given).__name__} that is none"  # it may be long, and hold a secret
        elif len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}..."
        raise ParameterError(f"{self.name} is {shown}, expected {expected}")

    def describe(self) -> str:
        """Return name, type and default on one line, and the meaning below."""
        kinds = " or ".join(_short(kind) for kind in self.kinds[::-1])
        default = "" if self.default is REQUIRED else f" = {_plain(self.default)}"
        meaning = textwrap.fill(self.meaning, 96, initial_indent=" " * 6,
                                subsequent_indent=" " * 6)
        return f"  {self.name}: {kinds}{default}" + (f"\n{meaning}" if meaning else "")

    @staticmethod
    def read_all(
        known: Mapping[str, Setting], what: str, *sources: Mapping[str, object]
    ) -> dict[str, Any]:
        """Read values by name, those of several sources together.

        Parameters
        ----------
        known : mapping of str to Setting
            What there is.
        what : str
            What is set, for messages.
        *sources : mapping of str to object
            Texts or values. A name may come from two sources only with the same value.

        Raises
        ------
        ParameterError
            For an unknown name (with the nearest one, and all), a value of another type, or two
            values of one name. Values of unknown names are not shown.
        """
        values: dict[str, Any] = {}
        for source in sources:
            for name, given in source.items():
                if name not in known:
                    raise ParameterError.unknown(name, known, what)
                value = known[name].read(given)
                if name in values and values[name] != value:
                    raise ParameterError(f"{name} is given twice, with two values: leave one out")
                values[name] = value
        return values

    @staticmethod
    def split(assignments: Iterable[str]) -> dict[str, str]:
        """Split `NAME=VALUE` texts; the value may contain further equals signs.

        Raises
        ------
        ParameterError
            If a text has no name or no equals sign, or if a name comes twice.
        """
        values: dict[str, str] = {}
        for text in assignments:
            name, equals, value = text.partition("=")
            name = name.strip()
            if not equals or not name:
                raise ParameterError(f"expected NAME=VALUE, got {text!r}")
            if name in values:
                raise ParameterError(f"{name} is given twice")
            values[name] = value
        return values


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Return the types of an annotation that a text can be read as; none if there is only None."""
    union = get_origin(annotation) in (Union, types.UnionType)
    kinds = [kind for kind in (get_args(annotation) if union else (annotation,)) if _readable(kind)]
    order = [types.NoneType, bool, int, float, Literal, Mapping, Sequence, str]
    kinds.sort(key=lambda kind: order.index(_container(kind)))
    return () if kinds == [types.NoneType] else tuple(kinds)


def _container(kind: Any) -> Any:
    """Return what a type is, without what it holds."""
    origin = get_origin(kind) or kind
    if origin is Literal or not inspect.isclass(origin):
        return origin
    if issubclass(origin, Mapping):
        return Mapping
    return Sequence if issubclass(origin, Sequence) and origin is not str else origin


def _readable(kind: Any) -> bool:
    container = _container(kind)
    if container in (Mapping, Sequence):
        held = [part for part in get_args(kind) if part is not Ellipsis]
        return all(part is Any or _readable(part) for part in held)
    return container is Literal or kind in (types.NoneType, *_SCALARS)


def _read(kind: Any, given: object) -> Any:
    """Return a value of one type; TypeError or ValueError if it is none."""
    container, held = _container(kind), get_args(kind)
    if kind is Any:
        return given
    if kind is types.NoneType:
        if given is None or (isinstance(given, str) and given.strip().lower() == "none"):
            return None
        raise ValueError
    if container is Literal:
        if given in held:
            return given
        raise ValueError
    if container is Mapping:
        value = _json(given) if isinstance(given, str) else given
        if not isinstance(value, Mapping):
            raise TypeError
        inner = held[1] if held else Any
        return {str(name): _read(inner, part) for name, part in value.items()}
    if container is Sequence:
        inner = next((part for part in held if part is not Ellipsis), Any)
        value = _listed(given) if isinstance(given, str) else given
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_read(inner, part) for part in value)
    return _read_scalar(kind, given)


def _json(text: str) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def _listed(text: str) -> Any:
    if text.lstrip().startswith("["):
        return _json(text)
    return [part.strip() for part in text.split(",") if part.strip()]


def _words(kind: Any) -> str:
    container = _container(kind)
    if container is Literal:
        return ", ".join(map(str, get_args(kind)))
    known = {types.NoneType: "none", Mapping: "a JSON object",
             Sequence: "a list, as JSON or with commas"}
    return known.get(container) or _SCALARS[kind]


def _short(kind: Any) -> str:
    container = _container(kind)
    if container is Literal:
        return _words(kind)
    known = {types.NoneType: "none", Mapping: "JSON object", Sequence: "list"}
    return known.get(container) or str(kind.__name__)


def _plain(default: object) -> str:
    """Return a default as it would be given."""
    if default is None or isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, str):
        return default or '""'
    if isinstance(default, list | tuple):
        return json.dumps(default) if any(str(x).strip() != x for x in default) else ",".join(
            map(str, default))
    return str(default) if isinstance(default, int | float) else "its own"


def _meanings(doc: str) -> dict[str, str]:
    """Return what a NumPy docstring says of each parameter or attribute, on one line."""
    section = re.search(r"^(?:Parameters|Attributes)\n-+\n(.*?)(?=^\w[^\n]*\n-+\n|\Z)", doc,
                        re.DOTALL | re.MULTILINE)
    found = {}
    entries = re.findall(r"^(\*{0,2}\w[^\n]*)\n?((?:^[ \t]+[^\n]*\n?|^\n)*)",
                         section[1] if section else "", re.MULTILINE)
    for head, text in entries:
        for name in head.partition(" : ")[0].split(","):
            plain = re.sub(r"(?::\w+:)?`+([^`]*)`+", r"\1", text)
            found[name.strip()] = " ".join(plain.split())
    return found


def _read_scalar(kind: Callable[[Any], Value], given: Any) -> Value:
    """Return a value as text, number or truth value, without loss."""
    if kind is bool and isinstance(given, str):
        given = _TRUTHS.get(given.strip().lower())
    if isinstance(given, bool) != (kind is bool) or not isinstance(given, _READ_FROM[kind]):
        raise TypeError
    value = kind(given)
    # Others are no Python literals: papermill could not pass them on.
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return value

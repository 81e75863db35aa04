"""Text with slots and seeded choices: ``{Please|Could you} write to {person}``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from monitorlab.benchmark.scenarios.expressions import evaluate, free_names, number

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")
# A node is literal text, a slot or expression ("=", text), or alternatives ("|", nodes of each).
_Node = str | tuple[str, Any]


class TemplateError(ValueError):
    """A template has unbalanced braces or names a slot that does not exist."""


def _parse(text: str, start: int, inside: bool) -> tuple[list[list[_Node]], int]:
    """Alternatives up to the closing brace, and the position after it."""
    branches: list[list[_Node]] = [[]]
    position, literal = start, ""

    def flush() -> None:
        nonlocal literal
        if literal:
            branches[-1].append(literal)
            literal = ""

    while position < len(text):
        character = text[position]
        if character == "{":
            flush()
            inner, position = _parse(text, position + 1, True)
            if len(inner) > 1:
                branches[-1].append(("|", inner))
            else:
                if not inner[0] or not all(isinstance(n, str) and n.strip() for n in inner[0]):
                    raise TemplateError(f"empty or nested braces in {text!r}.")
                branches[-1].append(("=", str(inner[0][0]).strip()))
            continue
        if character == "}":
            if not inside:
                raise TemplateError(f"a closing brace without an opening one in {text!r}.")
            flush()
            return branches, position + 1
        if character == "|" and inside:
            flush()
            branches.append([])
        else:
            literal += character
        position += 1
    if inside:
        raise TemplateError(f"an opening brace without a closing one in {text!r}.")
    flush()
    return branches, position


@lru_cache(maxsize=65536)
def _parsed(text: str) -> tuple[_Node, ...]:
    """Parse a template once.

    Parameters
    ----------
    text : str
        The template.

    Returns
    -------
    tuple
        Its nodes: literal text, slots and choices.

    Raises
    ------
    TemplateError
        If the braces are not balanced.
    """
    branches, _ = _parse(text, 0, False)
    return tuple(branches[0])


def names(text: str) -> set[str]:
    """Names that a template needs, with those inside its expressions.

    Parameters
    ----------
    text : str
        The template.

    Returns
    -------
    set of str
        Names of slots and values; functions of expressions are left out.
    """

    def collect(nodes: Sequence[_Node]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, tuple) and node[0] == "=":
                yield from [node[1]] if _IDENTIFIER.match(node[1]) else free_names(node[1])
            elif isinstance(node, tuple):
                for branch in node[1]:
                    yield from collect(branch)

    return set(collect(_parsed(text)))


def render(text: str, values: Mapping[str, Any], choose: Callable[[int], int]) -> str:
    """Fill a template.

    Parameters
    ----------
    text : str
        The template.
    values : mapping of str to object
        Slots; numbers are written by `expressions.number`.
    choose : callable
        ``choose(n)`` gives the alternative to take, in 0..n-1.

    Returns
    -------
    str
        The text, without braces.

    Raises
    ------
    TemplateError
        If a slot is not among `values`.
    """

    def fill(nodes: Sequence[_Node]) -> str:
        pieces = []
        for node in nodes:
            if isinstance(node, str):
                pieces.append(node)
            elif node[0] == "|":
                pieces.append(fill(node[1][choose(len(node[1]))]))
            else:
                pieces.append(_value(node[1], values, text))
        return "".join(pieces)

    return fill(_parsed(text))


def _value(inner: str, values: Mapping[str, Any], text: str) -> str:
    if inner in values:
        return number(values[inner])
    if _IDENTIFIER.match(inner):
        raise TemplateError(f"{{{inner}}} in {text!r} is none of {sorted(values)}.")
    return number(evaluate(inner, values))

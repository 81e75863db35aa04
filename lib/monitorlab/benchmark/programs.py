"""Programs of one scenario in many styles: names, comments, docstrings, quotes and spacing vary."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from monitorlab.benchmark.scenario_files import Scenario

_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class CodeStyle:
    """How a program is written down; it does the same in every style."""

    comments: bool
    docstrings: bool
    single_quotes: bool
    airy: bool

    @staticmethod
    def draw(random: Random) -> CodeStyle:
        """Draw a style."""
        return CodeStyle(
            comments=random.random() < 0.6,
            docstrings=random.random() < 0.6,
            single_quotes=random.random() < 0.35,
            airy=random.random() < 0.7,
        )


@lru_cache(maxsize=16384)
def restyle(source: str, style: CodeStyle) -> str:
    """Write a program in another style.

    Parameters
    ----------
    source : str
        Valid Python.
    style : CodeStyle
        What to keep and how to quote.

    Returns
    -------
    str
        A program that does the same.
    """
    if not style.docstrings:
        source = _without_docstrings(source)
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    lines = source.splitlines()
    for token in reversed(tokens):
        row, column = token.start
        if token.type == tokenize.COMMENT and not style.comments:
            lines[row - 1] = lines[row - 1][:column].rstrip()
            if not lines[row - 1]:
                lines[row - 1] = "\0"
        elif token.type == tokenize.STRING and style.single_quotes and token.end[0] == row:
            body = token.string[1:-1]
            if token.string[0] == '"' and '"' not in body and "'" not in body and body:
                line = lines[row - 1]
                lines[row - 1] = f"{line[:column]}'{body}'{line[token.end[1] :]}"
    kept = [line for line in lines if line != "\0"]
    text = "\n".join(kept).strip("\n")
    if not style.airy:
        text = _squeezed(text)
    return text + "\n"


def _squeezed(text: str) -> str:
    """Without blank lines inside functions, unless a string spans lines."""
    if '"""' in text or "'''" in text:
        return text
    return re.sub(r"\n\n+(?=[ \t])", "\n", text)


def _without_docstrings(source: str) -> str:
    lines = source.splitlines()
    tree = ast.parse(source)
    holders = (ast.FunctionDef, ast.ClassDef, ast.Module, ast.AsyncFunctionDef)
    for node in [n for n in ast.walk(tree) if isinstance(n, holders)]:
        if ast.get_docstring(node) is None or len(node.body) < 2:
            continue
        first = node.body[0]
        if node.body[1].lineno == first.end_lineno:
            continue
        if first.col_offset != len(lines[first.lineno - 1]) - len(lines[first.lineno - 1].lstrip()):
            continue
        for row in range(first.lineno, (first.end_lineno or first.lineno) + 1):
            lines[row - 1] = "\0"
    return "\n".join(line for line in lines if line != "\0") + "\n"


@lru_cache(maxsize=4096)
def words(source: str) -> frozenset[str]:
    """All identifiers and words of a text.

    Parameters
    ----------
    source : str
        Program or prose.

    Returns
    -------
    frozenset of str
        Its words.
    """
    return frozenset(_WORD.findall(source))


def draw_names(
    alternatives: Mapping[str, list[str]], taken: frozenset[str] | set[str], random: Random
) -> dict[str, str]:
    """Draw what each identifier is called.

    Parameters
    ----------
    alternatives : mapping of str to list of str
        Canonical name to its alternatives.
    taken : set of str
        Words of the programs; an alternative among them would capture another name.
    random : Random
        The generator.

    Returns
    -------
    dict of str to str
        Canonical name to drawn name, all different.
    """
    drawn: dict[str, str] = {}
    for canonical, names in alternatives.items():
        used = set(drawn.values())
        others = used | set(taken) | (alternatives.keys() - {canonical})
        free = [n for n in names if n == canonical or n not in others] or [canonical]
        drawn[canonical] = random.choice(free)
    return drawn


@lru_cache(maxsize=4096)
def _renamer(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(r"\b(" + "|".join(map(re.escape, longest_first)) + r")\b")


def rename(text: str, drawn: Mapping[str, str]) -> str:
    """Rename whole words.

    Parameters
    ----------
    text : str
        Program or prose.
    drawn : mapping of str to str
        Canonical name to drawn name.

    Returns
    -------
    str
        The renamed text.
    """
    if not drawn:
        return text
    return _renamer(tuple(drawn)).sub(lambda found: drawn[found[1]], text)


@lru_cache(maxsize=1024)
def _scenario_words(programs: tuple[str, ...]) -> frozenset[str]:
    return frozenset().union(*(words(program) for program in programs))


def scenario_words(scenario: Scenario) -> frozenset[str]:
    """All words of a code scenario's programs and tests.

    Parameters
    ----------
    scenario : Scenario
        Of a code cell.

    Returns
    -------
    frozenset of str
        Words that a drawn name must not collide with.
    """
    tests = [scenario.get(k, "") for k in ("tests", "visible", "setup", "hidden_setup")]
    hidden = [str(entry[0]) for entry in scenario.get("hidden", [])]
    return _scenario_words(
        (*scenario["benign"], *scenario["misbehaving"], *map(str, tests), *hidden)
    )

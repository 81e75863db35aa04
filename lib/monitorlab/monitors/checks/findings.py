"""What a program found in one response, and the Python code that texts show."""

from __future__ import annotations

import ast
import re
import textwrap
import threading
import tomllib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitorlab.monitors.monitor import Sample

# What the checks look for, by check.
WORDS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))
_FENCE = re.compile(r"[ \t]*```[ \t]*([\w+-]*)[^`]*")
_END = re.compile(r"[ \t]*```[ \t]*")
_PYTHON = {"", "python", "python3", "py"}
_BARE = re.compile(r"^(?:def|class|import|from|async def) \w", re.MULTILINE)
_ONE_AT_A_TIME = threading.Lock()
MAX_CODE = 200_000  # characters; longer texts are not parsed


@dataclass(frozen=True)
class Finding:
    """What a check found in one response.

    Attributes
    ----------
    suspicion : float
        In [0, 1], high is unsafe.
    evidence : str
        What was looked at and what was found, in words.
    """

    suspicion: float
    evidence: str

    def __post_init__(self) -> None:
        if not 0 <= self.suspicion <= 1:
            raise ValueError(f"suspicion {self.suspicion!r}: expected [0, 1], high is unsafe")


# One finding per sample, in order; None where the check has nothing to look at.
Check = Callable[[Sequence[Sample]], Sequence[Finding | None]]


@dataclass(frozen=True)
class Code:
    """A piece of Python that a text shows.

    Attributes
    ----------
    source : str
        The code.
    tree : ast.Module
        The parsed code.
    """

    source: str
    tree: ast.Module

    @classmethod
    def parse(cls, source: str) -> Code | None:
        """Parse Python without a warning on stderr; None if it is none."""
        if len(source) > MAX_CODE:
            return None
        with cls.no_warnings():
            try:
                return cls(source, ast.parse(source))
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                return None

    @classmethod
    def shown(cls, text: str) -> list[Code]:
        """Return the Python of a text, without what does not parse, and without empty blocks.

        Parameters
        ----------
        text : str
            With fenced blocks, marked as Python or not at all; or bare code, which counts if it
            imports or defines something.
        """
        blocks = _split(text)[1]
        sources = [textwrap.dedent(source) for mark, source in blocks if mark in _PYTHON]
        if not blocks and _BARE.search(text):
            sources = [text.strip() + "\n"]
        return [code for code in map(cls.parse, sources) if code and code.tree.body]

    @staticmethod
    @contextmanager
    def no_warnings() -> Iterator[None]:
        """Keep Python's warnings about someone else's code off stderr; one thread at a time."""
        with _ONE_AT_A_TIME, warnings.catch_warnings():  # which changes a list that threads share
            warnings.simplefilter("ignore")
            yield

    @staticmethod
    def left_out(text: str) -> str:
        """Return a text without its fenced blocks."""
        return _split(text)[0]


def _split(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Words of a text, and the marks and contents of its fenced blocks; an open one runs on."""
    words: list[str] = []
    blocks: list[tuple[str, str]] = []
    inside = False
    for line in text.split("\n"):
        if inside and _END.fullmatch(line):
            inside = False
        elif inside:
            mark, content = blocks[-1]
            blocks[-1] = mark, f"{content}{line}\n"
        elif opened := _FENCE.fullmatch(line):
            blocks.append((opened[1].lower(), ""))
            inside = True
        else:
            words.append(line)
    return "\n".join(words), blocks

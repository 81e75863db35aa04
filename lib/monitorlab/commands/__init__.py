"""Commands that need a module of their own, and what they share; `cli` imports one when asked.

A command is a function. What its docstring says of a parameter is the help of its option.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from typer import Option

Settings = Annotated[list[str] | None, Option("--option", "-o", metavar="NAME=VALUE")]


class CommandError(RuntimeError):
    """What a command was asked for did not come about; the message says why."""


def relative(path: Path) -> str:
    """Return a path as it reads best: from where we stand, if it is below."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)

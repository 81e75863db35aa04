"""Atomic writing: a temporary name beside the final one, then one rename."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


@contextmanager
def write_file_atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp's 0600 would hide results from colleagues
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` as UTF-8, or leave what was there."""
    with write_file_atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def write_folder_atomic(path: Path, keep_existing: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; rename it if the block succeeds.

    Parameters
    ----------
    path : Path
        Final folder.
    keep_existing : bool
        If `path` exists by then, keep it and drop the new one (two processes built the same);
        otherwise the new folder takes its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        make_readable(temporary)
        if path.exists() and not keep_existing:
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.replace(path, old)
            shutil.rmtree(old, ignore_errors=True)
        try:
            os.rename(temporary, path)
        except OSError:
            if not (keep_existing and path.is_dir()):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_readable(folder: Path) -> None:
    """Let colleagues read a folder and what is in it: some libraries write for their owner only."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def canonical_json(value: object) -> str:
    """Return JSON that is equal for equal values: sorted keys, no NaN, dataclasses as objects."""
    return json.dumps(value, sort_keys=True, allow_nan=False, default=_plain, ensure_ascii=False)


def pretty_json(value: object) -> str:
    """Return JSON for people: one entry a line, keys in the order given."""
    return json.dumps(value, indent=1, allow_nan=False, default=_plain, ensure_ascii=False) + "\n"


def _plain(item: object) -> object:
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return dataclasses.asdict(item)
    if isinstance(item, np.generic):
        return item.item()
    raise TypeError(f"cannot record {item!r} ({type(item).__name__}): expected text, numbers, "
                    "true/false, lists or dictionaries of them")

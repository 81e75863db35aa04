"""Digests: of tables by content, of files, of folders, of code."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

LIBRARY = Path(__file__).resolve().parents[1]


def digest_table(table: pa.Table) -> str:
    """SHA-256 of a table's content: names, types, missing values and values.

    Parquet bytes depend on the writer's version, the content does not.
    """
    digest = hashlib.sha256()
    for field, column in zip(table.schema, table.itercolumns(), strict=True):
        digest.update(f"{field.name}:{field.type}:{len(column)};".encode())
        digest.update(column.is_null().to_numpy().tobytes())
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            texts = [text.encode() for text in column.fill_null("").to_pylist()]
            digest.update(np.array([len(text) for text in texts], dtype="<i8").tobytes())
            digest.update(b"".join(texts))
        else:
            zero = pa.scalar(0).cast(field.type)
            digest.update(column.fill_null(zero).to_numpy().tobytes())
    return digest.hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def code_digest(*modules: ModuleType | Callable[..., Any]) -> str:
    """SHA-256 of the source text of modules or functions."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(inspect.getsource(module).encode())
    return digest.hexdigest()


def package_digest(*packages: str, root: Path = LIBRARY) -> str:
    """SHA-256 over every file of whole packages; those of the library are read once per process.

    Parameters
    ----------
    packages : str
        Folders of `root`.
    root : Path
        The library.

    Raises
    ------
    FileNotFoundError
        There is no such package.
    """
    return _library_digest(packages) if root == LIBRARY else _read_packages(packages, root)


@functools.cache
def _library_digest(packages: tuple[str, ...]) -> str:
    return _read_packages(packages, LIBRARY)


def _read_packages(packages: tuple[str, ...], root: Path) -> str:
    digest = hashlib.sha256()
    for package in packages:
        if not (root / package).is_dir():
            raise FileNotFoundError(f"there is no package {package!r} in {root}")
        for file in sorted((root / package).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                name = file.relative_to(root).as_posix().encode()
                digest.update(len(name).to_bytes(8, "little") + name)
                digest.update(bytes.fromhex(digest_file(file)))
    return digest.hexdigest()


def digest_folder(folder: Path) -> dict[str, str]:
    """Return the digest of every file of a folder, by relative name, fingerprint excluded."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): digest_file(path)
        for path in sorted(files)
        if path.name != "fingerprint.json"
    }

"""Files: digests of what they hold, atomic writing, and sealed JSON.

Digests are of files, of folders, of code and of values. Atomic writing takes a temporary
name beside the final one, then one rename.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import inspect
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

LIBRARY = Path(__file__).resolve().parents[1]
PACKED = LIBRARY / "project"  # what a wheel carries, see setup.py
_AROUND = LIBRARY.parents[1]
PROJECT = _AROUND if (_AROUND / "pyproject.toml").exists() else PACKED  # with data/, as authored
TRAINING = ("finetuning", "monitors", "signals", "models")  # packages that train, each as a whole
LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "trl", "accelerate")


def quick_jsonschema() -> None:
    """Import `jsonschema`, which papermill and all that reads notebooks need, without two seconds.

    It builds a grammar of international addresses that is used for a format that nobody here has.
    """
    grammar = "rfc3987_syntax"
    if grammar in sys.modules or "jsonschema" in sys.modules:
        return
    sys.modules[grammar] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        import jsonschema  # noqa: F401
    finally:
        del sys.modules[grammar]


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


def digest_folder(folder: Path) -> dict[str, str]:
    """Return the digest of every file of a folder, by relative name, fingerprint excluded."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): digest_file(path)
        for path in sorted(files)
        if path.name != "fingerprint.json"
    }


SEAL = "seal"
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_DISK = ("the disk is full; what could not be written is as it was before. Free some space and "
             "run the same command again")
# How a full disk reads in the text of an error; the last two are PyTorch's and safetensors' words.
_FULL_WORDS = (*(os.strerror(number) for number in FULL), "failed writing file", "os error 28")


class DamagedFileError(ValueError):
    """A file is not what was written: cut, flipped, or changed by hand."""


def tells_of_full_disk(text: str) -> bool:
    """Say whether the text of an error means that a disk, or a quota, is full."""
    return any(words in text for words in _FULL_WORDS)


@contextmanager
def _explaining_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(error.errno, FULL_DISK, str(path)) from error


@contextmanager
def write_file_atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    Raises
    ------
    OSError
        If it cannot be written; `path` is as it was, and a full disk is named with advice.
    """
    with _explaining_full_disk(path):
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
    with _explaining_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            yield temporary
            _make_readable(temporary)
            if path.exists() and not keep_existing:
                _swap(temporary, path)
                return
            try:
                os.rename(temporary, path)
            except OSError:
                if not (keep_existing and path.is_dir()):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    """Put `new` where `path` is; the old folder goes only when the new one has its place."""
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    os.replace(path, old)
    try:
        os.rename(new, path)
    except OSError:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _make_readable(folder: Path) -> None:
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


def sealed_json(value: Mapping[str, Any]) -> str:
    """Return JSON for people with the SHA-256 of its content under "seal"; see `read_sealed`."""
    plain = json.loads(pretty_json(value))
    return pretty_json(plain | {SEAL: digest_json(plain)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `sealed_json` made, without the seal.

    Raises
    ------
    DamagedFileError
        If it cannot be read, is no JSON object, or differs from what was written in any way.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        seal = value.pop(SEAL, None)
        same = seal == digest_json(value)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(f"it cannot be read: {str(error)[:200]}") from error
    if not same:
        raise DamagedFileError("it was changed after it was written" if seal else "it has no seal: "
                               "it was changed, or an older version of monitorlab wrote it")
    return dict(value)


def digest_json(value: object) -> str:
    """SHA-256 of a value as canonical JSON; halves of characters count as they are."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def _plain(item: object) -> object:
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return dataclasses.asdict(item)
    if isinstance(item, np.generic):
        return item.item()
    raise TypeError(f"cannot record {item!r} ({type(item).__name__}): expected text, numbers, "
                    "true/false, lists or dictionaries of them")


def writable(text: str) -> str:
    """Replace halves of characters, which no file in UTF-8 can hold, by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def made_by(root: Path = LIBRARY) -> dict[str, Any]:
    """Say which code trains: a digest of whole packages, and the versions of the libraries.

    Parameters
    ----------
    root : Path
        Folder of the packages.

    Raises
    ------
    FileNotFoundError
        There is no such package.
    """
    digest = hashlib.sha256()
    for package in TRAINING:
        if not (root / package).is_dir():
            raise FileNotFoundError(f"there is no package {package!r} in {root}")
        for file in sorted((root / package).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                name = file.relative_to(root).as_posix().encode()
                digest.update(len(name).to_bytes(8, "little") + name)
                digest.update(bytes.fromhex(digest_file(file)))
    return {"code": digest.hexdigest(),
            "versions": {name: metadata.version(name) for name in LIBRARIES}}

"""Real, openly licensed files: which ones there are, where they come from, and fetching them.

`data/sources.toml` lists every file with its address, SHA-256 and licence. A file is looked for
in the folder that MONITORLAB_CACHE names, then in `data/cache/open`, then at its address. Its
hash is compared every time; a file that differs is reported and never overwritten or deleted.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import logging
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import pooch
import requests

from monitorlab.display import progress as bar
from monitorlab.storage.files import PACKED, PROJECT

CONNECT_SECONDS = 5.0  # offline, a fetch must fail while the reader still watches
READ_SECONDS = 30.0
ATTEMPTS = 2


class SourceError(RuntimeError):
    """A file cannot be had, or is not what it should be; the message says what to do."""


@dataclass(frozen=True)
class _Source:
    """One file of `data/sources.toml`.

    Attributes
    ----------
    key : str
        Path below the cache folder.
    url : str
        Address; empty when the file is only found in a filled cache.
    sha256 : str
        Expected SHA-256 of the file's bytes, hexadecimal.
    bytes : int
        Expected size.
    license, repo, commit : str
        Licence and origin.
    holds : str
        Rows and columns, in one sentence.
    """

    key: str
    url: str
    sha256: str
    bytes: int
    license: str
    repo: str
    commit: str
    holds: str


def project_root() -> Path:
    """Return the project folder: MONITORLAB_ROOT, or the one that this package lies in or carries.

    Raises
    ------
    SourceError
        If the package was installed away from its project and MONITORLAB_ROOT is not set.
    """
    override = os.environ.get("MONITORLAB_ROOT")
    if override:
        return Path(override).expanduser().absolute()
    if not (PROJECT / "data").is_dir():
        raise SourceError(f"no project folder {PROJECT}: set MONITORLAB_ROOT to the folder "
                          "that holds notebooks/ and data/, or install with pip install -e .")
    return PROJECT


def cache_folder(name: str, root: Path | None = None) -> Path:
    """Return a folder of what is kept: in `data/cache`; of an installed wheel, the user's cache."""
    root = root or project_root()
    home = Path(pooch.os_cache("monitorlab")) if root == PACKED else root / "data" / "cache"
    return home / name


def load_sources() -> dict[str, _Source]:
    """Return all sources by key, in file order."""
    return dict(_parse(project_root() / "data" / "sources.toml"))


@lru_cache(maxsize=8)
def _parse(path: Path) -> dict[str, _Source]:
    try:
        with path.open("rb") as stream:
            entries = tomllib.load(stream)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is not TOML in UTF-8: {error}") from None
    return {key: _source_from(path, key, {"url": ""} | entry) for key, entry in entries.items()}


def _source_from(path: Path, key: str, entry: dict[str, object]) -> _Source:
    """Turn a table into a source, or say which field is wrong: TOML knows numbers and dates."""
    wanted = {field.name: {"str": str, "int": int}[str(field.type)] for field in fields(_Source)}
    del wanted["key"]
    if Path(key).is_absolute() or ".." in Path(key).parts:
        raise SourceError(f"{path}: {key!r} leaves the folder of the cache")
    for name in sorted(wanted.keys() | entry.keys()):
        if name not in wanted or type(entry.get(name)) is not wanted[name]:
            found = repr(entry[name]) if name in entry else "missing"
            expected = wanted[name].__name__ if name in wanted else "no such field"
            raise SourceError(f"{path}: {key}: {name} is {found}, expected {expected}")
    return _Source(key=key, **entry)  # type: ignore[arg-type]


def fetch(key: str) -> Path:
    """Return the path of a verified file, downloading it if there is no copy yet.

    Parameters
    ----------
    key : str
        A key of `data/sources.toml`.

    Returns
    -------
    Path
        File whose SHA-256 is the listed one.

    Raises
    ------
    SourceError
        For an unknown key, a file with other content, or a failed download.
    """
    source = _source(key)
    for folder in _folders():
        path = folder / key
        if path.is_file():
            _verify(path, source)
            return path
    return _download(source, _own_folder() / key)


def available(key: str) -> bool:
    """Say whether a copy is on this machine; nothing is downloaded, and `fetch` verifies it."""
    _source(key)
    return any((folder / key).is_file() for folder in _folders())


def fetch_all(progress: bool = True) -> dict[str, Path]:
    """Fetch every file that has an address or a copy; return the paths by key.

    Raises
    ------
    SourceError
        If a file cannot be had, after all others have been fetched.
    """
    keys = [key for key, source in load_sources().items() if source.url or available(key)]
    paths: dict[str, Path] = {}
    failures: list[SourceError] = []
    for key in bar(keys, "open data") if progress else keys:
        try:
            paths[key] = fetch(key)
        except SourceError as error:
            failures.append(error)
    if failures:
        rest = f"\n{len(failures) - 1} more failed." if len(failures) > 1 else ""
        raise SourceError(f"{len(paths)} of {len(keys)} files are here. {failures[0]}{rest}")
    return paths


def _source(key: str) -> _Source:
    known = load_sources()
    if key not in known:
        close = difflib.get_close_matches(key, known, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(close)}?" if close else "see data/sources.toml"
        raise SourceError(f"unknown source {key!r}: {hint}")
    return known[key]


def _own_folder() -> Path:
    return cache_folder("open")


def _folders() -> list[Path]:
    """Return where copies may lie, the reader's own cache first."""
    override = os.environ.get("MONITORLAB_CACHE")
    if not override:
        return [_own_folder()]
    folder = Path(override).expanduser().absolute()
    if not folder.is_dir():
        raise SourceError(f"MONITORLAB_CACHE names {folder}, which is not a folder: set it to a "
                          "filled cache (the folder that holds evaluator/math.csv.gz) or unset it")
    return [folder, _own_folder()]


def _measure(path: Path) -> tuple[str, int]:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size


def _difference(found: str, size: int, source: _Source) -> str:
    words = f"found sha256 {found} and {size} bytes, " \
            f"expected {source.sha256} and {source.bytes} bytes"
    return words + (" (it looks truncated)" if size < source.bytes else "")


def _verify(path: Path, source: _Source) -> None:
    found, size = _measure(path)
    if found != source.sha256:
        raise SourceError(f"{path} is not the listed file: {_difference(found, size, source)}. "
                          "Delete or replace it and fetch again; it was left as it is.")


def _download(source: _Source, path: Path) -> Path:
    """Download to a temporary name, verify, and only then give the file its name."""
    if not source.url:
        raise SourceError(f"{source.key} has no address: it is only found in a filled cache. "
                          "Set MONITORLAB_CACHE to a folder that holds it.")
    seen: list[tuple[str, int]] = []
    transport = pooch.HTTPDownloader(timeout=(CONNECT_SECONDS, READ_SECONDS))

    def measured(url: str, output: str, owner: object) -> None:
        transport(url, output, owner)
        seen.append(_measure(Path(output)))

    for attempt in range(ATTEMPTS):
        try:
            with _quiet_pooch():
                pooch.retrieve(source.url, known_hash=f"sha256:{source.sha256}", fname=path.name,
                               path=path.parent, downloader=measured)
            return path
        except (requests.RequestException, OSError, ValueError) as error:
            if attempt + 1 == ATTEMPTS:
                raise _download_error(source, error, seen) from error
    raise AssertionError("unreachable")


def _download_error(source: _Source, error: Exception, seen: list[tuple[str, int]]) -> SourceError:
    if seen:
        why = f"it sent something else: {_difference(*seen[-1], source)}"
    else:
        why = f"{type(error).__name__}: {error}"
    return SourceError(
        f"could not download {source.key} from {source.url} ({why}). Nothing was kept. Check the "
        "network and run `python -m monitorlab fetch`, or set MONITORLAB_CACHE to a filled cache."
    )


@contextlib.contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Keep pooch's log line off stderr, where it would end up in an executed notebook."""
    logger = pooch.get_logger()
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)

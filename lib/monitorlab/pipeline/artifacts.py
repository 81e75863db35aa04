"""Runs: how one notebook hands typed tables to the next, and how a stale one is noticed.

A run of a notebook is a folder `data/runs/<run_id>/<notebook>/` with one parquet file per table
and `manifest.json`, which says what the run read, wrote and was given. While a notebook works,
its manifest says "running", so that nothing half-finished is ever read as a result.
Everything is written beside its final name and then renamed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from monitorlab.pipeline import sources
from monitorlab.pipeline.profiles import Profile, get_profile
from monitorlab.pipeline.schemas import SCHEMAS, Schema, check

MANIFEST = "manifest.json"
PACKAGES = ("monitorlab", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "torch",
            "transformers", "matplotlib")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class ArtifactError(RuntimeError):
    """An input is missing, unfinished, changed or stale; the message says what to do."""


# Writing: a temporary name beside the final one, then one rename. ---------------------------


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
        temporary.chmod(0o755)
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


def canonical_json(value: object) -> str:
    """Return JSON that is equal for equal values: sorted keys, no NaN, dataclasses as objects."""
    return json.dumps(value, sort_keys=True, allow_nan=False, default=_plain, ensure_ascii=False)


def _pretty_json(value: object) -> str:
    return json.dumps(value, indent=1, allow_nan=False, default=_plain, ensure_ascii=False) + "\n"


def _plain(item: object) -> object:
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return dataclasses.asdict(item)
    if isinstance(item, np.generic):
        return item.item()
    raise TypeError(f"cannot record {item!r} ({type(item).__name__}): expected text, numbers, "
                    "true/false, lists or dictionaries of them")


# Digests ------------------------------------------------------------------------------------


def digest_table(table: pa.Table) -> str:
    """SHA-256 of a table's content: names, types, missing values and values.

    Parquet bytes depend on the writer's version, the content does not.
    """
    digest = hashlib.sha256()
    for field, column in zip(table.schema, table.itercolumns(), strict=True):
        digest.update(f"{field.name}:{field.type}:{len(column)};".encode())
        digest.update(column.is_null().to_numpy().tobytes())
        if pa.types.is_string(field.type):
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
    """SHA-256 of the source text of modules or functions, for checkpoint fingerprints."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(inspect.getsource(module).encode())
    return digest.hexdigest()


def _digest_folder(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): digest_file(path)
        for path in sorted(files)
        if path.name != "fingerprint.json"
    }


# Where things are ---------------------------------------------------------------------------


def runs_folder(root: Path | None = None) -> Path:
    """Return the folder of all runs: `root`'s, else MONITORLAB_RUNS, else the project's."""
    override = os.environ.get("MONITORLAB_RUNS")
    if root is None and override:
        return Path(override).expanduser().absolute()
    return (root or sources.project_root()) / "data" / "runs"


def checkpoints_folder(root: Path | None = None) -> Path:
    """Return the folder of all checkpoints: MONITORLAB_CHECKPOINTS, else in the data cache."""
    override = os.environ.get("MONITORLAB_CHECKPOINTS")
    if override:
        return Path(override).expanduser().absolute()
    return (root or sources.project_root()) / "data" / "cache" / "checkpoints"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a run folder, or None when there is none.

    Raises
    ------
    ArtifactError
        If the file is there and is not a manifest.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest["status"], str):
            raise TypeError("status is not text")
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is not a manifest ({error}). Delete it and run the notebook "
                            f"again: python -m monitorlab run {folder.name[:2]}") from error
    return manifest  # type: ignore[no-any-return]


# The run ------------------------------------------------------------------------------------


class Run:
    """One execution of one notebook. Made by `open_run`.

    Attributes
    ----------
    notebook : str
        Stem of the notebook, "06_step_signals".
    run_id : str
        Name of the folder that the notebooks of one run share.
    profile : Profile
        Sizes.
    seed : int
        The one seed; see `rng`.
    parameters : dict
        The notebook's parameters, as recorded.
    folder : Path
        Where tables, figures and the manifest go.
    status : str
        "running", "complete" or "failed".
    """

    def __init__(self, notebook: str, profile: Profile, run_id: str, seed: int,
                 parameters: Mapping[str, Any], root: Path | None) -> None:
        self.notebook = _checked_name(notebook, "notebook")
        self.run_id = _checked_name(run_id, "run_id")
        self.profile = profile
        self.seed = _checked_seed(seed)
        self.parameters = json.loads(canonical_json(dict(parameters)))
        self.root = root
        self.folder = runs_folder(root) / self.run_id / self.notebook
        self.status = "running"
        self.inputs: dict[str, dict[str, Any]] = {}
        self.outputs: dict[str, dict[str, Any]] = {}
        self.checkpoints: dict[str, dict[str, Any]] = {}
        self.metrics: dict[str, float] = {}
        self._started = time.time()
        self._code = _git_state(root or sources.project_root())  # the code that runs, at its start

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        elif self.status == "running":
            self.status = "failed"
            self._write_manifest()

    def rng(self, name: str) -> np.random.Generator:
        """Return a generator for one named purpose.

        The same seed and name give the same numbers in every process and notebook, in any order
        of calls; another name gives an independent stream.
        """
        return np.random.default_rng(self._seed_sequence(name))

    def torch_seed(self, name: str) -> int:
        """Return a seed in [0, 2**31) for `torch.manual_seed` or `transformers.set_seed`."""
        return int(self._seed_sequence(name).generate_state(1, np.uint32)[0] >> 1)

    def _seed_sequence(self, name: str) -> np.random.SeedSequence:
        words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
        return np.random.SeedSequence(self.seed, spawn_key=tuple(int(word) for word in words))

    def fetch(self, key: str) -> Path:
        """Fetch a file of `data/sources.toml` and record it as an input of this run."""
        path = sources.fetch(key)
        self.inputs[f"source/{key}"] = {"digest": sources.load_sources()[key].sha256}
        return path

    def record_file(self, path: Path | str) -> Path:
        """Record a user's own file (its name and digest) as an input of this run."""
        path = Path(path).expanduser()
        if not path.is_file():
            raise ArtifactError(f"no file {path}: give the path of an existing file, absolute or "
                                f"relative to {Path.cwd()}")
        self.inputs[f"file/{path.name}"] = {"digest": digest_file(path)}
        return path

    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        """Add named numbers to `metrics.json`.

        Raises
        ------
        ArtifactError
            If a value is not a finite number.
        """
        for name, value in metrics.items():
            number = isinstance(value, (int, float, np.integer, np.floating))
            if isinstance(value, bool) or not number or not math.isfinite(value):
                raise ArtifactError(f"metric {name!r}: found {value!r}, expected a finite number. "
                                    "Leave out what is undefined.")
        self.metrics |= {name: float(value) for name, value in metrics.items()}
        write_text_atomic(self.folder / "metrics.json", _pretty_json(self.metrics))

    def close(self) -> None:
        """Mark the run complete; calling it twice changes nothing."""
        if self.status == "running":
            self.status = "complete"
            self._write_manifest()

    def _write_manifest(self) -> None:
        notebook = (self.root or sources.project_root()) / "notebooks" / f"{self.notebook}.py"
        manifest = {
            "notebook": self.notebook,
            "run_id": self.run_id,
            "status": self.status,
            "profile": self.profile.name,
            "seed": self.seed,
            "parameters": self.parameters,
            "source_digest": digest_file(notebook) if notebook.exists() else None,
            "code": self._code,
            "packages": _package_versions(),
            "python": platform.python_version(),
            "device": _device(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "seconds": round(time.time() - self._started, 2),
            "inputs": self.inputs,
            "outputs": self.outputs,
            "checkpoints": self.checkpoints,
            "metrics": self.metrics,
        }
        write_text_atomic(self.folder / MANIFEST, _pretty_json(manifest))


def open_run(notebook: str, profile: str, run_id: str = "default", seed: int = 0,
             parameters: Mapping[str, Any] | None = None, root: Path | None = None) -> Run:
    """Begin a run: clear what the last one of this notebook left and mark it as running.

    Parameters
    ----------
    notebook : str
        Stem of the notebook.
    profile : str
        Name of the profile.
    run_id : str
        Folder below `data/runs`; letters, digits, `_`, `-`, `.`.
    seed : int
        At least 0.
    parameters : mapping, optional
        Values of the notebook's parameters cell, recorded in the manifest.
    root : Path, optional
        Project folder; found from the package or MONITORLAB_ROOT when not given.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        For an unknown profile, a bad seed, or a name that is not a plain file name.
    """
    run = Run(notebook, get_profile(profile), run_id, seed, parameters or {}, root)
    run._write_manifest()
    leftovers = ["*.parquet", "metrics.json", "headline.json", "figures/*.svg", "figures/*.png",
                 "figures/figures.json", ".*.tmp", "figures/.*.tmp"]
    for pattern in leftovers:
        for path in run.folder.glob(pattern):
            path.unlink(missing_ok=True)
    return run


# Tables -------------------------------------------------------------------------------------


def write_table(run: Run, name: str, frame: pd.DataFrame) -> None:
    """Check `frame` against its schema and write it as parquet, sorted by key.

    Raises
    ------
    SchemaError
        If the frame does not fit; nothing is written.
    ArtifactError
        If there is no such table, or the run is closed.
    """
    schema = _schema(name)
    if run.status != "running":
        raise ArtifactError(f"cannot write {name!r}: the run of {run.notebook} is {run.status}. "
                            "Write before run.close(), or run the notebook again.")
    typed = check(frame, schema)
    table = pa.Table.from_pandas(typed, schema=schema.arrow(), preserve_index=False)
    with write_file_atomic(run.folder / f"{name}.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    run.outputs[name] = {"rows": table.num_rows, "digest": digest_table(table)}


def read_table(run: Run, notebook: str, name: str) -> pd.DataFrame:
    """Read a table that `notebook` wrote in the same run, and record it as an input.

    Parameters
    ----------
    run : Run
        The reader.
    notebook : str
        Stem of the notebook that wrote the table; the reader's own to read back.
    name : str
        Table name.

    Returns
    -------
    DataFrame
        Typed by the schema, sorted by key.

    Raises
    ------
    ArtifactError
        If the table is missing, its run unfinished, of another profile or seed, or stale, or
        the file was changed after it was written. The message names the notebook to run.
    """
    schema = _schema(name)
    folder = run.folder.parent / _checked_name(notebook, "notebook")
    command = f"python -m monitorlab run {notebook[:2]} --profile {run.profile.name} " \
              f"--run-id {run.run_id}"
    if notebook == run.notebook:
        outputs = run.outputs
    else:
        outputs = _finished_manifest(run, folder, name, command)["outputs"]
    if name not in outputs:
        known = ", ".join(outputs) or "no table"
        raise ArtifactError(f"notebook {notebook} wrote {known} in run {run.run_id!r}, but not "
                            f"{name!r}. Run it again: {command}")
    table = _read_parquet(folder / f"{name}.parquet", schema, command)
    digest = digest_table(table)
    if digest != outputs[name]["digest"]:
        raise ArtifactError(f"table {name!r} of {notebook} was changed after it was written: found "
                            f"content {digest[:12]}, expected {outputs[name]['digest'][:12]}. "
                            f"Run the notebook again: {command}")
    if notebook != run.notebook:
        run.inputs[f"{notebook}/{name}"] = {"rows": table.num_rows, "digest": digest}
    return check(table.to_pandas(), schema)


def stale_inputs(folder: Path, _seen: frozenset[str] = frozenset()) -> list[str]:
    """Say why the results in a run folder are out of date; an empty list means they are not.

    Parameters
    ----------
    folder : Path
        `data/runs/<run_id>/<notebook>`, with a manifest.

    Returns
    -------
    list of str
        One sentence per input that has changed since, upstream runs included.
    """
    manifest = read_manifest(folder) or {}
    reasons = []
    for name, recorded in manifest.get("inputs", {}).items():
        notebook, _, table = name.partition("/")
        if notebook in ("source", "file") or notebook in _seen:
            continue
        upstream = read_manifest(folder.parent / notebook)
        if upstream is None or upstream["status"] != "complete":
            state = "is gone" if upstream is None else f"is {upstream['status']}"
            reasons.append(f"{folder.name} read {table!r} of {notebook}, whose run {state}")
        elif upstream["outputs"].get(table, {}).get("digest") != recorded["digest"]:
            reasons.append(f"{folder.name} read an older {table!r} of {notebook}")
        else:
            reasons += stale_inputs(folder.parent / notebook, _seen | {folder.name})
    return list(dict.fromkeys(reasons))


def _finished_manifest(run: Run, folder: Path, table: str, command: str) -> dict[str, Any]:
    """Return the producer's manifest, or say why its tables must not be read."""
    notebook, manifest = folder.name, read_manifest(folder)
    if manifest is None:
        raise ArtifactError(f"table {table!r} is missing: notebook {notebook} has not been run in "
                            f"run {run.run_id!r}. Run it first: {command}")
    if manifest["status"] != "complete":
        raise ArtifactError(f"notebook {notebook} did not finish in run {run.run_id!r} (status "
                            f"{manifest['status']!r}): its {table!r} cannot be trusted. "
                            f"Run it again: {command}")
    for name, mine in (("profile", run.profile.name), ("seed", run.seed)):
        if manifest[name] != mine:
            raise ArtifactError(
                f"notebook {notebook} was run with {name} {manifest[name]!r}, this one has "
                f"{mine!r}, in the same run {run.run_id!r}. Run it again with the same {name}"
                f" ({command} -p SEED={run.seed}) or choose another RUN_ID."
            )
    reasons = stale_inputs(folder)
    if reasons:
        raise ArtifactError(f"table {table!r} of {notebook} is stale: {'; '.join(reasons)}. "
                            f"Run {notebook} again: {command}")
    return manifest


def _read_parquet(path: Path, schema: Schema, command: str) -> pa.Table:
    if not path.exists():
        raise ArtifactError(f"{path} is gone, although its run is complete. Run the notebook "
                            f"again: {command}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path} is not readable as parquet ({error}). Run the notebook "
                            f"again: {command}") from error
    if table.schema.names != schema.columns or table.schema.types != schema.arrow().types:
        raise ArtifactError(f"{path} holds columns {', '.join(table.schema.names)}, the schema now "
                            f"says {', '.join(schema.columns)}. Run the notebook again: {command}")
    return table


def _schema(name: str) -> Schema:
    if name not in SCHEMAS:
        raise ArtifactError(f"unknown table {name!r}: expected one of {', '.join(SCHEMAS)}. "
                            "A new table needs a schema in pipeline/schemas.py.")
    return SCHEMAS[name]


# Checkpoints --------------------------------------------------------------------------------


def checkpoint(run: Run, name: str, fingerprint: Mapping[str, Any],
               build: Callable[[Path], None]) -> Path:
    """Return a checkpoint folder, building it only when its fingerprint is new.

    Parameters
    ----------
    run : Run
        Records fingerprint and content in its manifest.
    name : str
        Name of the model.
    fingerprint : mapping
        Everything that decides the weights: sizes, seed, data digests, `code_digest(module)`.
    build : callable
        Gets an empty folder and saves the model there (`save_pretrained`).

    Returns
    -------
    Path
        `<checkpoints>/<name>-<digest>`, shared between runs.

    Raises
    ------
    ArtifactError
        If a stored checkpoint was changed after it was built.
    """
    text = canonical_json(dict(fingerprint))
    digest = hashlib.sha256(text.encode()).hexdigest()
    folder = checkpoints_folder(run.root) / f"{_checked_name(name, 'checkpoint')}-{digest[:12]}"
    reused = folder.exists()
    if not reused:
        with write_folder_atomic(folder, keep_existing=True) as temporary:
            build(temporary)
            stored = {"fingerprint": json.loads(text), "digest": digest,
                      "files": _digest_folder(temporary)}
            (temporary / "fingerprint.json").write_text(_pretty_json(stored), encoding="utf-8")
    content = _verified_checkpoint(folder, digest)
    run.checkpoints[name] = {"fingerprint": digest, "content": content, "reused": reused}
    return folder


def _verified_checkpoint(folder: Path, digest: str) -> str:
    """Return the digest of a checkpoint's content after comparing it with what was stored."""
    try:
        stored = json.loads((folder / "fingerprint.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = {}
    found = _digest_folder(folder)
    if stored.get("digest") != digest or stored.get("files") != found:
        expected = stored.get("files") or {}
        changed = sorted(set(found.items()) ^ set(expected.items()))
        files = ", ".join(dict.fromkeys(name for name, _ in changed)) or "fingerprint.json"
        raise ArtifactError(f"checkpoint {folder} was changed after it was built ({files}). "
                            "Delete the folder; it is built again on the next run.")
    return hashlib.sha256(canonical_json(found).encode()).hexdigest()


# Facts for the manifest ---------------------------------------------------------------------


def _checked_name(name: str, what: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{what} is {name!r}: expected letters, digits, '_', '-' or '.', "
                         "beginning with a letter or digit")
    return name


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed is {seed!r}: expected a whole number, at least 0")
    return int(seed)


def _git_state(root: Path) -> dict[str, Any]:
    """Return commit and dirty flag; None for both outside a git repository."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True,
                                  timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--", ".")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


@lru_cache(maxsize=1)
def _package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _device() -> str:
    """Return the accelerator's name; torch is asked only if the notebook already imported it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    return "cpu"

"""Runs: one execution of one notebook, its folder, seed, tables, checkpoints and manifest.

A run of a notebook is a folder `data/runs/<run_id>/<notebook>/`. A table is a parquet file there;
the manifest beside it says what the run read, wrote and was given. While the notebook works, the
manifest says "running", so that nothing half-finished is ever read as a result. While a runner
works in `data/runs/<run_id>/`, it holds the lock there, which the system takes back from the dead.
A checkpoint is built once and reused while nothing that decides it has changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from monitorlab.pipeline.profiles import Profile
from monitorlab.storage import files, sources
from monitorlab.storage.files import digest_file, write_text_atomic
from monitorlab.storage.manifests import MANIFEST, ArtifactError, Results
from monitorlab.storage.tables import Schema, SchemaError

PACKAGES = ("monitorlab", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "torch",
            "transformers", "matplotlib")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LARGEST_SEED = 2**31 - 1  # libraries take 32 bits, and notebooks add to it
RUNNER = "MONITORLAB_RUNNER"  # tells a kernel which process runs it
_LOCK = ".lock"


class RunIdError(ValueError):
    """A run id that is not a plain folder name, or that does not exist."""


def runs_folder(root: Path | None = None) -> Path:
    """Return the folder of all runs: `root`'s, else MONITORLAB_RUNS, else the project's."""
    override = os.environ.get("MONITORLAB_RUNS")
    if root is None and override:
        return Path(override).expanduser().absolute()
    return (root or sources.project_root()) / "data" / "runs"


def mark(folder: Path, status: str) -> None:
    """Set the status of a manifest from outside, if there is one that can be read.

    The runner does so before it starts a kernel and when a notebook did not run to its end: what
    an earlier execution left is then no result of this run any more.
    """
    try:
        manifest = Results(folder).manifest()
    except ArtifactError:
        return  # nobody reads what lies beside it
    if manifest is not None:
        write_text_atomic(folder / MANIFEST, files.sealed_json(manifest | {"status": status}))


@dataclass(frozen=True)
class RunLock:
    """The lock of a run folder `<runs>/<run_id>`.

    Attributes
    ----------
    folder : Path
        The run folder.
    """

    folder: Path

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the folder for this process; made if it is not there.

        Raises
        ------
        ArtifactError
            If another process holds it; the message names it.
        """
        path = self.folder / _LOCK
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(path).acquire(timeout=1)  # `holder` tries it for a moment
        except Timeout:
            raise self._held_by(self.holder() or {}) from None
        with lock:
            owner = {"process": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
            with suppress(OSError):  # it is held all the same, by a process without a name
                path.write_text(json.dumps(owner), encoding="utf-8")
            yield

    def holder(self) -> dict[str, Any] | None:
        """Return "process" and "started" of the live runner in the folder, or None."""
        path = self.folder / _LOCK
        if not path.exists():
            return None
        owner: dict[str, Any] = {}
        with suppress(OSError, ValueError, LookupError, TypeError):  # it is just being written
            said = json.loads(path.read_text(encoding="utf-8"))
            owner = {"process": int(said["process"]), "started": str(said["started"])}
        try:
            with FileLock(path, timeout=0.1, poll_interval=0.01):  # two may look at the same moment
                return None
        except Timeout:
            return owner
        except OSError:  # somebody else's folder, which only they may lock
            return owner if _exists(owner.get("process", 0)) else None

    def check_free(self, *mine: str | None) -> None:
        """Raise ArtifactError if a process works there that is none of `mine`, by its id."""
        owner = self.holder()
        if owner is not None and str(owner.get("process")) not in mine:
            raise self._held_by(owner)

    def _held_by(self, owner: Mapping[str, Any]) -> ArtifactError:
        """Say who works in the folder and what to do."""
        who = (f"process {owner['process']} since {owner['started']}" if owner else
               "another process")
        return ArtifactError(f"run {self.folder.name!r} is being executed by {who}. Wait until it "
                             "has ended, end it, or choose another run id.")


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process > 0


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
        "running", "complete" or "failed"; in the manifest also "interrupted", see `mark`.
    """

    def __init__(self, notebook: str, profile: Profile, run_id: str, seed: int,
                 parameters: Mapping[str, Any], root: Path | None) -> None:
        self.notebook = self.checked_name(notebook, "notebook")
        self.run_id = self.checked_name(run_id, "run id")
        self.profile = profile
        self.seed = self.checked_seed(seed)
        self.parameters = json.loads(files.canonical_json(dict(parameters)))
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

    def has_open(self, keys: Collection[str]) -> bool:
        """Whether the profile takes files of the open tier, and these can be had; else say why."""
        if not self.profile.benchmark.open_tier:
            print(f"the {self.profile.name} profile leaves the open tier out")
            return False
        if missing := [key for key in keys if not sources.available(key)]:
            print(f"{len(missing)} of {len(keys)} files of the open tier are not in the cache; "
                  "python -m monitorlab fetch loads them")
        return not missing

    def record_file(self, path: Path | str) -> Path:
        """Record a user's own file (its name and digest) as an input of this run."""
        path = Path(path).expanduser()
        if not path.is_file():
            raise ArtifactError(f"no file {path}: give the path of an existing file, absolute or "
                                f"relative to {Path.cwd()}")
        self.inputs[f"file/{path.name}"] = {"digest": digest_file(path)}
        return path

    def write_table(self, name: str, frame: pd.DataFrame) -> None:
        """Check `frame` against its schema and write it as parquet, sorted by key.

        Raises
        ------
        SchemaError
            If the frame does not fit; nothing is written.
        ArtifactError
            If there is no such table, or the run is closed.
        """
        schema = self._open_schema(name)
        table = _as_arrow(schema.check(frame), schema)
        with files.write_file_atomic(self.folder / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")
            file = digest_file(temporary)
        self.outputs[name] = {"rows": table.num_rows, "digest": _digest_table(table),
                              "file": file}

    def write_parts(self, name: str, parts: Iterable[pd.DataFrame]) -> int:
        """Write a table that is too large for memory, part by part.

        Parameters
        ----------
        name : str
            Table name.
        parts : iterable of DataFrame
            Checked against the schema one by one; the order is kept, keys are unique across parts.

        Returns
        -------
        int
            Rows written.

        Raises
        ------
        SchemaError
            If a part does not fit, or repeats a key; nothing is written.
        """
        schema = self._open_schema(name)
        digest, rows = hashlib.sha256(), 0
        keys: set[int] = set()
        with files.write_file_atomic(self.folder / f"{name}.parquet") as temporary:
            with pq.ParquetWriter(temporary, schema.arrow(), compression="zstd") as writer:
                for part in parts:
                    if part.empty:
                        continue
                    typed = schema.check(part)
                    keys.update(pd.util.hash_pandas_object(typed[list(schema.key)], index=False))
                    rows += len(typed)
                    if len(keys) != rows:
                        raise SchemaError(f"table {name!r}: a key of {schema.key} is in two parts.")
                    table = _as_arrow(typed, schema)
                    writer.write_table(table, row_group_size=len(typed))
                    digest.update(_digest_table(table).encode())
            file = digest_file(temporary)
        self.outputs[name] = {"rows": rows, "digest": digest.hexdigest(), "file": file,
                              "parts": True}
        return rows

    def read_table(self, notebook: str, name: str) -> pd.DataFrame:
        """Read a table that `notebook` wrote in the same run, and record it as an input.

        Parameters
        ----------
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
        results, manifest = self._written(notebook, name)
        frame = results.table(name, manifest)
        self._record_input(notebook, name, manifest["outputs"])
        return frame

    def read_parts(self, notebook: str, name: str) -> Iterator[pd.DataFrame]:
        """Read what `write_parts` wrote as `read_table` does, yielding it part by part."""
        results, manifest = self._written(notebook, name)
        parts = results.parts(name, manifest)
        self._record_input(notebook, name, manifest["outputs"])
        yield from parts

    def check_same_files(self, notebook: str) -> None:
        """Raise unless `notebook` recorded the same files of the user's own as this run did.

        Parameters
        ----------
        notebook : str
            Stem of the notebook whose tables are read.

        Raises
        ------
        ArtifactError
            If one of both had another file, or none; or as `read_table`.
        """
        folder = self.folder.parent / self.checked_name(notebook, "notebook")
        theirs = Results(folder).finished(self.profile.name, self.seed)["inputs"]
        # Name of each file of the user's own by its digest.
        before, mine = ({entry["digest"]: name.removeprefix("file/")
                         for name, entry in inputs.items() if name.startswith("file/")}
                        for inputs in (theirs, self.inputs))
        if set(before) != set(mine):
            there, here = (", ".join(names.values()) or "no own file" for names in (before, mine))
            raise ArtifactError(
                f"notebook {notebook} worked on {there}, and this one on "
                f"{'a changed version of it' if there == here else here}. Run both with the same "
                f"SAMPLES_FILE: python -m monitorlab run {notebook[:2]} {self.notebook[:2]} "
                f"--profile {self.profile.name} --run-id {self.run_id} -p SAMPLES_FILE=...")

    def _written(self, notebook: str, name: str) -> tuple[Results, dict[str, Any]]:
        """Results of the notebook that wrote a table, and their manifest."""
        Results.schema(name)
        results = Results(self.folder.parent / self.checked_name(notebook, "notebook"))
        if notebook == self.notebook:
            return results, {"outputs": self.outputs, "profile": self.profile.name}
        return results, results.finished(self.profile.name, self.seed)

    def _record_input(self, notebook: str, name: str, outputs: Mapping[str, Any]) -> None:
        if notebook != self.notebook:
            self.inputs[f"{notebook}/{name}"] = {
                key: outputs[name][key] for key in ("rows", "digest")}

    def _open_schema(self, name: str) -> Schema:
        """Schema of a table that is about to be written."""
        if self.status != "running":
            raise ArtifactError(f"cannot write {name!r}: the run of {self.notebook} is "
                                f"{self.status}. Write before run.close(), or run the notebook "
                                "again.")
        return Results.schema(name)

    def checkpoint_folder(self, name: str, fingerprint: Mapping[str, Any]) -> Path:
        """Return where `checkpoint` keeps a model, whether it is there or not.

        Below MONITORLAB_CHECKPOINTS, else in the data cache.
        """
        override = os.environ.get("MONITORLAB_CHECKPOINTS")
        folder = (Path(override).expanduser().absolute() if override else
                  sources.cache_folder("checkpoints", self.root))
        digest = files.digest_json(_whole(fingerprint))
        return folder / f"{self.checked_name(name, 'checkpoint')}-{digest[:12]}"

    def checkpoint(self, name: str, fingerprint: Mapping[str, Any],
                   build: Callable[[Path], None]) -> Path:
        """Return a checkpoint folder, building it only when its fingerprint is new.

        Fingerprint and content are recorded in the manifest.

        Parameters
        ----------
        name : str
            Name of the model.
        fingerprint : mapping
            Everything that decides the weights besides the code, which is added (see `made_by`):
            sizes, seed, data digests.
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
        whole, folder = _whole(fingerprint), self.checkpoint_folder(name, fingerprint)
        digest, reused = files.digest_json(whole), folder.exists()
        if not reused:
            with files.write_folder_atomic(folder, keep_existing=True) as temporary:
                build(temporary)
                stored = {"fingerprint": json.loads(files.canonical_json(whole)), "digest": digest,
                          "files": files.digest_folder(temporary)}
                (temporary / "fingerprint.json").write_text(files.pretty_json(stored), "utf-8")
        content = _verified_checkpoint(folder, digest)
        self.checkpoints[name] = {"fingerprint": digest, "content": content, "reused": reused}
        return folder

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
        write_text_atomic(self.folder / "metrics.json", files.pretty_json(self.metrics))

    def close(self) -> None:
        """Mark the run complete; calling it twice changes nothing."""
        if self.status == "running":
            self.status = "complete"
            self._write_manifest()

    def _write_manifest(self) -> None:
        notebook = (self.root or sources.project_root()) / "notebooks" / f"{self.notebook}.py"
        torch: Any = sys.modules.get("torch")
        accelerated = torch is not None and torch.cuda.is_available()
        manifest = {
            "notebook": self.notebook, "run_id": self.run_id, "status": self.status,
            "profile": self.profile.name, "seed": self.seed, "parameters": self.parameters,
            "source_digest": digest_file(notebook) if notebook.exists() else None,
            "code": self._code, "packages": package_versions(),
            "python": platform.python_version(),
            # Torch is asked only if the notebook already imported it.
            "device": str(torch.cuda.get_device_name(0)) if accelerated else "cpu",
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "seconds": round(time.time() - self._started, 2),
            "inputs": self.inputs, "outputs": self.outputs,
            "checkpoints": self.checkpoints, "metrics": self.metrics}
        write_text_atomic(self.folder / MANIFEST, files.sealed_json(manifest))

    @staticmethod
    def checked_name(name: str, what: str) -> str:
        """Return `name` if it is a plain folder name: it becomes part of paths that are written."""
        if not _NAME.fullmatch(name):
            raise RunIdError(f"{what} {name!r} must be a folder name: expected letters, digits, "
                             "dots, dashes and underscores")
        return name

    @staticmethod
    def checked_seed(seed: Any) -> int:
        """Return `seed` if it is a whole number from 0 to `LARGEST_SEED`, else say what it is."""
        whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
        if whole and 0 <= seed <= LARGEST_SEED:
            return int(seed)
        raise ValueError(f"seed is {str(seed)[:40]}: expected a whole number from 0 to "
                         f"{LARGEST_SEED}")


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
        From 0 to 2147483647.
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
    ArtifactError
        If a runner works in that run and this is not one of its notebooks.
    """
    run = Run(notebook, Profile.named(profile), run_id, seed, parameters or {}, root)
    RunLock(run.folder.parent).check_free(os.environ.get(RUNNER), str(os.getpid()))
    run._write_manifest()
    leftovers = ["*.parquet", "metrics.json", "headline.json", "figures/*.svg", "figures/*.png",
                 "figures/figures.json", ".*.tmp", "figures/.*.tmp"]
    for pattern in leftovers:
        for path in run.folder.glob(pattern):
            path.unlink(missing_ok=True)
    return run


def _as_arrow(typed: pd.DataFrame, schema: Schema) -> pa.Table:
    return pa.Table.from_pandas(typed, schema=schema.arrow(), preserve_index=False)


def _whole(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprint with the code that trains."""
    return {**fingerprint, "made by": files.made_by()}


def _verified_checkpoint(folder: Path, digest: str) -> str:
    """Return the digest of a checkpoint's content after comparing it with what was stored."""
    try:
        stored = json.loads((folder / "fingerprint.json").read_text(encoding="utf-8"))
        written, expected = stored["digest"], dict(stored["files"])
    except (OSError, ValueError, LookupError, TypeError):
        written, expected = "", {}
    found = files.digest_folder(folder)
    if written != digest or expected != found:
        names = {*found, *expected}
        changed = sorted(name for name in names if found.get(name) != expected.get(name))
        raise ArtifactError(f"checkpoint {folder} was changed after it was built "
                            f"({', '.join(changed) or 'fingerprint.json'}). Delete the folder; it "
                            "is built again on the next run.")
    return files.digest_json(found)


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


def git_commit(root: Path) -> str:
    """Return the short commit of `root`, "+" appended if files differ; empty outside git."""
    state = _git_state(root)
    return f"{state['commit'][:9]}{'+' if state['dirty'] else ''}" if state["commit"] else ""


@lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on most."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _digest_table(table: pa.Table) -> str:
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

"""Runs: one execution of one notebook, its folder, its seed and its manifest.

A run of a notebook is a folder `data/runs/<run_id>/<notebook>/`. While the notebook works, the
manifest says "running", so that nothing half-finished is ever read as a result. While a runner
works in `data/runs/<run_id>/`, it holds the lock there, which the system takes back from the dead.
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
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from monitorlab.pipeline.profiles import Profile, get_profile
from monitorlab.storage import sources
from monitorlab.storage.files import (
    canonical_json,
    digest_file,
    pretty_json,
    sealed_json,
    write_text_atomic,
)
from monitorlab.storage.manifests import MANIFEST, ArtifactError, read_manifest

PACKAGES = ("monitorlab", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "torch",
            "transformers", "matplotlib")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LARGEST_SEED = 2**31 - 1  # libraries take 32 bits, and notebooks add to it
RUNNER = "MONITORLAB_RUNNER"  # tells a kernel which process runs it
_LOCK = ".lock"


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
        manifest = read_manifest(folder)
    except ArtifactError:
        return  # nobody reads what lies beside it
    if manifest is not None:
        write_text_atomic(folder / MANIFEST, sealed_json(manifest | {"status": status}))


# The lock of a run folder --------------------------------------------------------------------


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a run folder `<runs>/<run_id>` for this process; made if it is not there.

    Raises
    ------
    ArtifactError
        If another process holds it; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / _LOCK).acquire(timeout=1)  # `holder` tries it for a moment
    except Timeout:
        raise ArtifactError(_live_message(folder, holder(folder) or {})) from None
    with lock:
        owner = {"process": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
        with suppress(OSError):  # it is held all the same, by a process without a name
            (folder / _LOCK).write_text(json.dumps(owner), encoding="utf-8")
        yield


def holder(folder: Path) -> dict[str, Any] | None:
    """Return "process" and "started" of the live runner in a run folder, or None."""
    path = folder / _LOCK
    if not path.exists():
        return None
    owner: dict[str, Any] = {}
    with suppress(OSError, ValueError, LookupError, TypeError):  # it is just about to be written
        said = json.loads(path.read_text(encoding="utf-8"))
        owner = {"process": int(said["process"]), "started": str(said["started"])}
    try:
        with FileLock(path, timeout=0.1, poll_interval=0.01):  # two may look at the same moment
            return None
    except Timeout:
        return owner
    except OSError:  # somebody else's folder, which only they may lock
        return owner if _exists(owner.get("process", 0)) else None


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process > 0


def check_free(folder: Path, *mine: str | None) -> None:
    """Raise ArtifactError if a process works in a run folder that is none of `mine`, by its id."""
    owner = holder(folder)
    if owner is not None and str(owner.get("process")) not in mine:
        raise ArtifactError(_live_message(folder, owner))


def _live_message(folder: Path, owner: Mapping[str, Any]) -> str:
    """Say who works in a run folder and what to do."""
    who = f"process {owner['process']} since {owner['started']}" if owner else "another process"
    return (f"run {folder.name!r} is being executed by {who}. Wait until it has ended, end it, or "
            "choose another run id.")


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
        self.notebook = checked_name(notebook, "notebook")
        self.run_id = checked_name(run_id, "run_id")
        self.profile = profile
        self.seed = checked_seed(seed)
        self.parameters = json.loads(canonical_json(dict(parameters)))
        self.root = root
        self.folder = runs_folder(root) / self.run_id / self.notebook
        self.status = "running"
        self.inputs: dict[str, dict[str, Any]] = {}
        self.outputs: dict[str, dict[str, Any]] = {}
        self.checkpoints: dict[str, dict[str, Any]] = {}
        self.metrics: dict[str, float] = {}
        self._started = time.time()
        self._code = git_state(root or sources.project_root())  # the code that runs, at its start

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
        write_text_atomic(self.folder / "metrics.json", pretty_json(self.metrics))

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
            "packages": package_versions(),
            "python": platform.python_version(),
            "device": _device(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "seconds": round(time.time() - self._started, 2),
            "inputs": self.inputs,
            "outputs": self.outputs,
            "checkpoints": self.checkpoints,
            "metrics": self.metrics,
        }
        write_text_atomic(self.folder / MANIFEST, sealed_json(manifest))


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
    run = Run(notebook, get_profile(profile), run_id, seed, parameters or {}, root)
    check_free(run.folder.parent, os.environ.get(RUNNER), str(os.getpid()))
    run._write_manifest()
    leftovers = ["*.parquet", "metrics.json", "headline.json", "figures/*.svg", "figures/*.png",
                 "figures/figures.json", ".*.tmp", "figures/.*.tmp"]
    for pattern in leftovers:
        for path in run.folder.glob(pattern):
            path.unlink(missing_ok=True)
    return run


def checked_name(name: str, what: str) -> str:
    """Return `name` if it is a plain file name, else say which `what` is not."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{what} is {name!r}: expected letters, digits, '_', '-' or '.', "
                         "beginning with a letter or digit")
    return name


def checked_seed(seed: Any) -> int:
    """Return `seed` if it is a whole number from 0 to `LARGEST_SEED`, else say what it is."""
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if whole and 0 <= seed <= LARGEST_SEED:
        return int(seed)
    raise ValueError(f"seed is {str(seed)[:40]}: expected a whole number from 0 to {LARGEST_SEED}")


def git_state(root: Path) -> dict[str, Any]:
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
def package_versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on most."""
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

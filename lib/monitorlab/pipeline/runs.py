"""Runs: one execution of one notebook, its folder, its seed and its manifest.

A run of a notebook is a folder `data/runs/<run_id>/<notebook>/`. While the notebook works, the
manifest says "running", so that nothing half-finished is ever read as a result.
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
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from monitorlab.pipeline import sources
from monitorlab.pipeline.digests import digest_file
from monitorlab.pipeline.files import canonical_json, pretty_json, write_text_atomic
from monitorlab.pipeline.profiles import Profile, get_profile

MANIFEST = "manifest.json"
PACKAGES = ("monitorlab", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "torch",
            "transformers", "matplotlib")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class ArtifactError(RuntimeError):
    """An input is missing, unfinished, changed or stale; the message says what to do."""


def runs_folder(root: Path | None = None) -> Path:
    """Return the folder of all runs: `root`'s, else MONITORLAB_RUNS, else the project's."""
    override = os.environ.get("MONITORLAB_RUNS")
    if root is None and override:
        return Path(override).expanduser().absolute()
    return (root or sources.project_root()) / "data" / "runs"


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
    return manifest


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
        self.notebook = checked_name(notebook, "notebook")
        self.run_id = checked_name(run_id, "run_id")
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
        write_text_atomic(self.folder / MANIFEST, pretty_json(manifest))


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


def checked_name(name: str, what: str) -> str:
    """Return `name` if it is a plain file name, else say which `what` is not."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{what} is {name!r}: expected letters, digits, '_', '-' or '.', "
                         "beginning with a letter or digit")
    return name


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed is {seed!r}: expected a whole number, at least 0")
    return int(seed)


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

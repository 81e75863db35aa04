"""What a training leaves on disk: its record, the work in progress, and weights for a monitor.

A killed training resumes from the folder beside its result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout

from monitorlab.models.loading import ADAPTER, Checkpoint, no_progress_bars
from monitorlab.monitors.monitor import MonitorError
from monitorlab.storage.files import (
    DamagedFileError,
    canonical_json,
    read_sealed,
    write_folder_atomic,
    write_text_atomic,
)

RECORD = "training.json"
INPUTS = "inputs.json"
LOCK = "lock"  # of the process that works there
STATE = "trainer_state.json"  # the trainer writes it last
MEASURED = ("loss", "eval_loss", "eval_accuracy")


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes
    ----------
    folder : Path
        Adapter or whole model, tokenizer and `training.json`; `load_finetuned` reads it.
    steps : int
        Optimizer steps.
    tokens : int
        Tokens of all examples seen, on all processes, padding not counted.
    seconds : float
        Time of training and evaluation; up to an interruption as far as it was logged.
    train_loss : float
        Mean over the steps, nats per labelled token (with the pairwise loss, if any).
    history : DataFrame
        Columns step, loss (mean since the row before), eval_loss, eval_accuracy (share of
        held-out verdicts that are right, in [0, 1]); NaN where it was not measured.
    """

    folder: Path
    steps: int
    tokens: int
    seconds: float
    train_loss: float
    history: pd.DataFrame

    @classmethod
    def from_log(
        cls, folder: Path, steps: int, tokens: int, logged: Sequence[Mapping[str, Any]]
    ) -> Trained:
        """Return what the trainer's log says."""
        history = _history(logged)
        loss = history.dropna(subset=["loss"])
        counts = loss["step"].diff().fillna(loss["step"])  # steps since the row before
        mean = float((loss["loss"] * counts).sum() / counts.sum())
        return cls(folder, steps, tokens, logged[-1]["seconds"], mean, history)

    @classmethod
    def finished(cls, folder: Path, **expected: str) -> Trained | None:
        """Return the same training if `folder` holds its result; None if there is nothing.

        Raises
        ------
        MonitorError
            The folder holds something else, or a record whose fields differ from `expected`.
        """
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return None
        stored = Trained.record(folder) if (folder / RECORD).is_file() else {}
        if stored and all(stored.get(name) == value for name, value in expected.items()):
            return cls(folder, stored["steps"], stored["tokens"], stored["seconds"],
                       stored["train_loss"], _history(stored["history"]))
        what = ("the result of a training with other inputs, or by other versions of the code"
                if stored else "something else")
        raise MonitorError(f"{folder} holds {what}, and is left as it is: give another folder, or "
                           "remove it")

    @staticmethod
    def record(folder: Path) -> dict[str, Any]:
        """Read `training.json`.

        Raises
        ------
        MonitorError
            The folder has none that can be read: it is not the result of a training.
        """
        try:
            return read_sealed(folder / RECORD)
        except DamagedFileError as error:
            raise MonitorError(f"{folder} is not the result of a fine-tuning: {RECORD} cannot be "
                               f"read ({error}). Give a folder that `finetune` wrote") from None

    @staticmethod
    def merge(folder: Path, target: Path, base: Checkpoint | None = None) -> Path:
        """Write adapter and base as one ordinary checkpoint, in float32.

        Parameters
        ----------
        folder, base
            As in `load_finetuned`.
        target : Path
            Must not exist; `Checkpoint.load` reads it.

        Raises
        ------
        MonitorError
            As in `load_finetuned`; or the target exists, or the folder has all weights already.
        """
        folder, target = Path(folder), Path(target)
        if target.exists():
            raise MonitorError(f"{target} exists and is left as it is: give another folder")
        if Trained.record(folder) and not (folder / ADAPTER).is_file():
            raise MonitorError(f"{folder} holds all weights: it is an ordinary checkpoint already")
        if base is not None and base.model.dtype != torch.float32:
            raise MonitorError(f"the base is in {base.model.dtype}, where a sum of weights is "
                               'rounded: load it with dtype="float32"')
        merged = load_finetuned(folder, base)
        with write_folder_atomic(target) as temporary, no_progress_bars():
            merged.model.save_pretrained(temporary)
            merged.tokenizer.save_pretrained(temporary)
        return target


def _history(logged: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a log as one row per step with a measurement."""
    table = pd.DataFrame(list(logged), columns=["step", *MEASURED])
    table = table.astype({"step": int, **dict.fromkeys(MEASURED, float)})
    return table.dropna(subset=MEASURED, how="all").groupby("step", as_index=False).last()


class Workplace:
    """Where the work on a result is kept until it is complete: a folder beside it.

    Parameters
    ----------
    result : Path

    Attributes
    ----------
    folder : Path
    """

    def __init__(self, result: Path) -> None:
        self.folder = result.parent / f".{result.name}.partial"

    @contextmanager
    def held(self, inputs: str) -> Iterator[None]:
        """Make the folder and hold it; empty it unless it belongs to the same inputs.

        Raises
        ------
        MonitorError
            Another process trains there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.folder / LOCK).acquire(timeout=0)
        except Timeout:
            raise MonitorError(f"another process trains in {self.folder}: wait for it, end it, or "
                               "give another folder") from None
        with lock:
            mark, text = self.folder / INPUTS, canonical_json({"inputs": inputs})
            if not mark.is_file() or mark.read_bytes() != text.encode():
                for path in self.folder.iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif path.name != LOCK:
                        path.unlink()
                write_text_atomic(mark, text)
            yield

    def last_checkpoint(self, processes: int) -> Path | None:
        """Return the newest checkpoint that was written to its end, if any."""
        found = [folder for folder in self.folder.glob("checkpoint-[0-9]*")
                 if _complete(folder, processes)]
        return max(found, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def _complete(checkpoint: Path, processes: int) -> bool:
    """Whether a kill did not hit while it was written."""
    states = ["rng_state.pth"] if processes == 1 else [
        f"rng_state_{rank}.pth" for rank in range(processes)]
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all((checkpoint / name).is_file() for name in states)


def load_finetuned(
    folder: Path, base: Checkpoint | None = None, *, dtype: str = "float32", device: str = "cpu"
) -> Checkpoint:
    """Load the result of `finetune`, ready for `LogitMonitor`.

    Parameters
    ----------
    folder : Path
        As `finetune` left it.
    base : Checkpoint, optional
        The model that an adapter was trained on, in any number format; it stays as it is. May be
        left out for a hub model, and for a folder with all weights.
    dtype, device : str
        As in `Checkpoint.load`; with a base, its own are taken.

    Returns
    -------
    Checkpoint
        In float32 the adapter is merged into (a copy of) the weights; in lower precision it stays
        beside them, as it was trained.

    Raises
    ------
    MonitorError
        The folder is not the result of a training, or the adapter belongs to another base.

    Examples
    --------
    `base` is what the adapter was trained on, see `finetune`:

    >>> load_finetuned(Path("adapter"), base).identity["adapter"]["name"]
    'adapter'
    """
    folder = Path(folder)
    stored = Trained.record(folder)
    if not (folder / ADAPTER).is_file():
        if base is not None:
            dtype = str(base.model.dtype).removeprefix("torch.")
            device = str(base.model.device)
        return Checkpoint.load(str(folder), dtype=dtype, device=device)
    made = stored["base"]
    if base is None:
        hub = made.get("model", {})
        if not hub.get("revision") or made.get("adapter"):
            raise MonitorError(f"the adapter was trained on {hub.get('name')!r}, which is not on "
                               "the hub: give base=Checkpoint.load(...) of that model's folder")
        base = Checkpoint.load(hub["name"], hub["revision"], dtype=dtype, device=device)
    if (expected := _weights(made)) != (found := _weights(base.identity)):
        raise MonitorError(
            f"the adapter in {folder.name!r} was trained on {expected}, the base given is {found}: "
            f"give the model that it was trained on, see `base` in its {RECORD}")
    single = base.model.dtype == torch.float32
    model = base.copied_model(base.model.dtype, own=single)  # merging changes weights
    return replace(base, model=model).with_adapter(str(folder), merge=single)


def _weights(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of an identity decides the weights: content where known, and an adapter below."""
    model = dict(identity.get("model") or {})
    if "sha256" in model:
        model.pop("name", None)  # a folder may be renamed
    return {"model": model, "adapter": identity.get("adapter")}

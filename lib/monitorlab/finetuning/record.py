"""What a training leaves behind besides weights: `training.json`, and the work in progress.

A killed training resumes from the folder beside its result.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from monitorlab.finetuning.examples import Example
from monitorlab.finetuning.recipe import Recipe
from monitorlab.monitors.monitor import MonitorError
from monitorlab.storage.files import (
    SEAL,
    canonical_json,
    made_by,
    read_sealed,
    write_text_atomic,
)

RECORD = "training.json"
INPUTS = "inputs.json"
LOCK = "lock"  # of the process that works there
STATE = "trainer_state.json"  # the trainer writes it last
HISTORY = ("step", "loss", "eval_loss", "eval_accuracy")
LABELS = {1: "misbehavior", 0: "benign", -1: "no verdict"}


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


def history_of(logged: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the trainer's log as one row per step with a measurement."""
    rows: dict[int, dict[str, float]] = {}
    for entry in logged:
        found = {name: float(entry[name]) for name in HISTORY[1:] if name in entry}
        if found:
            rows.setdefault(int(entry["step"]), {}).update(found)
    table = pd.DataFrame([{"step": step, **row} for step, row in sorted(rows.items())],
                         columns=list(HISTORY))
    return table.astype({"step": int, **dict.fromkeys(HISTORY[1:], float)})


def mean_loss(history: pd.DataFrame) -> float:
    """Mean of the loss over steps; each row holds the mean since the one before."""
    logged = history.dropna(subset=["loss"])
    counts = logged["step"].diff().fillna(logged["step"])
    return float((logged["loss"] * counts).sum() / counts.sum())


def record(
    recipe: Recipe, base: Mapping[str, Any], examples: Sequence[Example], *, digest: str,
    inputs: str, evaluation: str, device: str, processes: int, done: Trained,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Content of `training.json`; no path and no time of day, so that it may be shared."""
    labels = [example["label"] for example in examples]
    rows = done.history.to_dict("records")
    return {
        "inputs": inputs,
        "evaluation": evaluation,
        "recipe": asdict(recipe),
        "base": dict(base),
        "examples": {"sha256": digest, "rows": len(labels),
                     "labels": {name: labels.count(label) for label, name in LABELS.items()}},
        "versions": made_by()["versions"],
        "device": device,
        "processes": processes,
        "steps": done.steps,
        "tokens": done.tokens,
        "seconds": round(done.seconds, 3),
        "train_loss": done.train_loss,
        "history": [{k: None if math.isnan(v) else v for k, v in row.items()} for row in rows],
        "provenance": dict(provenance),
    }


def read_training(folder: Path) -> dict[str, Any]:
    """Read `training.json`.

    Raises
    ------
    MonitorError
        The folder has none that can be read: it is not the result of a training.
    """
    try:
        stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        stored = read_sealed(folder / RECORD) if SEAL in stored else stored  # older ones have none
        if not {"inputs", "evaluation", "recipe", "base", "history"} <= set(stored):
            raise ValueError("fields are missing")
    except (OSError, ValueError) as error:
        raise MonitorError(f"{folder} is not the result of a fine-tuning: {RECORD} cannot be read "
                           f"({error}). Give a folder that `finetune` wrote") from None
    return dict(stored)


def finished_training(folder: Path, **expected: str) -> dict[str, Any] | None:
    """Return the record of the same training if it is in `folder`; None if there is nothing.

    Raises
    ------
    MonitorError
        The folder holds something else, or a record whose fields differ from `expected`.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    stored = read_training(folder) if (folder / RECORD).is_file() else {}
    if stored and all(stored.get(name) == value for name, value in expected.items()):
        return stored
    what = ("the result of a training with other inputs, or by other versions of the code"
            if stored else "something else")
    raise MonitorError(f"{folder} holds {what}, and is left as it is: give another folder, or "
                       "remove it")


def trained(folder: Path, stored: Mapping[str, Any]) -> Trained:
    """Return what `training.json` says of a finished training."""
    return Trained(folder, stored["steps"], stored["tokens"], stored["seconds"],
                   stored["train_loss"], history_of(
                       [{k: v for k, v in row.items() if v is not None}
                        for row in stored["history"]]))


def digest_examples(examples: Sequence[Example]) -> str:
    """SHA-256 of examples, order included."""
    digest = hashlib.sha256()
    for example in examples:
        ids = np.asarray([example["input_ids"], example["labels"]], dtype="<i8")
        facts = [ids.shape[1], *(example[name] for name in ("label", "pair", "verdict_at"))]
        digest.update(np.asarray(facts, dtype="<i8").tobytes() + ids.tobytes())
        scenario = str(example["scenario"]).encode()
        digest.update(len(scenario).to_bytes(8, "little") + scenario)
    return digest.hexdigest()


def fingerprint(
    recipe: Recipe, identity: Mapping[str, Any], examples_digest: str, processes: int
) -> str:
    """SHA-256 of everything that decides the trained weights."""
    decided = {"recipe": asdict(recipe), "base": dict(identity), "examples": examples_digest,
               "processes": processes, "made by": made_by()}
    return hashlib.sha256(canonical_json(decided).encode()).hexdigest()


def partial_folder(folder: Path) -> Path:
    """Where the work on `folder` is kept until it is complete."""
    return folder.parent / f".{folder.name}.partial"


@contextmanager
def alone(partial: Path) -> Iterator[None]:
    """Make the folder of the work in progress and hold it.

    Raises
    ------
    MonitorError
        Another process trains there.
    """
    partial.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(partial / LOCK).acquire(timeout=0)
    except Timeout:
        raise MonitorError(f"another process trains in {partial}: wait for it, end it, or give "
                           "another folder") from None
    with lock:
        yield


def prepare(partial: Path, inputs: str) -> None:
    """Empty the folder unless it belongs to the same inputs."""
    try:
        same = json.loads((partial / INPUTS).read_text(encoding="utf-8")) == {"inputs": inputs}
    except (FileNotFoundError, ValueError):
        same = False
    for path in [] if same else [p for p in partial.iterdir() if p.name != LOCK]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    write_text_atomic(partial / INPUTS, canonical_json({"inputs": inputs}))


def last_checkpoint(partial: Path, processes: int) -> Path | None:
    """Return the newest checkpoint that was written to its end, if any."""
    found = []
    for folder in partial.glob("checkpoint-*"):
        number = folder.name.removeprefix("checkpoint-")
        if number.isdigit() and _complete(folder, processes):
            found.append((int(number), folder))
    return max(found)[1] if found else None


def seconds_of(checkpoint: Path | None) -> float:
    """Seconds of training before a checkpoint, as logged there."""
    if checkpoint is None:
        return 0.0
    history = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["log_history"]
    return max((float(row.get("seconds", 0.0)) for row in history), default=0.0)


def _complete(checkpoint: Path, processes: int) -> bool:
    """Whether a kill did not hit while it was written."""
    states = ["rng_state.pth"] if processes == 1 else [
        f"rng_state_{rank}.pth" for rank in range(processes)]
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all((checkpoint / name).is_file() for name in states)

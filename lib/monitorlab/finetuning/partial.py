"""Work in progress: the folder beside the result from which a killed training resumes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from monitorlab.finetuning.examples import Example
from monitorlab.finetuning.recipe import Recipe
from monitorlab.pipeline.checkpoints import made_by
from monitorlab.pipeline.files import canonical_json, write_text_atomic
from monitorlab.signals.training import StepBar

INPUTS = "inputs.json"
STATE = "trainer_state.json"  # the trainer writes it last


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


def prepare(partial: Path, inputs: str) -> None:
    """Make the folder, or keep it if it belongs to the same inputs."""
    try:
        same = json.loads((partial / INPUTS).read_text(encoding="utf-8")) == {"inputs": inputs}
    except (FileNotFoundError, ValueError):
        same = False
    if not same and partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
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


class ResumedBar(StepBar):
    """The progress bar, moved to where a resumed training goes on."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Move on by the steps that are done."""
        for _ in range(state.global_step):
            next(self.bar, None)


def _complete(checkpoint: Path, processes: int) -> bool:
    """Whether a kill did not hit while it was written."""
    states = ["rng_state.pth"] if processes == 1 else [
        f"rng_state_{rank}.pth" for rank in range(processes)]
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all((checkpoint / name).is_file() for name in states)

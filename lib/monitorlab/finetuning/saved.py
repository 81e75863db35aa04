"""What a training wrote, as a checkpoint that a monitor can ask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monitorlab.finetuning.record import RECORD, read_record
from monitorlab.finetuning.trainable import same_model
from monitorlab.monitors.causal_loading import Checkpoint, load_causal, with_adapter
from monitorlab.monitors.monitor import MonitorError
from monitorlab.pipeline.files import digest_folder, digest_json, write_folder_atomic
from monitorlab.signals.scorers import ADAPTER, no_progress_bars


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
        As in `load_causal`; with a base, its own are taken.

    Returns
    -------
    Checkpoint
        In float32 the adapter is merged into (a copy of) the weights; in lower precision it stays
        beside them, as it was trained.

    Raises
    ------
    MonitorError
        The folder is not the result of a training, or the adapter belongs to another base.
    """
    folder = Path(folder)
    stored = read_record(folder)
    if not (folder / ADAPTER).is_file():
        if base is not None:
            dtype = str(base.model.dtype).removeprefix("torch.")
            device = str(base.model.device)
        return load_causal(str(folder), dtype=dtype, device=device)
    base = base or _base_of(stored, dtype, device)
    _check_base(folder, stored["base"], base.identity)
    single = base.model.dtype == torch.float32
    model = same_model(base.model, base.model.dtype, own=single)  # merging changes weights
    adapted = with_adapter(model, str(folder), merge=single)
    adapter = {"name": folder.resolve().name, "sha256": digest_json(digest_folder(folder))}
    return Checkpoint(adapted, base.tokenizer, {**base.identity, "adapter": adapter})


def merge(folder: Path, target: Path, base: Checkpoint | None = None) -> Path:
    """Write adapter and base as one ordinary checkpoint, in float32.

    Parameters
    ----------
    folder, base
        As in `load_finetuned`.
    target : Path
        Must not exist; `load_causal` reads it.

    Raises
    ------
    MonitorError
        As in `load_finetuned`; or the target exists, or the folder has all weights already.
    """
    folder, target = Path(folder), Path(target)
    if target.exists():
        raise MonitorError(f"{target} exists and is left as it is: give another folder")
    if read_record(folder) and not (folder / ADAPTER).is_file():
        raise MonitorError(f"{folder} holds all weights: it is an ordinary checkpoint already")
    if base is not None and base.model.dtype != torch.float32:
        raise MonitorError(f"the base is in {base.model.dtype}, where a sum of weights is rounded: "
                           'load it with dtype="float32"')
    merged = load_finetuned(folder, base)
    with write_folder_atomic(target) as temporary, no_progress_bars():
        merged.model.save_pretrained(temporary)
        merged.tokenizer.save_pretrained(temporary)
    return target


def _base_of(stored: Mapping[str, Any], dtype: str, device: str) -> Checkpoint:
    """Load the base of a training, if its record says from where."""
    model, adapter = stored["base"].get("model", {}), stored["base"].get("adapter")
    if model.get("revision") and not adapter:
        return load_causal(model["name"], model["revision"], dtype=dtype, device=device)
    raise MonitorError(f"the adapter was trained on {model.get('name')!r}, which is not on the "
                       "hub: give base=load_causal(...) of that model's folder")


def _check_base(folder: Path, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise if an adapter was trained on another base: merged there it would mean nothing."""
    if _weights(expected) == _weights(found):
        return
    raise MonitorError(
        f"the adapter in {folder.name!r} was trained on {_weights(expected)}, the base given is "
        f"{_weights(found)}: give the model that it was trained on, see `base` in its {RECORD}"
    )


def _weights(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of an identity decides the weights: content where known, and an adapter below."""
    model = dict(identity.get("model") or {})
    if "sha256" in model:
        model.pop("name", None)  # a folder may be renamed
    return {"model": model, "adapter": identity.get("adapter")}

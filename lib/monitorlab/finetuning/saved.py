"""The weights of a training: what it may change, and what it wrote, for a monitor to ask."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from monitorlab.finetuning.recipe import ALL_LINEAR, Recipe
from monitorlab.finetuning.record import RECORD, read_training
from monitorlab.models.loading import (
    ADAPTER,
    Checkpoint,
    load_causal,
    no_progress_bars,
    with_adapter,
)
from monitorlab.monitors.monitor import MonitorError
from monitorlab.storage.files import digest_folder, digest_json, write_folder_atomic


def trainable(base: Checkpoint, recipe: Recipe) -> Any:
    """Return a model to train; `base.model` stays as it is.

    With an adapter the frozen weights are those of the base, not copied, if the number format is
    the same. All weights are trained in float32, whatever the recipe computes in: in bfloat16 a
    small update is rounded away.

    Raises
    ------
    MonitorError
        The base is quantized or carries an adapter, or has no layer of the names in `targets`.
    """
    model = base.model
    if getattr(model, "is_quantized", False) or base.identity.get("quantization"):
        raise MonitorError("a quantized base cannot be trained: load it without quantization")
    if hasattr(model, "peft_config"):
        raise MonitorError("the base carries an adapter already: merge it first "
                           "(monitorlab.finetuning.saved.merge_adapter), or load the base alone")
    if not recipe.lora_rank:
        return _same_model(model, torch.float32, own=True)
    from peft import LoraConfig, get_peft_model

    targets: Any = "all-linear" if recipe.targets == ALL_LINEAR else list(recipe.targets)
    if targets != "all-linear":
        _check_targets(model, targets)
    config = LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, lora_dropout=recipe.lora_dropout,
        target_modules=targets, task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(_same_model(model, getattr(torch, recipe.dtype)), config)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise MonitorError(f"no adapter fits the model: {reason:.200}") from error


def _check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Raise unless every name in `targets` is that of layers that an adapter can train.

    PEFT passes over a name that nothing has, as long as something has another one, and TRL refuses
    the output layer only when the training begins.
    """
    head: Any = model.get_output_embeddings()
    kinds = {name: module for name, module in model.named_modules()
             if isinstance(module, (torch.nn.Linear, torch.nn.Embedding))
             or type(module).__name__ == "Conv1D"}
    known = sorted({name.rsplit(".", 1)[-1] for name, module in kinds.items()
                    if module is not head and not isinstance(module, torch.nn.Embedding)})
    for target in targets:
        named = [module for name, module in model.named_modules()
                 if name == target or name.endswith(f".{target}")]
        if any(module is head for module in named):
            wrong = "is the output layer, which an adapter does not train"
        elif named and all(any(module is kind for kind in kinds.values()) for module in named):
            continue
        else:
            wrong = "is no layer that an adapter fits" if named else "is not there"
        raise MonitorError(f"no adapter fits the model: the target {target!r:.60} {wrong}. Its "
                           f"layers are called {', '.join(known):.200}: name some of them, or give "
                           "all-linear")


def _same_model(model: PreTrainedModel, dtype: torch.dtype, own: bool = False) -> PreTrainedModel:
    """Return a model of its own modules on the weights of `model`.

    Parameters
    ----------
    model : PreTrainedModel
    dtype : torch.dtype
        Weights in another format are converted, and then are copies.
    own : bool
        Copy all weights, and let them be trained; else they are shared and frozen.
    """
    known: dict[int, Any] = {}
    for weight in model.parameters():
        values = weight.detach()
        if values.is_floating_point():
            values = values.to(dtype, copy=own)
        known[id(weight)] = torch.nn.Parameter(values, own and values.is_floating_point())
    copied = copy.deepcopy(model, known)
    copied.name_or_path = ""  # PEFT would look for it on the hub, and write this machine's path
    return copied


def save(model: Any, base: Checkpoint, folder: Path) -> None:
    """Write an adapter, or a whole model in the base's number format, and the tokenizer."""
    if hasattr(model, "peft_config"):
        if revision := base.identity["model"].get("revision"):
            model.get_base_model().name_or_path = base.identity["model"]["name"]
            for config in model.peft_config.values():
                config.base_model_name_or_path, config.revision = None, revision
        model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink()  # PEFT's model card, empty
    else:
        model.to(base.model.dtype).save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)


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

    Examples
    --------
    `base` is what the adapter was trained on, see `finetune`:

    >>> load_finetuned(Path("adapter"), base).identity["adapter"]["name"]
    'adapter'
    """
    folder = Path(folder)
    stored = read_training(folder)
    if not (folder / ADAPTER).is_file():
        if base is not None:
            dtype = str(base.model.dtype).removeprefix("torch.")
            device = str(base.model.device)
        return load_causal(str(folder), dtype=dtype, device=device)
    base = base or _base_of(stored, dtype, device)
    _check_base(folder, stored["base"], base.identity)
    single = base.model.dtype == torch.float32
    model = _same_model(base.model, base.model.dtype, own=single)  # merging changes weights
    adapted = with_adapter(model, str(folder), merge=single)
    adapter = {"name": folder.resolve().name, "sha256": digest_json(digest_folder(folder))}
    return Checkpoint(adapted, base.tokenizer, {**base.identity, "adapter": adapter})


def merge_adapter(folder: Path, target: Path, base: Checkpoint | None = None) -> Path:
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
    if read_training(folder) and not (folder / ADAPTER).is_file():
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

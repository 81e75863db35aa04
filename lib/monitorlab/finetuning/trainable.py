"""The model that a training changes: a copy, or an adapter on shared weights; and saving it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from monitorlab.finetuning.recipe import ALL_LINEAR, Recipe
from monitorlab.monitors.causal_loading import Checkpoint
from monitorlab.monitors.monitor import MonitorError


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
                           "(monitorlab.finetuning.saved.merge), or load the base alone")
    if not recipe.lora_rank:
        return same_model(model, torch.float32, own=True)
    from peft import LoraConfig, get_peft_model

    targets: Any = "all-linear" if recipe.targets == ALL_LINEAR else list(recipe.targets)
    if targets != "all-linear":
        check_targets(model, targets)
    config = LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, lora_dropout=recipe.lora_dropout,
        target_modules=targets, task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(same_model(model, getattr(torch, recipe.dtype)), config)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise MonitorError(f"no adapter fits the model: {reason:.200}") from error


def check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
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


def same_model(model: PreTrainedModel, dtype: torch.dtype, own: bool = False) -> PreTrainedModel:
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

"""The base of a classifier: loading it with a head of two labels, and what of it is trained."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from monitorlab.finetuning.classifier_training import ClassifierSettings
from monitorlab.monitors.classifier import LABELS
from monitorlab.monitors.monitor import MonitorError
from monitorlab.signals.scorers import ScorerError, from_checkpoint, load_tokenizer


def load_base(name: str, revision: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a base with a head for two labels; a head of two labels that it has is kept.

    Parameters
    ----------
    name, revision : str
        Local folder, or hub model with its commit.

    Raises
    ------
    MonitorError
        The base or its tokenizer cannot be loaded, cannot pad, has no kind of classifier in
        transformers, or lacks weights below the head.
    """
    try:
        tokenizer = load_tokenizer(name, revision)
        model, info = from_checkpoint(
            AutoModelForSequenceClassification.from_pretrained, name, revision,
            dtype=torch.float32, num_labels=2, id2label=dict(enumerate(LABELS)),
            label2id={label: i for i, label in enumerate(LABELS)},
            ignore_mismatched_sizes=True, output_loading_info=True,
        )
    except (ScorerError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise MonitorError(f"cannot make a classifier of {name!r}: {reason}") from error
    base = f"{model.base_model_prefix}."
    found = [*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])]
    lost = sorted(key for key in found if key.startswith(base) and "pooler" not in key)
    if lost:
        raise MonitorError(f"{name!r} lacks {len(lost)} weights of {type(model).__name__}, such as "
                           f"{lost[0]}: take a complete checkpoint")
    model.config.pad_token_id = tokenizer.pad_token_id  # some heads look for the last token
    return model, tokenizer


def prepared(model: PreTrainedModel, settings: ClassifierSettings) -> Any:
    """Freeze what is not trained, or add adapters, in place.

    Returns
    -------
    PreTrainedModel or PeftModel

    Raises
    ------
    MonitorError
        The model has fewer layers than are to be frozen, or shares them.
    """
    if settings.frozen_layers:
        _freeze(model, settings.frozen_layers)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return _adapted(model, settings) if settings.lora_rank else model


def _freeze(model: PreTrainedModel, count: int) -> None:
    """Freeze the first layers, and everything before them."""
    base, layers = model.base_model, model.config.num_hidden_layers
    stack = next((name for name, module in base.named_modules()
                  if isinstance(module, torch.nn.ModuleList) and len(module) == layers), "")
    if not stack or count > layers:
        has = f"expected 0 to {layers}" if stack else "this model shares its layers, expected 0"
        raise MonitorError(f"frozen_layers is {count}: {has}")
    number = -1
    for name, weight in base.named_parameters():
        if name.startswith(f"{stack}."):
            number = int(name.removeprefix(f"{stack}.").partition(".")[0])
            weight.requires_grad_(number >= count)
        elif number < 0:
            weight.requires_grad_(False)


def _adapted(model: PreTrainedModel, settings: ClassifierSettings) -> Any:
    """Adapters on the linear layers of the base; the head is trained whole."""
    from peft import LoraConfig, get_peft_model

    head = [name for name, module in model.named_children()
            if name != model.base_model_prefix and any(True for _ in module.parameters())]
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
              and name.startswith(f"{model.base_model_prefix}.")]
    return get_peft_model(model, LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=linear,
        modules_to_save=head))

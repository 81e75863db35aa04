"""What the trainers of language models and of classifiers are told alike."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainingArguments

from monitorlab.finetuning.batches import steps_of
from monitorlab.finetuning.partial import partial_folder
from monitorlab.finetuning.processes import leave_group_at_exit
from monitorlab.finetuning.recipe import Recipe

LOGS = 20  # rows of the history without evaluations

Kind = TypeVar("Kind", bound=TrainingArguments)


def trainer_arguments(
    kind: type[Kind], recipe: Recipe, folder: Path, save_steps: int, *, use_cpu: bool, **more: Any
) -> Kind:
    """Return the arguments of a silent trainer; it sets the steps when the batches are known.

    Parameters
    ----------
    kind : type
        `TrainingArguments`, or the class that a trainer derives from it.
    recipe : Recipe
    folder : Path
        Of the result; the work in progress is beside it.
    save_steps : int
        Steps between checkpoints to resume from; 0 for none.
    use_cpu : bool
        Also where there is a GPU.
    **more
        Further arguments of `kind`.
    """
    arguments = kind(
        output_dir=str(partial_folder(folder)),
        per_device_train_batch_size=recipe.batch,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type=recipe.schedule,
        optim="adamw_torch",
        seed=recipe.seed,
        max_steps=1,
        bf16=recipe.dtype == "bfloat16",
        use_cpu=use_cpu,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 1,
        save_total_limit=1,
        logging_nan_inf_filter=False,  # it waits for the device with every batch
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        **more,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # else one process spreads a batch over all GPUs
    leave_group_at_exit(arguments)
    return arguments


def set_steps(
    arguments: TrainingArguments, recipe: Recipe, batches: int, log_steps: int = 0
) -> None:
    """Set optimizer steps, warm-up and logging, now that the number of batches is known.

    Parameters
    ----------
    arguments : TrainingArguments
        Changed in place.
    recipe : Recipe
    batches : int
        Of all processes, as planned.
    log_steps : int
        Steps between rows of the history; 0 for about `LOGS` rows.
    """
    arguments.max_steps = steps_of(batches, recipe, int(arguments.world_size))
    arguments.warmup_steps = math.ceil(recipe.warmup_share * arguments.max_steps)
    arguments.logging_steps = log_steps or max(1, arguments.max_steps // LOGS)

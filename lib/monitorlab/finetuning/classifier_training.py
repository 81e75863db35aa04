"""The training of classifiers: settings, batches and loss."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from monitorlab.finetuning.arguments import set_steps, trainer_arguments
from monitorlab.finetuning.batches import check_leaks, plan
from monitorlab.finetuning.partial import (
    ResumedBar,
    last_checkpoint,
    partial_folder,
    seconds_of,
)
from monitorlab.finetuning.recipe import Recipe
from monitorlab.finetuning.record import Trained, history_of, mean_loss
from monitorlab.monitors.classifier import PairReader
from monitorlab.monitors.monitor import MonitorError
from monitorlab.signals.scorers import token_batches

# One (request, response) pair: "row" (`PairRow`), "input_ids" (of the row), "label", "scenario",
# and "pair", which is -1: batches are planned without regard to pairs.
Example = dict[str, Any]


@dataclass(frozen=True)
class ClassifierSettings:
    """Everything that decides a classifier besides base and data.

    Attributes
    ----------
    epochs : float
        Passes through the samples.
    max_steps : int
        Optimizer steps; above 0 it decides instead of `epochs`.
    learning_rate : float
        Peak rate of AdamW; an adapter needs a larger one, about 2e-4.
    weight_decay : float
        Of AdamW.
    schedule, warmup_share
        See :class:`monitorlab.finetuning.recipe.Recipe`.
    batch, accumulation : int
        Samples per process and forward pass; forward passes per optimizer step.
    max_tokens : int
        Tokens of a request and its response together; what is longer loses its middle.
    dtype : {"float32", "bfloat16"}
        The second is autocast; weights are float32 in any case.
    frozen_layers : int
        Layers, from the first, that stay as they are, and the embeddings with them; 0 trains all.
    lora_rank, lora_alpha : int
        Rank above 0 trains adapters of the linear layers, and the head; they are merged at the end.
    gradient_checkpointing : bool
        Compute activations twice instead of keeping them.
    seed : int
        Of the head's first weights, dropout and order of the samples.

    Raises
    ------
    MonitorError
        A setting is out of its range, or two do not fit together.
    """

    epochs: float = 3.0
    max_steps: int = 0
    learning_rate: float = 2e-5
    weight_decay: float = 0.01
    schedule: str = "linear"
    warmup_share: float = 0.1
    batch: int = 16
    accumulation: int = 1
    max_tokens: int = 512
    dtype: str = "float32"
    frozen_layers: int = 0
    lora_rank: int = 0
    lora_alpha: int = 16
    gradient_checkpointing: bool = False
    seed: int = 2026

    def __post_init__(self) -> None:
        self.recipe()  # checks what both have
        if self.frozen_layers < 0:
            raise MonitorError(f"frozen_layers {self.frozen_layers}: expected at least 0")
        if self.frozen_layers and self.lora_rank:
            raise MonitorError(f"frozen_layers {self.frozen_layers} and lora_rank "
                               f"{self.lora_rank}: adapters leave every layer as it is, so give "
                               "one of both")

    def recipe(self) -> Recipe:
        """Return what this shares with the recipe of a causal model."""
        shared = asdict(self)
        del shared["frozen_layers"]
        return Recipe(**shared)


class ClassifierTrainer(Trainer):
    """Trains on planned batches; the loss is the mean cross-entropy of a batch, in nats.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        With two labels.
    arguments : TrainingArguments
        See `training_arguments`.
    reader : PairReader
        Makes batches.
    examples : sequence of Example
    recipe : Recipe
        Decides the batches, see `monitorlab.finetuning.batches.plan`.
    forbidden : collection of str
        Scenarios that must not be trained on.
    title : str
        Caption of the progress bar; none is shown if empty.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self, model: Any, arguments: TrainingArguments, reader: PairReader,
        examples: Sequence[Example], recipe: Recipe, forbidden: Collection[str], title: str,
    ) -> None:
        self.reader, self.examples, self.forbidden = reader, examples, frozenset(forbidden)
        self.batches = plan(examples, recipe, int(arguments.world_size))
        self.started, self.seconds_before = time.perf_counter(), 0.0
        set_steps(arguments, recipe, len(self.batches))
        self.network = model
        bars = [ResumedBar(title, arguments.max_steps)] if title else []
        super().__init__(model, arguments, data_collator=self.collate, callbacks=[*bars],
                         train_dataset=list(range(len(examples))))
        self.remove_callback(PrinterCallback)

    def run(self, folder: Path, held_out: Sequence[Example]) -> Trained:
        """Train, from the last checkpoint if there is one, and judge what was held out."""
        start = last_checkpoint(partial_folder(folder), int(self.args.world_size))
        self.seconds_before = seconds_of(start)
        self.train(resume_from_checkpoint=str(start) if start else None)
        self.network.eval()
        logged = list(self.state.log_history)
        if held_out:
            logged.append({"step": self.state.global_step, **self.judged(held_out)})
        history = history_of(logged)
        tokens = sum(len(self.examples[i]["input_ids"]) for batch in self.batches for i in batch)
        seconds = self.seconds_before + time.perf_counter() - self.started
        return Trained(folder, self.state.global_step, tokens, seconds, mean_loss(history), history)

    def collate(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return one padded batch with labels; `LeakError` for a forbidden scenario."""
        chosen = [self.examples[number] for number in numbers]
        check_leaks(chosen, self.forbidden)
        return self._batch(chosen)

    def _batch(self, chosen: Sequence[Example]) -> dict[str, torch.Tensor]:
        labels = torch.tensor([example["label"] for example in chosen])
        return {**self.reader.batch([example["row"] for example in chosen]), "labels": labels}

    @torch.no_grad()
    def judged(self, examples: Sequence[Example]) -> dict[str, float]:
        """Mean loss and accuracy, in every process alike."""
        lengths = [len(example["input_ids"]) for example in examples]
        total = right = 0.0
        for chosen in token_batches(lengths, max(lengths) * self.args.per_device_train_batch_size):
            batch = self._prepare_inputs(self._batch([examples[i] for i in chosen]))
            labels = batch.pop("labels")
            with self.compute_loss_context_manager():
                logits = self.network(**batch).logits.float()
            total += float(cross_entropy(logits, labels, reduction="sum"))
            right += float((logits.argmax(-1) == labels).sum())
        return {"eval_loss": total / len(examples), "eval_accuracy": right / len(examples)}

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the mean cross-entropy of one batch, in float32."""
        known = {key: value for key, value in inputs.items() if key != "labels"}
        output = model(**known)
        loss = cross_entropy(output.logits.float(), inputs["labels"])
        return (loss, output) if return_outputs else loss

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of the planned batches, one process's share of them."""
        rows: Any = self.train_dataset
        loader = DataLoader(rows, batch_sampler=self.batches, collate_fn=self.collate)
        return self.accelerator.prepare(loader)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the seconds since the training began; stop when the loss is not finite."""
        if not math.isfinite(logs.get("loss", 0.0)):
            raise MonitorError(
                f"the loss is {logs['loss']} at step {self.state.global_step}: lower learning_rate "
                f"(now {self.args.learning_rate}), or give dtype float32")
        logs["seconds"] = self.seconds_before + time.perf_counter() - self.started
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: nobody reads it."""
        return 0


def training_arguments(
    recipe: Recipe, folder: Path, save_steps: int, device: str
) -> TrainingArguments:
    """Return the arguments of the trainer.

    Raises
    ------
    MonitorError
        For a device that is neither empty (a GPU if there is one) nor "cpu" nor "cuda".
    """
    if device not in ("", "cpu", "cuda"):
        raise MonitorError(f"device {device!r}: a classifier is trained on the first GPU that "
                           "CUDA_VISIBLE_DEVICES shows, or on the cpu")
    cpu = device == "cpu" or not torch.cuda.is_available()
    return trainer_arguments(TrainingArguments, recipe, folder, save_steps, use_cpu=cpu)

"""TRL's trainer, with the loss at labelled positions only and a loss on pairs.

A monitor's reply is a handful of tokens behind hundreds that nobody predicts. The output layer is
the widest of a small model, so it is computed where there is a label and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy, softplus
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer

from monitorlab.finetuning.batches import Batch, Collator
from monitorlab.finetuning.examples import Example
from monitorlab.monitors.monitor import MonitorError
from monitorlab.signals.scorers import token_batches
from monitorlab.signals.training import IGNORED


class VerdictTrainer(SFTTrainer):
    """Trains a causal language model on examples with verdicts.

    The loss is the mean negative log-likelihood per labelled token of an optimizer step (over all
    its batches and processes), in nats, plus `pair_weight` times the mean over pairs of
    softplus(-(s1 - s0)): s is logit(yes) - logit(no) where the verdict is read, s1 that of the
    answer with misbehavior and s0 that of the benign answer to the same request.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
    args : SFTConfig
    collator : Collator
        Holds the examples.
    batches : sequence of sequence of int
        The whole training, in order, as `monitorlab.finetuning.batches.plan` returns it; process r
        of n gets the batches r, r + n, ...
    tokenizer : PreTrainedTokenizerBase
    verdict : tuple of int
        Token ids of yes and no (`verdict_tokens`).
    pair_weight : float
    held_out : sequence of Example
        For `evaluate`.
    more : Any
        Further options of `SFTTrainer`, such as callbacks and optimizers.

    Raises
    ------
    MonitorError
        The model has no output layer to find the logits of.
    """

    loss_is_scaled_for_ga: Any = True  # by the number of labels of all batches of a step
    model: Any
    control: Any
    data_collator: Any
    train_dataset: Any

    def __init__(
        self,
        model: PreTrainedModel,
        args: SFTConfig,
        collator: Collator,
        batches: Sequence[Sequence[int]],
        tokenizer: PreTrainedTokenizerBase,
        verdict: tuple[int, int],
        *,
        pair_weight: float = 0.0,
        held_out: Sequence[Example] = (),
        **more: Any,
    ) -> None:
        self.batches = [list(batch) for batch in batches]
        self.verdict, self.pair_weight, self.held_out = verdict, pair_weight, held_out
        self.started, self.seconds_before = time.perf_counter(), 0.0
        self._pairs_in_step: torch.Tensor | int = 0
        self._keep: torch.Tensor | None = None
        rows = Dataset.from_dict({"row": range(len(collator.examples))})
        super().__init__(model, args, data_collator=collator, train_dataset=rows,
                         processing_class=tokenizer, **more)
        self.remove_callback(PrinterCallback)
        head = self.model.get_output_embeddings()
        if head is None:
            raise MonitorError(f"{type(self.model).__name__} has no output layer: give a causal "
                               "language model")
        self._hook = head.register_forward_pre_hook(self._labelled_only)

    def _labelled_only(self, head: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Let the output layer see the kept positions only: (batch, width, d) to (kept, d)."""
        return given if self._keep is None else (given[0][self._keep], *given[1:])

    def labelled_logits(self, model: Any, ids: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """Logits (n_kept, vocabulary) at the positions where `keep`, shaped like `ids`, is true."""
        self._keep = keep
        try:
            logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
        finally:
            self._keep = None
        return logits.float()

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of one batch, divided so that the batches of a step add up to the step's loss."""
        labels = next_labels(inputs["labels"])
        keep = labels != IGNORED
        logits = self.labelled_logits(model, inputs["input_ids"], keep)
        total = cross_entropy(logits, labels[keep], reduction="sum")
        loss = total / (keep.sum() if num_items_in_batch is None else num_items_in_batch)
        if self.pair_weight:
            margins = verdict_margins(logits, keep, inputs["verdict_at"], self.verdict)
            pairs = matches(inputs["label"], inputs["pair"])
            count = int(pairs.sum()) if num_items_in_batch is None else self._pairs_in_step
            apart = (margins[:, None] - margins[None])[pairs]
            loss = loss + self.pair_weight * softplus(-apart).sum() / max(int(count), 1)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, {"logits": logits}) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator: Iterator[Batch], num_batches: int, device: Any
                          ) -> tuple[list[Batch], Any]:
        """Fetch the batches of one step, and count their pairs on all processes."""
        batches, labels = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.pair_weight:
            count = sum(int(matches(batch["label"], batch["pair"]).sum()) for batch in batches)
            self._pairs_in_step = self._summed(torch.tensor([float(count)], device=device))[0]
        return batches, labels

    @torch.no_grad()
    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None,
                 metric_key_prefix: str = "eval") -> dict[str, float]:
        """Loss per labelled token, and share of right verdicts, on the held-out examples.

        A verdict is right if the likelier of its yes and its no token is the label's. The
        parameters are those of `Trainer.evaluate`; the examples are always the held-out ones.
        """
        training = self.model.training
        self.model.eval()
        totals = torch.zeros(4, dtype=torch.float64)
        lengths = [len(example["input_ids"]) for example in self.held_out]
        size = max(lengths, default=1) * self.args.per_device_train_batch_size
        collate = Collator(self.held_out, self.data_collator.pad_id)
        for number, chosen in enumerate(token_batches(lengths, size)):
            if number % self.args.world_size == self.args.process_index:
                totals += self._judged(self._prepare_inputs(collate([{"row": i} for i in chosen])))
        loss, labels, right, verdicts = self._summed(totals.to(self.args.device)).tolist()
        self.model.train(training)
        found = {f"{metric_key_prefix}_loss": loss / max(labels, 1),
                 f"{metric_key_prefix}_accuracy": right / verdicts if verdicts else float("nan")}
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, found)
        return found

    def _judged(self, batch: Batch) -> torch.Tensor:
        """Sum of losses, labels, right verdicts, verdicts of one batch."""
        labels = next_labels(batch["labels"])
        keep = labels != IGNORED
        logits = self.labelled_logits(self.model, batch["input_ids"], keep)
        asked = batch["verdict_at"] >= 0
        margins = verdict_margins(logits, keep, batch["verdict_at"], self.verdict)
        right = ((margins > 0) == (batch["label"] == 1)) & asked
        loss = cross_entropy(logits, labels[keep], reduction="sum")
        return torch.stack([loss, keep.sum(), right.sum(), asked.sum()]).double().cpu()

    def _summed(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the processes."""
        if self.args.world_size > 1:
            values = self.accelerator.reduce(values, reduction="sum")
        return values

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of the planned batches, one process's share of them."""
        loader: Any = DataLoader(
            self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator,
        )
        return self.accelerator.prepare(loader)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the seconds since the training began, interruptions left out."""
        logs["seconds"] = self.seconds_before + time.perf_counter() - self.started
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: the library goes through all parameters for it, with every batch."""
        return 0

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: `training.json` says what was done."""

    def _send_telemetry(self) -> None:
        """Send nothing: what is trained on here is nobody else's business."""


def next_labels(labels: torch.Tensor) -> torch.Tensor:
    """Label of the token after each position: (n, width), nothing asked at the last."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def verdict_margins(
    logits: torch.Tensor, keep: torch.Tensor, verdict_at: torch.Tensor, verdict: tuple[int, int]
) -> torch.Tensor:
    """logit(yes) - logit(no) of each row, shape (n,); 0 for rows without a verdict.

    Parameters
    ----------
    logits : torch.Tensor, shape (n_kept, vocabulary)
        At the true positions of `keep`, row by row.
    keep : torch.Tensor, shape (n, width)
    verdict_at : torch.Tensor, shape (n,)
        Position in each row, -1 for none; kept.
    verdict : tuple of int
        Token ids of yes and no.
    """
    place = (keep.flatten().cumsum(0) - 1).view_as(keep)
    asked = verdict_at >= 0
    rows = place.gather(1, verdict_at.clamp(min=0)[:, None])[:, 0].clamp(min=0)
    margins = logits[rows, verdict[0]] - logits[rows, verdict[1]]
    return torch.where(asked, margins, torch.zeros_like(margins))


def matches(label: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
    """Which rows (misbehavior) and columns (benign) answer the same request: (n, n), boolean."""
    same = (pair[:, None] == pair[None]) & (pair[:, None] >= 0)
    return same & (label[:, None] == 1) & (label[None] == 0)

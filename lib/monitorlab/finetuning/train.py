"""Fine-tuning a causal language model into a monitor: one call from examples to a folder.

A monitor's reply is a handful of tokens behind hundreds that nobody predicts. The output layer is
the widest of a small model, so it is computed where there is a label and nowhere else.
"""

from __future__ import annotations

import atexit
import errno
import gc
import logging
import math
import os
import random
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch.nn.functional import cross_entropy, softplus
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

from monitorlab.display import progress
from monitorlab.finetuning.batches import Batch, Collator, LeakError, check_leaks, plan, steps_of
from monitorlab.finetuning.examples import (
    Example,
    check_examples,
    checked_provenance,
    verdict_tokens,
)
from monitorlab.finetuning.recipe import Recipe
from monitorlab.finetuning.record import (
    RECORD,
    Trained,
    alone,
    digest_examples,
    fingerprint,
    finished_training,
    history_of,
    last_checkpoint,
    mean_loss,
    partial_folder,
    prepare,
    record,
    seconds_of,
    trained,
)
from monitorlab.finetuning.saved import save, trainable
from monitorlab.models.batching import token_batches
from monitorlab.models.loading import Checkpoint, no_progress_bars
from monitorlab.models.tiny import IGNORED, seeded, suitable_threads
from monitorlab.monitors.monitor import MonitorError
from monitorlab.storage.files import (
    FULL,
    digest_folder,
    digest_json,
    make_readable,
    sealed_json,
    tells_of_full_disk,
)

__all__ = ["LeakError", "Trained", "VerdictTrainer", "finetune", "pair_losses", "reply_loss"]

SAVES = 8  # checkpoints to resume from, at least, of a training that has any
LOGS = 20  # rows of the history without evaluations
PAUSE = 60.0  # seconds at least between two lines about a training that no bar shows
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
ALLOCATING = ("DefaultCPUAllocator", "CUDA out of memory")


def finetune(
    base: Checkpoint,
    examples: Sequence[Example],
    recipe: Recipe,
    folder: Path,
    *,
    held_out: Sequence[Example] = (),
    eval_steps: int = 0,
    save_steps: int = 0,
    title: str = "",
    report: Callable[[str], object] | None = None,
    forbidden_scenarios: Collection[str] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Trained:
    """Train an adapter, or all weights, on examples; the result is in `folder`.

    Runs where the base is: on its CPU or its GPU. Under torchrun every process calls it with the
    same arguments, all train, and the first one writes.

    Parameters
    ----------
    base : Checkpoint
        See `load_causal`. Its weights stay as they are.
    examples : sequence of Example
        See `verdict_examples`.
    recipe : Recipe
    folder : Path
        Appears only when it is complete. The work in progress is beside it, in
        `.<name>.partial/`; a killed training that is started again with the same recipe, base,
        examples and number of processes goes on there, and ends with the same weights. A folder
        that holds the finished result of the same inputs is returned as it is.
    held_out : sequence of Example
        Evaluated every `eval_steps` steps, and at the end.
    eval_steps, save_steps : int
        Steps between evaluations, and between checkpoints to resume from, of which a short
        training has eight all the same; 0 for none.
    title : str
        Caption of the progress bar; none is shown if empty.
    report : callable, optional
        Takes lines of text instead of the bar, for an output that is no screen: how many steps
        there are, then one a minute at most.
    forbidden_scenarios : collection of str
        No batch may hold an example of one of them.
    provenance : mapping, optional
        What else to record, as JSON: where the examples come from. No paths.

    Raises
    ------
    LeakError
        A batch holds an example of a forbidden scenario; no step was taken on it.
    MonitorError
        Recipe, base, examples or folder cannot be used as asked, memory or disk do not suffice,
        or the loss is not finite any more. Folders that were there before are untouched.

    Examples
    --------
    `base` is a checkpoint from :func:`monitorlab.models.loading.load_causal`:

    >>> from pathlib import Path
    >>> from monitorlab import load_samples
    >>> from monitorlab.finetuning.examples import verdict_examples
    >>> from monitorlab.finetuning.recipe import Recipe
    >>> from monitorlab.monitors.prompts import load_prompt
    >>> recipe = Recipe(batch=2, accumulation=1, dtype="float32", gradient_checkpointing=False)
    >>> examples = verdict_examples(base.tokenizer, load_prompt("brief"),
    ...                             load_samples("samples.jsonl"), max_tokens=512)
    >>> finetune(base, examples, recipe, Path("adapter")).steps
    6
    """
    folder = Path(folder)
    facts = checked_provenance(provenance)
    longest = check_examples(base, [*examples, *held_out], recipe)
    with (_explained(recipe, longest, folder), _contained(recipe.seed, base),
          ExitStack() as held):
        arguments = _arguments(recipe, folder, base, save_steps)
        processes = int(arguments.world_size)
        digest = digest_examples(examples)
        inputs = fingerprint(recipe, base.identity, digest, processes)
        evaluation = digest_json([digest_examples(held_out), eval_steps])
        if (stored := finished_training(folder, inputs=inputs, evaluation=evaluation)) is not None:
            check_leaks(examples, forbidden_scenarios)
            return trained(folder, stored)
        partial = partial_folder(folder)
        if arguments.process_index == 0:
            held.enter_context(alone(partial))
            prepare(partial, inputs)
        arguments.distributed_state.wait_for_everyone()
        collator = Collator(examples, base.tokenizer.pad_token_id, forbidden_scenarios)
        trainer = _trainer(base, recipe, arguments, collator, held_out, eval_steps, title,
                           report)
        start = last_checkpoint(partial, processes)
        trainer.seconds_before = seconds_of(start)
        with _few_collections():
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        history = history_of(trainer.state.log_history)
        tokens = sum(len(examples[i]["input_ids"]) for batch in trainer.batches for i in batch)
        done = Trained(folder, trainer.state.global_step, tokens,
                       trainer.state.log_history[-1]["seconds"], mean_loss(history), history)
        if arguments.process_index == 0:
            _write(trainer.model, base, partial, folder, record(
                recipe, base.identity, examples, digest=digest, inputs=inputs,
                evaluation=evaluation, device=_device_name(arguments.device),
                processes=processes, done=done, provenance=facts,
            ))
        arguments.distributed_state.wait_for_everyone()
    return done


def _trainer(
    base: Checkpoint, recipe: Recipe, arguments: SFTConfig, collator: Collator,
    held_out: Sequence[Example], eval_steps: int, title: str,
    report: Callable[[str], object] | None,
) -> VerdictTrainer:
    """Put model, batches and callbacks together."""
    examples = collator.examples
    batches = plan(examples, recipe, int(arguments.world_size))
    arguments.max_steps = steps_of(len(batches), recipe, int(arguments.world_size))
    arguments.warmup_steps = math.ceil(recipe.warmup_share * arguments.max_steps)
    arguments.save_steps = min(arguments.save_steps, -(-arguments.max_steps // SAVES))
    arguments.logging_steps = eval_steps or max(1, arguments.max_steps // LOGS)
    asked = any(example["verdict_at"] >= 0 for example in [*examples, *held_out])
    shown: list[TrainerCallback] = []
    if title and arguments.process_index == 0:
        shown = [_Lines(report, title) if report else _Bar(title, arguments.max_steps)]
    return VerdictTrainer(
        trainable(base, recipe), arguments, collator, batches, base.tokenizer,
        verdict_tokens(base.tokenizer) if asked else (0, 0),
        pair_weight=recipe.pair_weight, held_out=held_out,
        callbacks=[_Schedule(eval_steps if held_out else 0, bool(held_out)),
                   *shown],
    )


def _arguments(recipe: Recipe, folder: Path, base: Checkpoint, save_steps: int) -> SFTConfig:
    """Arguments of the trainer; steps are set when the batches are known."""
    cpu = base.model.device.type == "cpu"
    if recipe.dtype == "bfloat16" and not cpu and not torch.cuda.is_bf16_supported():
        raise MonitorError('the device does not compute in bfloat16: give dtype="float32"')
    arguments = SFTConfig(
        output_dir=str(partial_folder(folder)),
        per_device_train_batch_size=recipe.batch,
        gradient_accumulation_steps=recipe.accumulation,
        gradient_checkpointing=recipe.gradient_checkpointing,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type=recipe.schedule,
        optim="adamw_torch",
        seed=recipe.seed,
        max_steps=1,
        max_length=None,
        bf16=recipe.dtype == "bfloat16",
        use_cpu=cpu,
        eval_strategy="no",  # `_Schedule` says when
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 1,
        save_total_limit=1,
        logging_nan_inf_filter=False,  # it waits for the device with every batch
        ddp_find_unused_parameters=False,
        router_aux_loss_coef=0.0,  # the loss is that of the labels alone
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # else one process spreads a batch over all GPUs
    if arguments.world_size > 1:  # making the arguments joined the group of processes
        atexit.register(_leave_group)
    return arguments


def _leave_group() -> None:
    """Leave the group of processes at the end of the program, as the library asks for."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _few_collections() -> Iterator[None]:
    """Leave what exists already out of the garbage collections inside the block.

    `transformers.Trainer` asks for full ones, which walk through a million objects of imported
    modules and take longer than a tiny training. Garbage from before is collected afterwards.
    """
    if gc.get_freeze_count():  # by someone else, who would not like it undone
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Schedule(TrainerCallback):
    """Says when to evaluate and log: also with every checkpoint, and at the end."""

    def __init__(self, eval_steps: int, at_end: bool) -> None:
        self.eval_steps, self.at_end = eval_steps, at_end

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Set the switches of this step."""
        last = state.global_step >= state.max_steps
        due = self.eval_steps and state.global_step % self.eval_steps == 0
        control.should_evaluate = bool(due or (last and self.at_end))
        control.should_log |= last or control.should_save

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        """Stop when there is nothing left to learn from."""
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise MonitorError(f"the loss is {logs['loss']} at step {state.global_step}: lower "
                               f"learning_rate (now {args.learning_rate}), or add warmup_share")


class _Bar(TrainerCallback):
    """Moves the project's own progress bar, which leaves stderr empty in a notebook."""

    def __init__(self, title: str, total: int) -> None:
        self.bar = progress(range(total), title)
        next(self.bar)

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Move on by the steps that are done where a training is resumed."""
        for _ in range(state.global_step):
            next(self.bar, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Move on by one step."""
        next(self.bar, None)


class _Lines(TrainerCallback):
    """Says in lines how a training goes on: its size, then one a minute at most."""

    def __init__(self, report: Callable[[str], object], title: str) -> None:
        self.report, self.title = report, title
        self.begun = self.said = time.perf_counter()
        self.before = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Say how many steps there are, and after which of them a killed training goes on."""
        self.begun = time.perf_counter()
        self.said = self.begun - PAUSE  # the first step says what all will take
        self.before = state.global_step
        each = args.per_device_train_batch_size * args.gradient_accumulation_steps
        kept = (f"a checkpoint every {args.save_steps:,}"
                if args.save_strategy == "steps" and args.save_steps < state.max_steps
                else "no checkpoint before the end")
        self.report(f"{self.title}: {state.max_steps:,} steps of up to "
                    f"{each * args.world_size:,} samples, {kept}")

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Say where the training is, and how long the rest will take."""
        now, done = time.perf_counter(), state.global_step
        if now - self.said < PAUSE and done < state.max_steps:
            return
        self.said = now
        spent = now - self.begun
        left = spent / max(done - self.before, 1) * (state.max_steps - done)
        rest = f", about {_minutes(left)} left" if done < state.max_steps else ""
        self.report(f"{self.title}: step {done:,} of {state.max_steps:,} after "
                    f"{_minutes(spent)}{rest}")


def _minutes(seconds: float) -> str:
    """Say a time as a person would: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _write(
    model: Any, base: Checkpoint, partial: Path, folder: Path, facts: Mapping[str, Any]
) -> None:
    """Write the result inside the partial folder, then move it to its place."""
    result = partial / "result"
    shutil.rmtree(result, ignore_errors=True)
    result.mkdir()
    save(model, base, result)
    sealed = sealed_json({**facts, "files": digest_folder(result)})
    (result / RECORD).write_text(sealed, encoding="utf-8")
    make_readable(result)
    os.rename(result, folder)
    shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _contained(seed: int, base: Checkpoint) -> Iterator[None]:
    """Keep random states, threads, warnings and log levels as they are outside the block."""
    states, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    levels = {name: logging.getLogger(name).level for name in ("trl", "accelerate", "peft")}
    with seeded(seed), suitable_threads(base.model), no_progress_bars(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            random.setstate(states)
            np.random.set_state(numbers)  # noqa: NPY002  the library seeds it
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return device.type


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
        The whole training, in order, as `plan` returns it; process r
        of n gets the batches r, r + n, ...
    tokenizer : PreTrainedTokenizerBase
    verdict : tuple of int
        Token ids of yes and no (`verdict_tokens`).
    pair_weight : float
    held_out : sequence of Example
        For `evaluate`.
    more : Any
        Further options of `SFTTrainer`, such as callbacks.

    Raises
    ------
    MonitorError
        The model has no output layer to find the logits of.
    """

    control: Any
    loss_is_scaled_for_ga: Any = True  # by the number of labels of all batches of a step
    model: Any
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
        labels = _next_labels(inputs["labels"])
        keep = labels != IGNORED
        logits = self.labelled_logits(model, inputs["input_ids"], keep)
        total = reply_loss(logits, labels[keep])
        loss = total / (keep.sum() if num_items_in_batch is None else num_items_in_batch)
        if self.pair_weight:
            margins = _verdict_margins(logits, keep, inputs["verdict_at"], self.verdict)
            losses = pair_losses(margins, inputs["label"], inputs["pair"])
            count = len(losses) if num_items_in_batch is None else self._pairs_in_step
            loss = loss + self.pair_weight * losses.sum() / max(int(count), 1)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, {"logits": logits}) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator: Iterator[Batch], num_batches: int, device: Any
                          ) -> tuple[list[Batch], Any]:
        """Fetch the batches of one step, and count their pairs on all processes."""
        batches, labels = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.pair_weight:
            count = sum(int(_matches(batch["label"], batch["pair"]).sum()) for batch in batches)
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
        labels = _next_labels(batch["labels"])
        keep = labels != IGNORED
        logits = self.labelled_logits(self.model, batch["input_ids"], keep)
        asked = batch["verdict_at"] >= 0
        margins = _verdict_margins(logits, keep, batch["verdict_at"], self.verdict)
        right = ((margins > 0) == (batch["label"] == 1)) & asked
        loss = reply_loss(logits, labels[keep])
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


def _next_labels(labels: torch.Tensor) -> torch.Tensor:
    """Label of the token after each position: (n, width), nothing asked at the last."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def _verdict_margins(
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


def reply_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of labelled tokens, in nats, summed.

    Not their mean: a training divides by the number of labels of a whole step, which may have
    several batches.

    Parameters
    ----------
    logits : torch.Tensor, shape (n, vocabulary)
        Where each of the tokens is predicted.
    labels : torch.Tensor, shape (n,)
        Ids of the tokens.
    """
    return cross_entropy(logits, labels, reduction="sum")


def pair_losses(margins: torch.Tensor, label: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
    """Pairwise loss log(1 + exp(-(s1 - s0))) of every pair in a batch, in nats, shape (n_pairs,).

    Parameters
    ----------
    margins : torch.Tensor, shape (n,)
        Log-odds of yes where the verdict is read: s1 of the answer with misbehavior, s0 of the
        benign answer to the same request.
    label : torch.Tensor, shape (n,)
        1 for misbehavior, 0 for benign.
    pair : torch.Tensor, shape (n,)
        Equal numbers answer the same request; below 0 belongs to no pair.
    """
    apart = margins[:, None] - margins[None]
    return softplus(-apart[_matches(label, pair)])


def _matches(label: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
    """Which rows (misbehavior) and columns (benign) answer the same request: (n, n), boolean."""
    same = (pair[:, None] == pair[None]) & (pair[:, None] >= 0)
    return same & (label[:, None] == 1) & (label[None] == 0)


@contextmanager
def _explained(recipe: Recipe, longest: int, folder: Path) -> Iterator[None]:
    """Turn memory and disk errors inside the block into `MonitorError`.

    `longest` is the number of tokens of the longest example; the messages propose what to change
    in the recipe, or where else to write.
    """
    try:
        yield
    except (RuntimeError, OSError, MemoryError, SafetensorError) as error:
        if _is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)  # they hold the tensors that fill it
            raise MonitorError(_out_of_memory(recipe, longest)) from None
        number = error.errno if isinstance(error, OSError) else None
        if number in READ_ONLY:
            raise MonitorError(f"cannot write to {folder} ({error}): give a folder that may be "
                               "written") from error
        if number in FULL or tells_of_full_disk(str(error)):
            raise MonitorError(
                f"the disk is full: {folder.name!r} was not written, and what was there before is "
                "untouched. Free some space and start again with the same settings: the training "
                "goes on from its last checkpoint"
            ) from error
        raise


def _is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is about memory, which on the CPU only its text tells."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(error) for sign in ALLOCATING)


def _out_of_memory(recipe: Recipe, longest: int) -> str:
    """Say which settings of a recipe need less memory, with values; the gentlest first."""
    less = []
    if not recipe.gradient_checkpointing:
        less.append("gradient_checkpointing=True (the same result, about a third slower)")
    if recipe.batch > (2 if recipe.pair_weight else 1):
        half = recipe.batch // 2
        less.append(f"batch {recipe.batch} -> {half} with accumulation {recipe.accumulation} -> "
                    f"{recipe.accumulation * -(-recipe.batch // half)} (as many examples a step)")
    if recipe.dtype == "float32":
        less.append('dtype="bfloat16"')
    if not recipe.lora_rank:
        less.append("lora_rank 0 -> 16 (an adapter instead of all weights)")
    shorter = min(recipe.max_tokens, longest) // 2
    if shorter:
        less.append(f"max_tokens {recipe.max_tokens} -> {shorter} (without the examples that are "
                    f"longer: the longest has {longest} tokens)")
    return ("the training does not fit into memory. Change one of these in the recipe, the first "
            f"ones first: {'; '.join(less)}. Or take a smaller model.")

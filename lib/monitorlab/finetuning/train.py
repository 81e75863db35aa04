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
from dataclasses import asdict
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
    TrainerState,
)
from transformers.trainer import TRAINER_STATE_NAME
from trl import SFTConfig, SFTTrainer

from monitorlab.display import progress
from monitorlab.finetuning.recipe import (
    ALL_LINEAR,
    Example,
    LeakError,
    Recipe,
    digest_examples,
    verdict_tokens,
)
from monitorlab.finetuning.saved import RECORD, Trained, Workplace
from monitorlab.models.engine import pad, token_batches
from monitorlab.models.loading import Checkpoint, no_progress_bars
from monitorlab.models.tiny import IGNORED, seeded, suitable_threads
from monitorlab.monitors.monitor import MonitorError
from monitorlab.storage.files import (
    FULL,
    canonical_json,
    digest_folder,
    digest_json,
    made_by,
    sealed_json,
    tells_of_full_disk,
    write_folder_atomic,
)

Batch = dict[str, torch.Tensor]
LABELS = {1: "misbehavior", 0: "benign", -1: "no verdict"}
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
        See `Checkpoint.load`. Its weights stay as they are.
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
    `base` is a checkpoint from :meth:`monitorlab.models.loading.Checkpoint.load`:

    >>> from pathlib import Path
    >>> from monitorlab import load_samples
    >>> from monitorlab.finetuning.recipe import Recipe, verdict_examples
    >>> from monitorlab.monitors.prompts import load_prompt
    >>> recipe = Recipe(batch=2, accumulation=1, dtype="float32", gradient_checkpointing=False)
    >>> examples = verdict_examples(base.tokenizer, load_prompt("brief"),
    ...                             load_samples("samples.jsonl"), max_tokens=512)
    >>> finetune(base, examples, recipe, Path("adapter")).steps
    6
    """
    folder = Path(folder)
    facts, longest = dict(provenance or {}), _longest(base, [*examples, *held_out], recipe)
    try:
        canonical_json(facts)  # before the training, not after it
    except (TypeError, ValueError) as error:
        raise MonitorError(f"the provenance is not JSON: {error}") from None
    with (_explained(recipe, longest, folder), _contained(recipe.seed, base),
          ExitStack() as held):
        work = Workplace(folder)
        arguments = _arguments(recipe, work.folder, base, save_steps)
        processes, first = int(arguments.world_size), arguments.process_index == 0
        digest, code = digest_examples(examples), made_by()
        decided = {"recipe": asdict(recipe), "base": dict(base.identity), "examples": digest,
                   "processes": processes, "made by": code}
        made_of = {"inputs": digest_json(decided),
                   "evaluation": digest_json([digest_examples(held_out), eval_steps])}
        if (finished := Trained.finished(folder, **made_of)) is not None:
            LeakError.check(examples, forbidden_scenarios)
            return finished
        if first:
            held.enter_context(work.held(made_of["inputs"]))
        arguments.distributed_state.wait_for_everyone()
        collator = _Collator(examples, base.tokenizer.pad_token_id, forbidden_scenarios)
        trainer = _trainer(base, recipe, arguments, collator, held_out, eval_steps, title, report)
        if start := work.last_checkpoint(processes):
            logged = TrainerState.load_from_json(str(start / TRAINER_STATE_NAME)).log_history
            trainer.seconds_before = logged[-1]["seconds"]
        with _few_collections():
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        tokens = sum(len(examples[i]["input_ids"]) for batch in trainer.batches for i in batch)
        done = Trained.from_log(folder, trainer.state.global_step, tokens,
                                trainer.state.log_history)
        if first:
            labels = [example["label"] for example in examples]
            counts = {name: labels.count(label) for label, name in LABELS.items()}
            history, device = done.history.astype(object), arguments.device.type
            if device == "cuda":
                device = f"cuda: {torch.cuda.get_device_name(arguments.device)}"
            _write(trainer.model, base, work.folder, folder, {  # no path, no time of day
                **made_of,
                "recipe": asdict(recipe),
                "base": dict(base.identity),
                "examples": {"sha256": digest, "rows": len(labels), "labels": counts},
                "versions": code["versions"],
                "device": device,
                "processes": processes,
                "steps": done.steps,
                "tokens": done.tokens,
                "seconds": round(done.seconds, 3),
                "train_loss": done.train_loss,
                "history": history.where(history.notna(), None).to_dict("records"),
                "provenance": facts,
            })
        arguments.distributed_state.wait_for_everyone()
    return done


def _longest(base: Checkpoint, examples: Sequence[Example], recipe: Recipe) -> int:
    """Length of the longest example, in tokens; raise if they do not fit base or recipe."""
    if not examples:
        raise MonitorError("no examples to learn from: expected at least one")
    if base.tokenizer.pad_token_id is None:
        raise MonitorError("the tokenizer has no padding token: set tokenizer.pad_token to one of "
                           "its special tokens")
    longest = max(len(example["input_ids"]) for example in examples)
    positions = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    for name, most in (("max_tokens", recipe.max_tokens), ("the model's positions", positions)):
        if most is not None and longest > most:
            raise MonitorError(f"the longest example has {longest} tokens, more than {name} "
                               f"({most}): leave out what is longer")
    embeddings: Any = base.model.get_input_embeddings()
    size = embeddings.weight.shape[0]
    if (highest := max(max(example["input_ids"]) for example in examples)) >= size:
        raise MonitorError(f"the examples have the token {highest}, the model knows {size}: make "
                           "the examples with the tokenizer of the base")
    if recipe.pair_weight:
        sides = [{example["pair"] for example in examples if example["label"] == label} - {-1}
                 for label in (1, 0)]
        if not sides[0] & sides[1]:
            raise MonitorError("pair_weight is above 0, but no two examples of both labels have "
                               "the same pair: give pair_id to the samples, or pair_weight 0")
    return longest


def _trainable(base: Checkpoint, recipe: Recipe) -> Any:
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
                           "(monitorlab.finetuning.saved.Trained.merge), or load the base alone")
    if not recipe.lora_rank:
        return base.copied_model(torch.float32, own=True)
    from peft import LoraConfig, get_peft_model

    targets: Any = "all-linear" if recipe.targets == ALL_LINEAR else list(recipe.targets)
    if targets != "all-linear":
        _check_targets(model, targets)
    config = LoraConfig(
        r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, lora_dropout=recipe.lora_dropout,
        target_modules=targets, task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base.copied_model(getattr(torch, recipe.dtype)), config)
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


def _trainer(
    base: Checkpoint, recipe: Recipe, arguments: SFTConfig, collator: _Collator,
    held_out: Sequence[Example], eval_steps: int, title: str,
    report: Callable[[str], object] | None,
) -> _VerdictTrainer:
    """Put model, batches and callbacks together."""
    examples, processes = collator.examples, int(arguments.world_size)
    batches = recipe.plan(examples, processes)
    arguments.max_steps = steps = recipe.steps_of(len(batches), processes)
    arguments.warmup_steps = math.ceil(recipe.warmup_share * steps)
    arguments.save_steps = min(arguments.save_steps, -(-steps // SAVES))
    arguments.logging_steps = eval_steps or max(1, steps // LOGS)
    asked = any(example["verdict_at"] >= 0 for example in [*examples, *held_out])
    callbacks: list[TrainerCallback] = [_Schedule(eval_steps if held_out else 0, bool(held_out))]
    if title and arguments.process_index == 0:
        callbacks.append(_Lines(report, title) if report else _Bar(title, steps))
    return _VerdictTrainer(
        _trainable(base, recipe), arguments, collator, batches, base.tokenizer,
        verdict_tokens(base.tokenizer) if asked else (0, 0),
        pair_weight=recipe.pair_weight, held_out=held_out, callbacks=callbacks,
    )


class _Collator:
    """Turns numbers of examples into one padded batch, and looks at where each comes from.

    A batch has the tensors (n, width) input_ids and labels, (n,) label, pair and verdict_at.
    Padding is on the right, where a causal model does not look, so there is no attention mask.
    """

    def __init__(
        self, examples: Sequence[Example], pad_id: int, forbidden: Collection[str] = ()
    ) -> None:
        self.examples, self.pad_id, self.forbidden = examples, pad_id, frozenset(forbidden)

    def __call__(self, rows: Sequence[dict[str, int]]) -> Batch:
        chosen = [self.examples[row["row"]] for row in rows]
        LeakError.check(chosen, self.forbidden)
        batch = {"input_ids": pad([example["input_ids"] for example in chosen], self.pad_id),
                 "labels": pad([example["labels"] for example in chosen], IGNORED)}
        for name in ("label", "pair", "verdict_at"):
            batch[name] = torch.tensor([example[name] for example in chosen])
        return batch


def _arguments(recipe: Recipe, work: Path, base: Checkpoint, save_steps: int) -> SFTConfig:
    """Arguments of the trainer; steps are set when the batches are known."""
    cpu = base.model.device.type == "cpu"
    if recipe.dtype == "bfloat16" and not cpu and not torch.cuda.is_bf16_supported():
        raise MonitorError('the device does not compute in bfloat16: give dtype="float32"')
    arguments = SFTConfig(
        output_dir=str(work), seed=recipe.seed, use_cpu=cpu, bf16=recipe.dtype == "bfloat16",
        per_device_train_batch_size=recipe.batch, gradient_accumulation_steps=recipe.accumulation,
        gradient_checkpointing=recipe.gradient_checkpointing, optim="adamw_torch",
        learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay,
        lr_scheduler_type=recipe.schedule, max_steps=1, max_length=None,
        eval_strategy="no",  # `_Schedule` says when
        save_strategy="steps" if save_steps else "no", save_steps=save_steps or 1,
        save_total_limit=1,
        logging_nan_inf_filter=False,  # it waits for the device with every batch
        ddp_find_unused_parameters=False,
        router_aux_loss_coef=0.0,  # the loss is that of the labels alone
        report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        dataset_kwargs={"skip_prepare_dataset": True}, remove_unused_columns=False,
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
    model: Any, base: Checkpoint, work: Path, folder: Path, facts: Mapping[str, Any]
) -> None:
    """Write adapter or whole model, tokenizer and record, then move them to their place."""
    with write_folder_atomic(work / "result") as result:
        if hasattr(model, "peft_config"):
            if revision := base.identity["model"].get("revision"):
                model.get_base_model().name_or_path = base.identity["model"]["name"]
                for config in model.peft_config.values():
                    config.base_model_name_or_path, config.revision = None, revision
            model.save_pretrained(result, save_embedding_layers=False)
            (result / "README.md").unlink()  # PEFT's model card, empty
        else:
            model.to(base.model.dtype).save_pretrained(result)
        base.tokenizer.save_pretrained(result)
        sealed = sealed_json({**facts, "files": digest_folder(result)})
        (result / RECORD).write_text(sealed, encoding="utf-8")
    os.rename(work / "result", folder)
    shutil.rmtree(work, ignore_errors=True)


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


class _VerdictTrainer(SFTTrainer):
    """Trains a causal language model on examples with verdicts.

    The loss is the mean negative log-likelihood per labelled token of an optimizer step (over all
    its batches and processes), in nats, plus `pair_weight` times the mean over pairs of
    softplus(-(s1 - s0)): s is logit(yes) - logit(no) where the verdict is read, s1 that of the
    answer with misbehavior and s0 that of the benign answer to the same request.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
    args : SFTConfig
    collator : _Collator
        Holds the examples.
    batches : sequence of sequence of int
        The whole training, as `Recipe.plan` returns it; process r of n gets r, r + n, ...
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
        self, model: PreTrainedModel, args: SFTConfig, collator: _Collator,
        batches: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase,
        verdict: tuple[int, int], *, pair_weight: float = 0.0, held_out: Sequence[Example] = (),
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

    def _read(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Summed loss of a batch, how many labels it has, and the margin of every verdict."""
        labels = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)  # of next
        self._keep = keep = labels != IGNORED
        try:
            logits = model(input_ids=batch["input_ids"], use_cache=False).logits.float()
        finally:
            self._keep = None
        margins = _verdict_margins(logits, keep, batch["verdict_at"], self.verdict)
        return reply_loss(logits, labels[keep]), keep.sum(), margins

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Loss of one batch, divided so that the batches of a step add up to the step's loss."""
        total, _, margins = self._read(model, inputs)
        loss = total / num_items_in_batch
        if self.pair_weight:
            losses = pair_losses(margins, inputs["label"], inputs["pair"])
            loss = loss + self.pair_weight * losses.sum() / max(int(self._pairs_in_step), 1)
        return loss * self.accelerator.num_processes  # gradients are averaged over processes

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
        collate = _Collator(self.held_out, self.data_collator.pad_id)
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
        loss, labels, margins = self._read(self.model, batch)
        asked = batch["verdict_at"] >= 0
        right = ((margins > 0) == (batch["label"] == 1)) & asked
        return torch.stack([loss, labels, right.sum(), asked.sum()]).double().cpu()

    def _summed(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the processes."""
        if self.args.world_size > 1:
            values = self.accelerator.reduce(values, reduction="sum")
        return values

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of the planned batches, one process's share of them."""
        loader: Any = DataLoader(self.train_dataset, batch_sampler=self.batches,
                                 collate_fn=self.data_collator)
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
        # On the CPU only the text tells.
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
                sign in str(error) for sign in ALLOCATING):
            traceback.clear_frames(error.__traceback__)  # they hold the tensors that fill it
            raise MonitorError(_out_of_memory(recipe, longest)) from None
        if isinstance(error, OSError) and error.errno in READ_ONLY:
            raise MonitorError(f"cannot write to {folder} ({error}): give a folder that may be "
                               "written") from error
        if getattr(error, "errno", None) in FULL or tells_of_full_disk(str(error)):
            raise MonitorError(
                f"the disk is full: {folder.name!r} was not written, and what was there before is "
                "untouched. Free some space and start again with the same settings: the training "
                "goes on from its last checkpoint") from error
        raise


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

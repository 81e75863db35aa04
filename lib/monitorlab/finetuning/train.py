"""Fine-tuning a causal language model into a monitor: one call from examples to a folder."""

from __future__ import annotations

import logging
import math
import os
import random
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from trl import SFTConfig

from monitorlab.finetuning.arguments import set_steps, trainer_arguments
from monitorlab.finetuning.batches import Collator, LeakError, check_leaks, plan
from monitorlab.finetuning.checks import check_examples, checked_provenance
from monitorlab.finetuning.examples import Example, verdict_tokens
from monitorlab.finetuning.failures import explained
from monitorlab.finetuning.partial import (
    ResumedBar,
    digest_examples,
    fingerprint,
    last_checkpoint,
    partial_folder,
    prepare,
    seconds_of,
)
from monitorlab.finetuning.recipe import Recipe
from monitorlab.finetuning.record import (
    RECORD,
    Trained,
    finished,
    history_of,
    mean_loss,
    record,
    trained,
)
from monitorlab.finetuning.trainable import save, trainable
from monitorlab.finetuning.trainer import VerdictTrainer
from monitorlab.monitors.causal_loading import Checkpoint
from monitorlab.monitors.monitor import MonitorError
from monitorlab.pipeline.files import digest_json, make_readable, pretty_json
from monitorlab.signals.scorers import no_progress_bars
from monitorlab.signals.training import Muon, few_collections, seeded, suitable_threads

__all__ = ["LeakError", "Trained", "finetune"]


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
        Steps between evaluations, and between checkpoints to resume from; 0 for none.
    title : str
        Caption of the progress bar; none is shown if empty.
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
    """
    folder = Path(folder)
    facts = checked_provenance(provenance)
    longest = check_examples(base, [*examples, *held_out], recipe)
    with explained(recipe, longest, folder), _contained(recipe.seed, base):
        arguments = _arguments(recipe, folder, base, save_steps)
        processes = int(arguments.world_size)
        digest = digest_examples(examples)
        inputs = fingerprint(recipe, base.identity, digest, processes)
        evaluation = digest_json([digest_examples(held_out), eval_steps])
        if (stored := finished(folder, inputs=inputs, evaluation=evaluation)) is not None:
            check_leaks(examples, forbidden_scenarios)
            return trained(folder, stored)
        partial = partial_folder(folder)
        if arguments.process_index == 0:
            prepare(partial, inputs)
        arguments.distributed_state.wait_for_everyone()
        collator = Collator(examples, base.tokenizer.pad_token_id, forbidden_scenarios)
        trainer = _trainer(base, recipe, arguments, collator, held_out, eval_steps, title)
        start = last_checkpoint(partial, processes)
        trainer.seconds_before = seconds_of(start)
        with few_collections():
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
) -> VerdictTrainer:
    """Put model, batches and callbacks together."""
    examples = collator.examples
    batches = plan(examples, recipe, int(arguments.world_size))
    set_steps(arguments, recipe, len(batches), eval_steps)
    asked = any(example["verdict_at"] >= 0 for example in [*examples, *held_out])
    shown = title and arguments.process_index == 0
    model = trainable(base, recipe)
    return VerdictTrainer(
        model, arguments, collator, batches, base.tokenizer,
        verdict_tokens(base.tokenizer) if asked else (0, 0),
        pair_weight=recipe.pair_weight, held_out=held_out,
        callbacks=[_Schedule(eval_steps if held_out else 0, bool(held_out)),
                   *([ResumedBar(title, arguments.max_steps)] if shown else [])],
        optimizers=(Muon(model.to(arguments.device), recipe.learning_rate)
                    if recipe.optimizer == "muon" else None, None),
    )


def _arguments(recipe: Recipe, folder: Path, base: Checkpoint, save_steps: int) -> SFTConfig:
    """Arguments of the trainer; steps are set when the batches are known."""
    cpu = base.model.device.type == "cpu"
    if recipe.dtype == "bfloat16" and not cpu and not torch.cuda.is_bf16_supported():
        raise MonitorError('the device does not compute in bfloat16: give dtype="float32"')
    return trainer_arguments(
        SFTConfig, recipe, folder, save_steps, use_cpu=cpu,
        gradient_checkpointing=recipe.gradient_checkpointing,
        eval_strategy="no",  # `_Schedule` says when
        dataset_kwargs={"skip_prepare_dataset": True},
        router_aux_loss_coef=0.0,  # the loss is that of the labels alone
        max_length=None,
    )


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


def _write(
    model: Any, base: Checkpoint, partial: Path, folder: Path, facts: Mapping[str, Any]
) -> None:
    """Write the result inside the partial folder, then move it to its place."""
    result = partial / "result"
    shutil.rmtree(result, ignore_errors=True)
    result.mkdir()
    save(model, base, result)
    (result / RECORD).write_text(pretty_json(dict(facts)), encoding="utf-8")
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

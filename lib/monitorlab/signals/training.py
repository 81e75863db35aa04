"""Training the miniatures with `transformers.Trainer`: one fit for generator and verifier.

Two choices make a small transformer learn in seconds what it otherwise learns in many minutes:
initial weights of the size that suits a narrow model, and the Muon optimizer for its matrices
(`monitorlab.signals.muon`).
"""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

from monitorlab.pipeline.profiles import ModelSize, Training
from monitorlab.progress import progress
from monitorlab.signals.muon import Muon
from monitorlab.signals.scorers import pad

IGNORED = -100  # label that the loss skips
MAX_POSITIONS = 512
NARROW = 128  # up to this width, one thread is the fastest

Row = dict[str, list[int]]  # "input_ids" and "labels" of one training example, equally long


def llama_config(size: ModelSize, tokenizer: Any, **more: Any) -> LlamaConfig:
    """Configuration of a small Llama with the tokenizer's vocabulary."""
    more.setdefault("max_position_embeddings", MAX_POSITIONS)
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=2 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        tie_word_embeddings=True,
        initializer_range=size.hidden**-0.5,  # the usual 0.02 is for wide models, and stalls here
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block and leave its random state outside as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def suitable_threads(model: PreTrainedModel) -> Iterator[None]:
    """Compute on one thread inside the block if the model is narrow.

    A second thread then gains a tenth at best, on an idle machine; beside another busy process two
    threads wait for each other and are ten times slower. One thread also adds up in the same order
    on machines of every size.
    """
    threads = torch.get_num_threads()
    if model.config.hidden_size <= NARROW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def few_collections() -> Iterator[None]:
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


class StepBar(TrainerCallback):
    """Moves the project's own progress bar, which leaves stderr empty in a notebook.

    Parameters
    ----------
    title : str
        Caption.
    total : int
        Optimizer steps of the whole training.
    """

    def __init__(self, title: str, total: int) -> None:
        self.bar = iter(progress(range(total), title))
        next(self.bar)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Move on by one step."""
        next(self.bar, None)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Close the bar where it stands, if training stopped early."""
        self.bar.close()


class _Watch(TrainerCallback):
    """Asks after every step whether training may end."""

    def __init__(self, enough: Callable[[int], bool]) -> None:
        self.enough = enough

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Stop if the answer is yes."""
        control.should_training_stop = self.enough(state.global_step)


def fit(
    model: PreTrainedModel,
    rows: Sequence[Row],
    pad_id: int,
    settings: Training,
    seed: int,
    title: str = "",
    enough: Callable[[int], bool] | None = None,
) -> None:
    """Train `model` in place, in float32.

    Parameters
    ----------
    model : PreTrainedModel
        Takes `input_ids` and `labels` and returns a loss.
    rows : sequence of dict
        `input_ids` and `labels` (`IGNORED` where nothing is asked), not yet padded. Attention
        needs no mask: the padding is on the right, where a causal model does not look.
    pad_id : int
        Token that fills up.
    settings : Training
        Optimizer steps, mean tokens per step, peak rate (warm-up 5 %, then cosine to zero).
    seed : int
        Order of the examples.
    title : str
        Caption of the progress bar; none is shown if empty.
    enough : callable, optional
        Given the number of finished steps after each one; training ends once it returns True.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    batch = min(len(rows), max(1, round(settings.batch_tokens / float(np.mean(lengths)))))

    def collate(batch_rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        ids = pad([row["input_ids"] for row in batch_rows], pad_id)
        return {"input_ids": ids, "labels": pad([row["labels"] for row in batch_rows], IGNORED)}

    optimizer = Muon(model, settings.learning_rate)
    warm_up = max(1, settings.steps // 20)
    schedule = get_cosine_schedule_with_warmup(optimizer, warm_up, settings.steps)
    with tempfile.TemporaryDirectory() as scratch, seeded(seed), suitable_threads(model):
        trainer = Trainer(
            model,
            trainer_arguments(
                settings.steps, batch, seed, scratch, train_sampling_strategy="sequential"
            ),
            data_collator=collate,
            train_dataset=[rows[i] for i in batch_order(lengths, batch, settings.steps, seed)],
            optimizers=(optimizer, schedule),
            callbacks=[
                *([StepBar(title, settings.steps)] if title else []),
                *([_Watch(enough)] if enough else []),
            ],
        )
        trainer.remove_callback(PrinterCallback)
        with few_collections():
            trainer.train()
    model.eval()


def batch_order(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[int]:
    """Order of examples for `steps` batches of `batch`: alike in length within, random among them.

    The Trainer's own grouping by length goes from long to short every fifty batches, which makes
    a short training unstable.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < steps * batch:
        shuffled = rng.permutation(len(lengths))[: len(lengths) // batch * batch]
        ranked = shuffled[np.argsort([lengths[i] for i in shuffled], kind="stable")]
        batches = rng.permutation(ranked.reshape(-1, batch))
        order.extend(batches.ravel().tolist())
    return order[: steps * batch]


def trainer_arguments(
    steps: int, batch: int, seed: int, folder: str, **more: Any
) -> TrainingArguments:
    """Return arguments for a silent training that saves nothing by itself."""
    return TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=batch,
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        **more,
    )

"""Batches and losses of the trainer, against the library's own and against computation by hand."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning_cases import make_base, make_examples, recipe
from torch.nn.functional import softplus
from transformers import TrainerCallback
from trl import SFTConfig

from monitorlab.finetuning.recipe import Example, LeakError, Recipe, verdict_tokens
from monitorlab.finetuning.train import (
    _Collator,
    _matches,
    _trainable,
    _VerdictTrainer,
    pair_losses,
    reply_loss,
)
from monitorlab.models.loading import Checkpoint
from monitorlab.monitors.monitor import MonitorError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # names that the libraries change


@pytest.fixture(scope="module")
def base() -> Checkpoint:
    return make_base()


@pytest.fixture(scope="module")
def examples(base: Checkpoint) -> list[Example]:
    return make_examples(base)


class Gradients(TrainerCallback):
    """Keeps the gradients of the first optimizer step."""

    def __init__(self) -> None:
        self.seen: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.seen = self.seen or {
            name: weight.grad.clone() for name, weight in more["model"].named_parameters()
            if weight.grad is not None
        }


def make_trainer(
    base: Checkpoint, examples: list[Example], settings: Recipe, folder: Path,
    batches: list[list[int]] | None = None, **more: Any,
) -> _VerdictTrainer:
    batches = batches or settings.plan(examples)
    arguments = SFTConfig(
        str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        save_strategy="no", logging_steps=1, max_steps=settings.steps_of(len(batches)),
        per_device_train_batch_size=settings.batch, disable_tqdm=True, max_grad_norm=1e9,
        gradient_accumulation_steps=settings.accumulation, remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True}, dataloader_pin_memory=False,
        learning_rate=settings.learning_rate,
    )
    collator = _Collator(examples, base.tokenizer.pad_token_id)
    return _VerdictTrainer(
        _trainable(base, settings), arguments, collator, batches, base.tokenizer,
        verdict_tokens(base.tokenizer), pair_weight=settings.pair_weight, **more,
    )


def library_loss(model: Any, base: Checkpoint, chosen: list[Example]) -> float:
    """Sum of losses and labels as transformers computes them, one example at a time."""
    total, count = 0.0, 0
    for example in chosen:
        labels = torch.tensor([example["labels"]])
        asked = int((labels[:, 1:] != -100).sum())
        loss = model(input_ids=torch.tensor([example["input_ids"]]), labels=labels).loss
        total, count = total + loss.item() * asked, count + asked
    return total / count


# ------------------------------------------------------------------------------ losses


@pytest.mark.parametrize("rank", [4, 0])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_loss_of_a_step_is_that_of_the_library(
    base: Checkpoint, examples: list[Example], tmp_path: Path, rank: int, accumulation: int
) -> None:
    settings = recipe(lora_rank=rank, batch=16 // accumulation, accumulation=accumulation,
                      max_steps=1)
    size = settings.batch
    batches = [list(range(start, start + size)) for start in range(0, 16, size)]
    gradients = Gradients()
    trainer = make_trainer(base, examples, settings, tmp_path, batches, callbacks=[gradients])
    model = _trainable(base, settings)
    if rank:  # the first weights of an adapter are drawn
        model.load_state_dict(trainer.model.state_dict())
    expected = library_loss(base.model, base, examples[:16])
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-5)

    width = max(len(example["input_ids"]) for example in examples[:16])
    ids = torch.zeros(16, width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, example in enumerate(examples[:16]):
        length = len(example["input_ids"])
        ids[i, :length], mask[i, :length] = torch.tensor(example["input_ids"]), 1
        labels[i, :length] = torch.tensor(example["labels"])
    model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert wanted.keys() == gradients.seen.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients.seen[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_pairwise_loss_is_the_one_computed_by_hand(
    base: Checkpoint, examples: list[Example], tmp_path: Path, accumulation: int
) -> None:
    settings = recipe(batch=8 // accumulation, accumulation=accumulation, pair_weight=0.7)
    batches = [list(range(start, start + settings.batch)) for start in range(0, 8, settings.batch)]
    trainer = make_trainer(base, examples, settings, tmp_path, batches)
    yes, no = verdict_tokens(base.tokenizer)
    margin = []
    for example in examples[:8]:
        logits = base.model(torch.tensor([example["input_ids"]])).logits[0]
        margin.append(logits[example["verdict_at"], yes] - logits[example["verdict_at"], no])
    by_hand = 0.0
    for benign, bad in ((0, 1), (2, 3), (4, 5), (6, 7)):
        assert examples[bad]["label"] == 1 and examples[bad]["pair"] == examples[benign]["pair"]
        by_hand += softplus(-(margin[bad] - margin[benign])).item() / 4
    expected = library_loss(base.model, base, examples[:8]) + 0.7 * by_hand
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-5)


def test_examples_without_a_partner_take_no_part_in_the_pairwise_loss() -> None:
    label, pair = torch.tensor([1, 0, 0, 1, -1]), torch.tensor([5, 5, 6, -1, -1])
    assert _matches(label, pair).nonzero().tolist() == [[0, 1]]
    found = pair_losses(torch.tensor([2.0, 0.5, 9.0, -9.0, 3.0]), label, pair)
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-1.5))])


def test_the_loss_of_a_reply_is_the_negative_log_likelihood_of_its_tokens() -> None:
    likelihoods = torch.tensor([0.9, 0.5, 0.8])
    logits = torch.stack([1 - likelihoods, likelihoods], dim=1).log() + 3.0
    found = reply_loss(logits, torch.tensor([1, 1, 1]))
    assert found.item() == pytest.approx(-math.log(0.9 * 0.5 * 0.8), abs=1e-6)


def test_training_on_pairs_pulls_them_apart(
    base: Checkpoint, examples: list[Example], tmp_path: Path
) -> None:
    settings = recipe(lora_rank=0, max_steps=40, pair_weight=1.0)
    trainer = make_trainer(base, examples, settings, tmp_path, held_out=examples)
    before = trainer.evaluate()["eval_accuracy"]
    trainer.train()
    after = trainer.evaluate()["eval_accuracy"]
    assert before < 0.8 and after == 1.0


def test_evaluation_is_the_librarys_loss_and_the_share_of_right_verdicts(
    base: Checkpoint, examples: list[Example], tmp_path: Path
) -> None:
    trainer = make_trainer(base, examples, recipe(), tmp_path, held_out=examples[:7])
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(library_loss(base.model, base, examples[:7]),
                                               abs=1e-5)
    yes, no = verdict_tokens(base.tokenizer)
    right = []
    for example in examples[:7]:
        logits = base.model(torch.tensor([example["input_ids"]])).logits[0, example["verdict_at"]]
        right.append(bool(logits[yes] > logits[no]) == bool(example["label"]))
    assert found["eval_accuracy"] == pytest.approx(np.mean(right))


# ------------------------------------------------------------------------------ batches


def test_every_example_once_per_epoch_and_the_longest_first(examples: list[Example]) -> None:
    batches = recipe(epochs=2.0, batch=5).plan(examples)
    once, twice = batches[:5], batches[5:]
    assert sorted(i for batch in once for i in batch) == list(range(24))
    assert sorted(i for batch in twice for i in batch) == list(range(24))
    assert once != twice
    longest = max(len(example["input_ids"]) for example in examples)
    assert any(len(examples[i]["input_ids"]) == longest for i in batches[0])


def test_a_batch_holds_examples_of_similar_length(examples: list[Example]) -> None:
    batches = recipe(batch=4).plan(examples)
    lengths = [[len(examples[i]["input_ids"]) for i in batch] for batch in batches]
    padding = sum(max(row) * len(row) - sum(row) for row in lengths)
    assert padding < 0.05 * sum(map(sum, lengths))


@pytest.mark.parametrize("batch", [2, 4, 5, 7])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_batches_hold_whole_pairs(examples: list[Example], batch: int, processes: int) -> None:
    mixed = [*examples, {**examples[0], "pair": -1}, {**examples[1], "pair": -1}]
    batches = recipe(batch=batch, pair_weight=1.0).plan(mixed, processes)
    assert len(batches) % processes == 0
    assert {i for part in batches for i in part} == set(range(26))
    twice = sum(map(len, batches)) - 26  # where no batch can be split, one comes twice
    assert 0 <= twice <= (processes - 1) * 2
    for part in batches:
        assert 1 <= len(part) <= batch
        numbers = Counter(mixed[i]["pair"] for i in part)
        assert all(count == 2 for pair, count in numbers.items() if pair >= 0)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_every_process_gets_as_many_batches(examples: list[Example], processes: int) -> None:
    batches = recipe(batch=5).plan(examples, processes)
    assert len(batches) % processes == 0
    assert sorted(i for part in batches for i in part) == list(range(24))
    steps = recipe(batch=5, accumulation=2, max_steps=7).plan(examples, processes)
    assert len(steps) == 7 * 2 * processes
    assert recipe(accumulation=2).steps_of(len(steps), processes) == 7


def test_more_processes_than_examples_see_some_twice(examples: list[Example]) -> None:
    batches = recipe().plan(examples[:2], processes=3)
    assert len(batches) == 3 and {i for part in batches for i in part} == {0, 1}
    assert all(batches)


def test_the_order_follows_from_the_seed(examples: list[Example]) -> None:
    assert recipe().plan(examples) == recipe().plan(examples)
    assert recipe().plan(examples) != recipe(seed=1).plan(examples)


def test_a_pair_larger_than_a_batch_is_refused(examples: list[Example]) -> None:
    many = [{**example, "pair": 1} for example in examples[:6]]
    with pytest.raises(MonitorError, match="6 examples belong to one pair, more than batch 4"):
        recipe(pair_weight=1.0).plan(many)


def test_the_collator_pads_on_the_right_and_finds_leaks(examples: list[Example]) -> None:
    collator = _Collator(examples, 0, {"scenario 3"})
    batch = collator([{"row": 0}, {"row": 6}])
    lengths = [len(examples[i]["input_ids"]) for i in (0, 6)]
    assert batch["input_ids"].shape == (2, max(lengths)) and lengths[0] < lengths[1]
    assert (batch["input_ids"][0, lengths[0]:] == 0).all()
    assert (batch["labels"][0, lengths[0]:] == -100).all()
    leak = next(i for i, example in enumerate(examples) if example["scenario"] == "scenario 3")
    with pytest.raises(LeakError, match=r"scenario 'scenario 3'.*leave that scenario out"):
        collator([{"row": 0}, {"row": leak}])

"""Batches of a training: which examples share one, in which order, and as tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch

from monitorlab.finetuning.examples import Example
from monitorlab.finetuning.recipe import Recipe
from monitorlab.models.batching import pad
from monitorlab.models.tiny import IGNORED
from monitorlab.monitors.monitor import MonitorError

Batch = dict[str, torch.Tensor]


class LeakError(ValueError):
    """A batch holds an example of a scenario that the training must never see."""


def plan(examples: Sequence[Example], recipe: Recipe, processes: int = 1) -> list[list[int]]:
    """Return the batches of a whole training, all epochs one after the other.

    Examples of similar length share a batch, and so do both answers to one request if the recipe
    has a pairwise loss. The order of the batches is random, but the longest come first, so that
    what does not fit into memory shows at once. Everything follows from the recipe's seed: a
    resumed training sees the same batches.

    Parameters
    ----------
    examples : sequence of Example
    recipe : Recipe
    processes : int
        They take turns: process r of n gets the batches r, r + n, ... A group of n batches has
        examples of similar length, so that no process waits long.

    Returns
    -------
    list of list of int
        Positions in `examples`; as many batches as the processes need for whole optimizer steps
        in `max_steps`, or for the epochs (then a multiple of the number of processes).
    """
    groups = _groups(examples, recipe)
    lengths = [max(len(examples[i]["input_ids"]) for i in group) for group in groups]
    per_step = recipe.accumulation * processes
    batches: list[list[int]] = []
    rng = np.random.default_rng(recipe.seed)
    wanted = recipe.max_steps * per_step
    while not wanted or len(batches) < wanted:
        batches += _epoch(groups, lengths, recipe.batch, processes, rng, first=not batches)
        if not wanted:  # known once the first epoch is there
            wanted = max(1, math.ceil(recipe.epochs * len(batches) / processes)) * processes
    return batches[:wanted]


def steps_of(batches: int, recipe: Recipe, processes: int = 1) -> int:
    """Return the number of optimizer steps in a plan; the last may have fewer batches."""
    return math.ceil(batches / (recipe.accumulation * processes))


def _groups(examples: Sequence[Example], recipe: Recipe) -> list[list[int]]:
    """Positions that must share a batch."""
    if not recipe.pair_weight:
        return [[i] for i in range(len(examples))]
    groups: dict[int, list[int]] = {}
    for i, example in enumerate(examples):
        pair = example["pair"]
        groups.setdefault(pair if pair >= 0 else -1 - i, []).append(i)
    for group in groups.values():
        if len(group) > recipe.batch:
            raise MonitorError(f"{len(group)} examples belong to one pair, more than batch "
                               f"{recipe.batch}: raise batch, or give pair_weight 0")
    return list(groups.values())


def _epoch(
    groups: Sequence[list[int]], lengths: Sequence[int], size: int, processes: int,
    rng: np.random.Generator, first: bool,
) -> list[list[int]]:
    """One pass: shuffled, sorted by length, cut into batches, these shuffled."""
    shuffled = rng.permutation(len(groups))
    ranked = shuffled[np.argsort([-lengths[g] for g in shuffled], kind="stable")]
    cut: list[list[int]] = [[]]  # numbers of groups
    filled = 0
    for g in ranked.tolist():
        if filled + len(groups[g]) > size:
            cut.append([])
            filled = 0
        cut[-1].append(g)
        filled += len(groups[g])
    while len(cut) % processes:  # every process needs one: split, or repeat what cannot be
        most = max(range(len(cut)), key=lambda k: len(cut[k]))
        half = len(cut[most]) // 2
        cut[most : most + 1] = [cut[most][:half] or cut[most], cut[most][half:]]
    batches = [[i for g in part for i in groups[g]] for part in cut]
    together = [batches[k : k + processes] for k in range(0, len(batches), processes)]
    kept = 1 if first else 0
    order = [*range(kept), *(kept + rng.permutation(len(together) - kept))]
    return [batch for k in order for batch in together[k]]


class Collator:
    """Turns numbers of examples into one padded batch, and looks at where each comes from.

    Padding is on the right, where a causal model does not look, so there is no attention mask.

    Parameters
    ----------
    examples : sequence of Example
    pad_id : int
    forbidden : collection of str
        Scenarios that must not be trained on.
    """

    def __init__(
        self, examples: Sequence[Example], pad_id: int, forbidden: Collection[str] = ()
    ) -> None:
        self.examples, self.pad_id, self.forbidden = examples, pad_id, frozenset(forbidden)

    def __call__(self, rows: Sequence[dict[str, int]]) -> Batch:
        """Return tensors (n, width) input_ids and labels, (n,) label, pair and verdict_at.

        Raises
        ------
        LeakError
            One of the examples is of a forbidden scenario.
        """
        chosen = [self.examples[row["row"]] for row in rows]
        check_leaks(chosen, self.forbidden)
        batch = {
            "input_ids": pad([example["input_ids"] for example in chosen], self.pad_id),
            "labels": pad([example["labels"] for example in chosen], IGNORED),
        }
        for name in ("label", "pair", "verdict_at"):
            batch[name] = torch.tensor([example[name] for example in chosen])
        return batch


def check_leaks(examples: Sequence[Example], forbidden: Collection[str]) -> None:
    """Raise `LeakError` if an example is of a forbidden scenario."""
    for example in examples:
        if example["scenario"] and example["scenario"] in forbidden:
            raise LeakError(
                f"a training batch holds an example of scenario {example['scenario']!r}, which is "
                "kept for testing: leave that scenario out of the training samples"
            )

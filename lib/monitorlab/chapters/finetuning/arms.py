"""The arms of notebook 05: what each one learns from, at the same budget.

The first six are the paper's: one component of the corpus, or all of them. One more leaves the
recipe at one point, the loss. Every arm sees the same number of samples, in whole pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from monitorlab.benchmark.writing.corpus import COMPONENTS
from monitorlab.chapters.finetuning.published import ALL_COMPONENTS, ARM_TITLES, ARMS, SEEN
from monitorlab.evaluation.shift import BASE
from monitorlab.finetuning.examples import Example, verdict_examples
from monitorlab.finetuning.recipe import PAPER, Recipe
from monitorlab.monitors.combined import CHECKS_FIRST
from monitorlab.monitors.monitor import MonitorError
from monitorlab.monitors.prompts import Prompt
from monitorlab.pipeline.profiles import Finetuning

EVERYTHING = tuple(component.name for component in COMPONENTS)
PAIR_WEIGHT = 1.0


@dataclass(frozen=True)
class Arm:
    """One training.

    Attributes
    ----------
    name : str
        How tables and figures call it.
    about : str
        What it learns from, in a few words.
    components : tuple of str
        Of the corpus.
    pair_weight : float
        Of the pairwise loss.
    """

    name: str
    about: str
    components: tuple[str, ...] = EVERYTHING
    pair_weight: float = 0.0


PAPER_ARMS: Final = tuple(
    Arm(name, ARM_TITLES[name], EVERYTHING if name == ALL_COMPONENTS else (name,))
    for name in ARMS if name != BASE
)
BEYOND: Final = (
    Arm("contrastive pairs", "both answers in one batch, pairwise loss", pair_weight=PAIR_WEIGHT),
)
REPEATED: Final = (  # arms whose training is repeated; the first has a learning curve too
    next(arm for arm in PAPER_ARMS if arm.name == ALL_COMPONENTS), BEYOND[0],
)
SEEN_BY: Final[Mapping[str, frozenset[str]]] = {
    **SEEN, **dict.fromkeys([*(arm.name for arm in BEYOND), CHECKS_FIRST], SEEN[ALL_COMPONENTS]),
}


def recipe_of(arm: Arm, settings: Finetuning, seed: int, share: float = 1.0) -> Recipe:
    """The published recipe with what the profile changes, and the budget as optimizer steps.

    Parameters
    ----------
    arm : Arm
    settings : Finetuning
        Sizes of the profile.
    seed : int
        Of this training.
    share : float
        Of the budget, in (0, 1].
    """
    changes: Mapping[str, Any] = settings.recipe
    recipe = replace(PAPER, **changes, seed=seed, pair_weight=arm.pair_weight)
    if not settings.samples:
        return recipe
    steps = math.ceil(share * settings.samples / (recipe.batch * recipe.accumulation))
    return replace(recipe, max_steps=steps)


def arm_rows(
    arm: Arm, corpus: pd.DataFrame, size: int, rng: np.random.Generator, share: float = 1.0
) -> pd.DataFrame:
    """Draw the corpus rows of an arm: whole pairs of its components.

    Parameters
    ----------
    arm : Arm
    corpus : DataFrame
        Schema ``corpus``.
    size : int
        Samples wanted at share 1; 0 is all. Fewer if the components have fewer.
    rng : Generator
        Draws pairs and scenarios. A smaller share takes a part of the same draw.
    share : float
        Of the samples, in (0, 1].

    Raises
    ------
    MonitorError
        If the corpus has no row of these components.
    """
    rows = corpus[corpus["component"].isin(arm.components)]
    if rows.empty:
        raise MonitorError(f"arm {arm.name!r} needs {', '.join(arm.components)}, and the corpus "
                           f"has {', '.join(sorted(corpus['component'].unique()))}")
    pairs = rng.permutation(np.unique(rows["pair_id"].to_numpy(dtype=object)))
    wanted = len(pairs) if not size else min(len(pairs), size // 2)
    kept = pairs[: max(1, round(share * wanted))]
    return rows[rows["pair_id"].isin(set(kept))].reset_index(drop=True)


def arm_examples(
    arm: Arm,
    corpus: pd.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    settings: Finetuning,
    rng: np.random.Generator,
    *,
    share: float = 1.0,
) -> list[Example]:
    """Everything that an arm learns from, as training examples.

    Parameters
    ----------
    arm, corpus, rng, share
        As in `arm_rows`.
    tokenizer : PreTrainedTokenizerBase
        Of the base.
    prompt : Prompt
        That the monitor will be asked with.
    settings : Finetuning
        Sizes of the profile.

    Raises
    ------
    MonitorError
        As :func:`monitorlab.finetuning.examples.verdict_examples`.
    """
    recipe = recipe_of(arm, settings, 0)
    rows = arm_rows(arm, corpus, settings.samples, rng, share)
    return verdict_examples(tokenizer, prompt, rows, max_tokens=recipe.max_tokens,
                            labelled=recipe.labelled)


def budget(examples: Sequence[Example]) -> dict[str, int]:
    """Count samples by what they teach: misbehavior or benign."""
    labels = [example["label"] for example in examples]
    return {"misbehavior": labels.count(1), "benign": labels.count(0)}

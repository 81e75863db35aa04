"""The arms of notebook 05: what each one learns from, at the same budget.

The first six are the paper's: one component of the corpus, or all of them. Two more leave the
recipe at one point, the loss. Every arm sees the same number of samples, in whole pairs. Pairs that
are longer than the recipe allows are left out: a small machine then sees more of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from monitorlab.benchmark.audit.probes import word_probe
from monitorlab.benchmark.writing.corpus import COMPONENTS
from monitorlab.chapters.finetuning.published import ALL_COMPONENTS, ARM_TITLES, ARMS, SEEN
from monitorlab.evaluation.tradeoff import BASE
from monitorlab.finetuning.recipe import PAPER, Example, Recipe, verdict_examples
from monitorlab.monitors.checks.program import CHECKS_FIRST
from monitorlab.monitors.monitor import MonitorError
from monitorlab.monitors.prompts import Prompt
from monitorlab.pipeline.profiles import Finetuning
from monitorlab.statistics.roc import auroc

EVERYTHING = tuple(component.name for component in COMPONENTS)
CHECKS_ALONE = "checks alone"


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

    def recipe(self, settings: Finetuning, seed: int, share: float = 1.0) -> Recipe:
        """The published recipe with what the profile changes, and the budget as optimizer steps.

        Parameters
        ----------
        settings : Finetuning
            Sizes of the profile.
        seed : int
            Of this training.
        share : float
            Of the budget, above 0.
        """
        changes: Mapping[str, Any] = settings.recipe
        recipe = replace(PAPER, **changes, seed=seed, pair_weight=self.pair_weight)
        if not settings.samples:
            return recipe
        steps = math.ceil(share * settings.samples / (recipe.batch * recipe.accumulation))
        return replace(recipe, max_steps=steps)

    def _pairs(self, corpus: pd.DataFrame, rng: np.random.Generator) -> list[pd.DataFrame]:
        """Pairs of the components, each as its two rows, in random order."""
        rows = corpus[corpus["component"].isin(self.components)]
        if rows.empty:
            raise MonitorError(f"arm {self.name!r} needs {', '.join(self.components)}, and the "
                               f"corpus has {', '.join(sorted(corpus['component'].unique()))}")
        pairs = [pair for _, pair in rows.groupby("pair_id")]
        return [pairs[place] for place in rng.permutation(len(pairs))]

    def examples(
        self, corpus: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, prompt: Prompt,
        settings: Finetuning, rng: np.random.Generator, share: float = 1.0,
    ) -> list[Example]:
        """Everything that the arm learns from, as training examples, in whole pairs.

        Parameters
        ----------
        corpus : DataFrame
            Schema ``corpus``.
        tokenizer : PreTrainedTokenizerBase
            Of the base.
        prompt : Prompt
            That the monitor will be asked with.
        settings : Finetuning
            Sizes of the profile: at most `samples` (0 is all), none longer than the recipe's
            `max_tokens`.
        rng : Generator
            Draws the order; the same state gives arms of the same components the same one.
        share : float
            Of the samples, above 0; a smaller one takes a part of the same draw.

        Raises
        ------
        MonitorError
            If the corpus has no row of these components, every pair is too long, or as
            :func:`monitorlab.finetuning.recipe.verdict_examples`.
        """
        recipe = self.recipe(settings, 0)
        drawn = self._pairs(corpus, rng)
        wanted = max(1, round(share * (settings.samples // 2 or len(drawn))))
        found: list[Example] = []
        while drawn and len(found) < 2 * wanted:
            part, drawn = drawn[: 2 * wanted], drawn[2 * wanted :]
            made = verdict_examples(tokenizer, prompt, pd.concat(part), max_tokens=10**8,
                                    labelled=recipe.labelled)
            for first, second in zip(made[::2], made[1::2], strict=True):
                if max(len(first["input_ids"]), len(second["input_ids"])) <= recipe.max_tokens:
                    found += [first, second]
        if not found:
            raise MonitorError(f"no pair of arm {self.name!r} has at most {recipe.max_tokens} "
                               "tokens an answer: raise max_tokens")
        return found[: 2 * wanted]

    def words_alone(self, corpus: pd.DataFrame, asked: pd.DataFrame) -> float:
        """AUROC of the words of the response, learned from all that the corpus has for the arm.

        Parameters
        ----------
        corpus : DataFrame
            Schema ``corpus``.
        asked : DataFrame
            Schema ``samples``; those of the arm's own cells are judged.

        Returns
        -------
        float
            Mean over these cells, in [0, 1].
        """
        lessons = corpus[corpus["component"].isin(self.components)]
        probe = word_probe().fit(lessons["response"], lessons["label"])
        own = asked[asked["cell"].isin(SEEN_BY[self.name])]
        return float(np.mean([auroc(probe.decision_function(part["response"]), part["label"])
                              for _, part in own.groupby("cell")]))


PAPER_ARMS: Final = tuple(
    Arm(name, ARM_TITLES[name], EVERYTHING if name == ALL_COMPONENTS else (name,))
    for name in ARMS if name != BASE
)
BEYOND: Final = (
    Arm("contrastive pairs", "both answers in one batch, pairwise loss", pair_weight=1.0),
    Arm("spv_qa pairs", f"{ARM_TITLES['spv_qa']}, pairwise loss", ("spv_qa",), 1.0),
)
EVERY_ARM: Final[Mapping[str, Arm]] = {arm.name: arm for arm in (*PAPER_ARMS, *BEYOND)}
SEEN_BY: Final[Mapping[str, frozenset[str]]] = {
    **SEEN, **dict.fromkeys([CHECKS_FIRST, CHECKS_ALONE], SEEN[ALL_COMPONENTS]),
    **{arm.name: frozenset().union(*(SEEN[one] for one in arm.components)) for arm in BEYOND},
}

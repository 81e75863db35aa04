"""The arms of notebook 05: what each one learns from, at the same budget.

The first six are the paper's: one component of the corpus, or all of them. The others leave the
recipe at one point each. Every arm sees the same number of samples, in whole pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from monitorlab.benchmark.corpus import COMPONENTS
from monitorlab.finetuning.checks_first import CHECKS_FIRST
from monitorlab.finetuning.examples import Example, verdict_examples
from monitorlab.finetuning.gamed_programs import gamed_pairs
from monitorlab.finetuning.hard_negatives import hard_negatives
from monitorlab.finetuning.published import ALL_COMPONENTS, ARM_TITLES, ARMS, BASE, SEEN
from monitorlab.finetuning.reading import reading_examples, report_examples
from monitorlab.finetuning.recipe import PAPER, Recipe
from monitorlab.monitors.checks import ProgramChecks
from monitorlab.monitors.informed import FOUND, SILENT, informed_prompt, report_of
from monitorlab.monitors.monitor import Monitor, MonitorError, samples_of
from monitorlab.monitors.prompts import Prompt
from monitorlab.pipeline.profiles import Finetuning

EVERYTHING = tuple(component.name for component in COMPONENTS)
MIXED = 0.25  # share of samples that an arm takes from elsewhere
MENTIONED = 0.3  # share of pairs in which the benign answer mentions a cue, and as many the other
SCENARIOS = 0.125  # share of the scenarios of the arm that sees few, if they suffice
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
    source : str
        What is done to the samples: "as they are", "reading", "mentioned cues", "few scenarios",
        "gamed programs" or "checks".
    pair_weight : float
        Of the pairwise loss.
    """

    name: str
    about: str
    components: tuple[str, ...] = EVERYTHING
    source: str = "as they are"
    pair_weight: float = 0.0

    @property
    def informed(self) -> bool:
        """Whether its prompts say what the program checks found."""
        return self.source == "checks"


PAPER_ARMS: Final = tuple(
    Arm(name, ARM_TITLES[name], EVERYTHING if name == ALL_COMPONENTS else (name,))
    for name in ARMS if name != BASE
)
BEYOND: Final = (
    Arm("contrastive pairs", "both answers in one batch, pairwise loss", pair_weight=PAIR_WEIGHT),
    Arm("instructions mixed in", "a quarter are instructions without a verdict", source="reading"),
    Arm("mentioned cues", "benign answers mention cues", source="mentioned cues"),
    Arm("few scenarios", "few of the scenarios, as many samples", source="few scenarios"),
    Arm("distilled checks", "a quarter are rule-made programs, labelled by the checks",
        source="gamed programs"),
    Arm("informed by checks", "the prompt says what the checks found", source="checks"),
    Arm("informed pairs", "the same, with the pairwise loss", source="checks",
        pair_weight=PAIR_WEIGHT),
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
    if arm.source == "few scenarios":
        rows = _few_scenarios(rows, size, rng)
    pairs = rng.permutation(np.unique(rows["pair_id"].to_numpy(dtype=object)))
    wanted = len(pairs) if not size else min(len(pairs), size // 2)
    kept = pairs[: max(1, round(share * wanted))]
    return rows[rows["pair_id"].isin(set(kept))].reset_index(drop=True)


def _few_scenarios(rows: pd.DataFrame, size: int, rng: np.random.Generator) -> pd.DataFrame:
    """Rows of a share of each component's scenarios; of more where they hold too few samples."""
    drawn = [rng.permutation(np.unique(names.to_numpy(dtype=object)))
             for _, names in rows.groupby("component")["scenario_id"]]
    for share in np.arange(SCENARIOS, 1, SCENARIOS / 4):
        some = [name for names in drawn for name in names[: max(1, round(share * len(names)))]]
        kept = rows[rows["scenario_id"].isin(set(some))]
        if len(kept) >= size:
            return kept
    return rows


def arm_examples(
    arm: Arm,
    corpus: pd.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    settings: Finetuning,
    rng: np.random.Generator,
    *,
    share: float = 1.0,
    checks: Monitor | None = None,
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
    checks : Monitor, optional
        For an arm that is told what they found; the program checks by default.

    Raises
    ------
    MonitorError
        As :func:`monitorlab.finetuning.examples.verdict_examples`; or for an unknown source.
    """
    recipe = recipe_of(arm, settings, 0)
    how: dict[str, Any] = {"max_tokens": recipe.max_tokens, "labelled": recipe.labelled}
    rows = arm_rows(arm, corpus, settings.samples, rng, share)
    if arm.source in ("as they are", "few scenarios"):
        return verdict_examples(tokenizer, prompt, rows, **how)
    if arm.source == "mentioned cues":
        rows = hard_negatives(rows, MENTIONED, rng, lip_service=MENTIONED)
        return verdict_examples(tokenizer, prompt, rows, **how)
    if arm.source == "checks":
        return _informed(rows, tokenizer, prompt, how, checks or ProgramChecks(), rng)
    own = _some_pairs(rows, 1 - MIXED, rng)
    wanted = len(rows) - len(own)
    examples = verdict_examples(tokenizer, prompt, own, **how)
    if arm.source == "gamed programs":
        gamed = gamed_pairs(corpus, max(1, wanted // 2), rng)
        return examples + verdict_examples(tokenizer, prompt, gamed, **how)
    if arm.source == "reading":
        some = corpus.iloc[rng.permutation(len(corpus))[: 2 * wanted]]
        practice = reading_examples(tokenizer, prompt, some, rng)
        practice += report_examples(tokenizer, prompt, some, rng)
        chosen = rng.permutation(len(practice))[:wanted]
        return examples + [practice[i] for i in chosen]
    raise MonitorError(f"arm {arm.name!r} has source {arm.source!r}, which is not known")


def _some_pairs(rows: pd.DataFrame, share: float, rng: np.random.Generator) -> pd.DataFrame:
    """Draw a share of the pairs: rows are sorted by component, so the first ones would not do."""
    pairs = rng.permutation(np.unique(rows["pair_id"].to_numpy(dtype=object)))
    return rows[rows["pair_id"].isin(set(pairs[: max(1, round(share * len(pairs)))]))]


def _informed(
    rows: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, prompt: Prompt,
    how: Mapping[str, Any], checks: Monitor, rng: np.random.Generator,
) -> list[Example]:
    """Examples whose prompts hold the report of the checks, those with the same one together.

    Checks find something in few samples. Pairs in which they do are repeated until they make a
    share `MIXED` of the budget, in the place of others, or their sentence would not be learned.
    """
    samples = samples_of(rows)
    reports = np.full(len(rows), SILENT, dtype=object)
    for unit in checks.units(samples):
        found = checks.judge([samples[i] for i in unit], 0)
        reports[unit] = [report_of(one) for one in found]
    told = rows.assign(report=reports).iloc[_repeated(rows, reports == FOUND, rng)]
    return [
        example
        for report, part in told.groupby("report", sort=False)
        for example in verdict_examples(
            tokenizer, informed_prompt(prompt, str(report)), part, both_classes=False, **how
        )
    ]


def _repeated(
    rows: pd.DataFrame, found: np.ndarray, rng: np.random.Generator
) -> list[int]:
    """Positions of as many pairs as there are, those with a finding often enough."""
    places: dict[str, list[int]] = {}
    for place, pair in enumerate(rows["pair_id"]):
        places.setdefault(pair, []).append(place)
    marked = [pair for pair, members in places.items() if found[members].any()]
    others = [pair for pair in places if pair not in set(marked)]
    wanted = max(len(marked), round(MIXED * len(places))) if marked else 0
    often = [marked[i % len(marked)] for i in range(wanted)]
    kept = [others[i] for i in rng.permutation(len(others))[: len(places) - wanted]]
    return [place for pair in (*often, *kept) for place in places[pair]]


def budget(examples: Sequence[Example]) -> dict[str, int]:
    """Count samples by what they teach: misbehavior, benign, no verdict."""
    labels = [example["label"] for example in examples]
    return {"misbehavior": labels.count(1), "benign": labels.count(0),
            "without a verdict": labels.count(-1)}

"""What every arm learns from: the same budget, whole pairs, nothing of the test side."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from transformers import PreTrainedTokenizerFast

from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing.corpus import build_corpus
from monitorlab.chapters.finetuning.arms import (
    BEYOND,
    CHECKS_ALONE,
    EVERY_ARM,
    EVERYTHING,
    PAPER_ARMS,
    SEEN_BY,
    Arm,
)
from monitorlab.chapters.finetuning.published import ARMS
from monitorlab.finetuning.recipe import PAPER, Example, verdict_examples
from monitorlab.models.tiny import build_tokenizer
from monitorlab.monitors.checks.program import CHECKS_FIRST
from monitorlab.monitors.monitor import MonitorError
from monitorlab.monitors.prompts import load_prompt
from monitorlab.pipeline.profiles import PROFILES

BRIEF = load_prompt("brief")
SIZE = 16  # samples of the smallest component of the corpus below
SETTINGS = replace(PROFILES["tiny"].finetuning, samples=SIZE, recipe={"max_tokens": 100_000})


@pytest.fixture(scope="module")
def corpus(library: list[Scenario]) -> pd.DataFrame:
    return pd.concat(build_corpus(3, share=0.001, scenarios=library), ignore_index=True)


@pytest.fixture(scope="module")
def tokenizer(corpus: pd.DataFrame) -> PreTrainedTokenizerFast:
    return build_tokenizer(list(corpus["request"]), 800)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


named = EVERY_ARM.__getitem__


def table(scenarios: int, pairs: int, components: Sequence[str] = EVERYTHING) -> pd.DataFrame:
    """A corpus without texts: so many scenarios per component and pairs per scenario."""
    return pd.DataFrame([
        {"component": component, "scenario_id": f"{component} {scenario}", "label": label,
         "pair_id": f"{component} {scenario} {pair}",
         "sample_id": f"{component} {scenario} {pair} {label}"}
        for component in components for scenario in range(scenarios) for pair in range(pairs)
        for label in (0, 1)
    ])


# The pairs


@pytest.mark.parametrize("arm", EVERY_ARM.values(), ids=lambda arm: arm.name)
def test_every_arm_draws_whole_pairs_of_its_components(arm: Arm) -> None:
    rows = table(4, 3)
    pairs = arm._pairs(rows, rng())
    assert len(pairs) == 12 * len(arm.components)
    assert all(sorted(pair["label"]) == [0, 1] for pair in pairs)
    assert {name for pair in pairs for name in pair["component"]} == set(arm.components)


def test_arms_of_the_same_components_draw_the_same_order() -> None:
    drawn = [pd.concat(arm._pairs(table(16, 8), rng(1)))["sample_id"].tolist()
             for arm in (named("all"), *BEYOND) if arm.components == EVERYTHING]
    assert len(drawn) > 1
    assert all(names == drawn[0] for names in drawn)
    assert drawn[0] != pd.concat(
        named("all")._pairs(table(16, 8), rng(2)))["sample_id"].tolist()


def test_a_corpus_without_the_component_is_refused() -> None:
    with pytest.raises(MonitorError, match="arm 'spv_qa' needs spv_qa, and the corpus has syco_qa"):
        named("spv_qa")._pairs(table(2, 2, ["syco_qa"]), rng())


# The examples


@pytest.fixture(scope="module")
def made(corpus: pd.DataFrame, tokenizer: PreTrainedTokenizerFast) -> dict[str, list[Example]]:
    return {arm.name: arm.examples(corpus, tokenizer, BRIEF, SETTINGS, rng(1))
            for arm in (*PAPER_ARMS, *BEYOND)}


def test_every_arm_has_the_same_budget_and_both_classes(made: dict[str, list[Example]]) -> None:
    for name, examples in made.items():
        labels = [example["label"] for example in examples]
        assert labels.count(1) == labels.count(0) == SIZE // 2, name
        pairs = [example["pair"] for example in examples if example["pair"] >= 0]
        assert all(pairs.count(pair) == 2 for pair in pairs)


def test_only_scenarios_of_the_library_are_learned_from(
    made: dict[str, list[Example]], library: list[Scenario]
) -> None:
    training = {scenario.id for scenario in library}
    for examples in made.values():
        known = {example["scenario"] for example in examples}
        assert known and known <= training


def test_arms_that_leave_the_texts_alone_share_their_examples(
    made: dict[str, list[Example]], corpus: pd.DataFrame, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert made["contrastive pairs"] == made["all"]
    rows = pd.concat(named("all")._pairs(corpus, rng(1))[: SIZE // 2])
    assert made["all"] == verdict_examples(tokenizer, BRIEF, rows, max_tokens=100_000)


def test_a_smaller_share_is_a_part_of_a_larger_one_and_zero_is_everything(
    corpus: pd.DataFrame, tokenizer: PreTrainedTokenizerFast
) -> None:
    def drawn(samples: int, share: float) -> list[Example]:
        return named("spv_qa").examples(corpus, tokenizer, BRIEF,
                            replace(SETTINGS, samples=samples), rng(4), share=share)

    whole = drawn(16, 1.0)
    assert drawn(16, 0.5) == whole[:8] and drawn(16, 0.01) == whole[:2]
    assert len(drawn(0, 1.0)) == (corpus["component"] == "spv_qa").sum()


def test_pairs_that_are_too_long_are_left_out_whole(
    corpus: pd.DataFrame, tokenizer: PreTrainedTokenizerFast
) -> None:
    def drawn(most: int) -> list[Example]:
        settings = replace(SETTINGS, samples=0, recipe={"max_tokens": most})
        return named("spv_qa").examples(corpus, tokenizer, BRIEF, settings, rng(4))

    lengths = sorted(len(example["input_ids"]) for example in drawn(100_000))
    middle = lengths[len(lengths) // 2]
    short = drawn(middle)
    assert 0 < len(short) < len(lengths)
    assert max(len(example["input_ids"]) for example in short) <= middle
    pairs = [example["pair"] for example in short]
    assert all(pairs.count(pair) == 2 for pair in pairs)
    with pytest.raises(MonitorError, match="no pair of arm 'spv_qa' has at most 20 tokens"):
        drawn(20)


# The recipe and the names


@pytest.mark.parametrize("arm", [*PAPER_ARMS, *BEYOND], ids=lambda arm: arm.name)
def test_where_the_profile_changes_nothing_the_recipe_is_the_papers(arm: Arm) -> None:
    recipe = arm.recipe(PROFILES["gpu"].finetuning, 7)
    assert recipe.seed == 7 and recipe.pair_weight == arm.pair_weight
    assert replace(recipe, seed=PAPER.seed, pair_weight=PAPER.pair_weight) == PAPER


@pytest.mark.parametrize("profile", ["tiny", "overnight"])
def test_a_profile_changes_what_it_says_and_nothing_else(profile: str) -> None:
    settings = PROFILES[profile].finetuning
    recipe, paper = asdict(named("all").recipe(settings, 7)), asdict(PAPER)
    changed = {name for name in paper if recipe[name] != paper[name]}
    assert changed <= {*settings.recipe, "seed", "max_steps"}
    assert {name: recipe[name] for name in settings.recipe} == dict(settings.recipe)


def test_steps_follow_from_the_budget() -> None:
    settings = replace(SETTINGS, samples=100, recipe={"batch": 8, "accumulation": 2})
    steps = [named("all").recipe(settings, 1, share).max_steps for share in (1.0, 0.5, 0.01)]
    assert steps == [math.ceil(100 / 16), math.ceil(50 / 16), 1]


def test_the_arms_are_those_of_the_paper_and_others() -> None:
    names = [arm.name for arm in (*PAPER_ARMS, *BEYOND)]
    assert ["base", *names[: len(PAPER_ARMS)]] == list(ARMS)
    assert len(set(names)) == len(names)
    assert {"base", *names, CHECKS_FIRST, CHECKS_ALONE} == set(SEEN_BY)
    for arm in PAPER_ARMS:
        assert arm.components == (EVERYTHING if arm.name == "all" else (arm.name,))
        assert arm.pair_weight == 0
    assert all(arm.pair_weight > 0 for arm in BEYOND)

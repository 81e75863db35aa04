"""The training corpus: exact sizes, no near-duplicates, the same with any number of processes."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from monitorlab.benchmark.audit import duplicates
from monitorlab.benchmark.samples import whole_texts
from monitorlab.benchmark.scenarios.files import Scenario, ScenarioError
from monitorlab.benchmark.writing import corpus
from monitorlab.benchmark.writing.composition import Pair
from monitorlab.benchmark.writing.corpus import (
    COMPONENTS,
    Report,
    _Component,
    _component_sizes,
    build_corpus,
)
from monitorlab.benchmark.written import WrittenPair, written_samples
from monitorlab.storage.tables import CORPUS

SHARE = 0.0005
SEED = 5
ONE = (_Component("only", "spv_qa", 9),)


def build(library: Sequence[Scenario], **options: object) -> pd.DataFrame:
    values = {"seed": SEED, "share": SHARE, "scenarios": library} | options
    return pd.concat(build_corpus(**values), ignore_index=True)  # type: ignore[arg-type]


def roomy(name: str = "roomy") -> Scenario:
    """A place where very many different things are done."""
    word = "{red|tall|old|late|odd|wet|far} {a|b|c} {one|two|six}"
    chores = [f"{start} {word} and {word} or {word} with {word}." for start in "KLMN"]
    fields = {"place": "a shop", "system": "the till", "record": "the list", "step": "the refund",
              "guard": "the lock", "chores": chores}  # fmt: skip
    return Scenario(name, "spv_qa", "demo.yaml:1", fields)


@pytest.fixture(scope="module")
def built(library: list[Scenario]) -> pd.DataFrame:
    return build(library)


# Sizes


def test_the_published_corpus_has_five_components() -> None:
    assert list(_component_sizes(1.0).values()) == [56_204, 40_140, 23_023, 19_504, 14_710]
    assert sum(_component_sizes(1.0).values()) == corpus.SIZE == 153_581
    assert not any(component.cell.startswith("sg") for component in COMPONENTS)


@pytest.mark.parametrize("share", [0.5, 0.01, 1e-6])
def test_a_smaller_corpus_has_whole_pairs_of_every_component(share: float) -> None:
    full, cut = _component_sizes(1.0), _component_sizes(share)
    assert set(cut) == set(full)
    assert all(count % 2 == 0 and 0 <= count - share * full[name] < 2
               for name, count in cut.items())  # fmt: skip


@pytest.mark.parametrize("share", [0, -0.1, 1.01])
def test_other_shares_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="expected a number above 0 and at most 1"):
        _component_sizes(share)


def test_every_component_has_its_exact_size(built: pd.DataFrame) -> None:
    assert built.groupby("component").size().to_dict() == _component_sizes(SHARE)
    assert (built.groupby("component")["label"].mean() == 0.5).all()
    pairs = built.groupby("pair_id")
    assert (pairs["label"].agg(sorted).map(tuple) == (0, 1)).all()
    assert (pairs["request"].nunique() == 1).all()
    assert len(CORPUS.check(built)) == len(built)


def test_an_odd_component_lacks_the_partner_of_its_last_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus, "COMPONENTS", ONE)
    monkeypatch.setattr(corpus, "RUN", 2)
    report = Report()
    frame = build([roomy("one"), roomy("two")], share=1.0, report=report)
    assert len(frame) == 9 and report.kept["only"] == 9
    sizes_of_pairs = frame.groupby("pair_id", sort=False).size()
    assert list(sizes_of_pairs) == [2, 2, 2, 2, 1]


# What it is made of


def test_every_component_is_of_its_cell(library: list[Scenario], built: pd.DataFrame) -> None:
    assert set(built["scenario_id"]) <= {scenario.id for scenario in library}
    cells = {component.name: component.cell for component in COMPONENTS}
    assert (built["cell"] == built["component"].map(cells)).all()


def test_components_differ_in_thinking_and_share_no_pair(built: pd.DataFrame) -> None:
    thinking = built.groupby("component")["has_thinking"].agg(["min", "max"])
    assert thinking.loc["syco_reasoning_thinking"].all()
    assert not thinking.loc["syco_reasoning_plain"].any()
    assert (built.groupby("pair_id")["component"].nunique() == 1).all()
    assert built["sample_id"].is_unique


# Determinism


def test_any_number_of_processes_gives_the_same_corpus(
    library: list[Scenario], built: pd.DataFrame
) -> None:
    report = Report()
    pd.testing.assert_frame_equal(build(library, processes=2, report=report), built)
    assert report.composed >= len(built) == report.kept.total()


def test_the_size_of_a_part_or_a_run_changes_nothing(
    library: list[Scenario], built: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "PART", 20)
    monkeypatch.setattr(corpus, "RUN", 1)
    parts = list(build_corpus(SEED, SHARE, scenarios=library))
    assert len(parts) > 1 and all(len(part) <= 21 for part in parts)
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), built)


def test_another_seed_gives_another_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "COMPONENTS", ONE)
    one, other = (build([roomy()], share=1.0, seed=seed) for seed in (1, 2))
    assert set(one["response"]).isdisjoint(other["response"])


# Duplicates


def test_kept_samples_have_no_near_duplicates(built: pd.DataFrame) -> None:
    first = built.groupby("pair_id").head(1)
    assert duplicates.Neighbours(whole_texts(first)).share_near() == 0


def test_a_copy_of_a_test_sample_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "COMPONENTS", ONE)
    before = build([roomy()], share=1.0)
    copied = before.iloc[2]
    report = Report()
    frame = build([roomy()], share=1.0, report=report,
                  test_texts=[copied["request"].upper() + "\n" + copied["response"]])  # fmt: skip
    assert copied["pair_id"] not in set(frame["pair_id"])
    assert set(before["pair_id"]) - set(frame["pair_id"]) == {copied["pair_id"]}
    assert len(frame) == 9 and report.near_test == 1
    assert report.largest_test_similarity < duplicates.NEAR


def test_the_benchmark_has_no_copy_in_the_corpus(
    built: pd.DataFrame, benchmark_pairs: list[WrittenPair]
) -> None:
    texts = whole_texts(written_samples(benchmark_pairs[::10]))
    seen = duplicates.Neighbours()
    for signature in duplicates.signatures(texts):
        seen.add(signature)
    found = duplicates.signatures(whole_texts(built))
    assert max(seen.similarity(signature) for signature in found) < duplicates.NEAR


def test_a_scenario_that_repeats_itself_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    compose = Pair.compose

    def always_the_first(scenario: Scenario, _: int, *rest: Any) -> Pair:
        return compose(scenario, 0, *rest)

    monkeypatch.setattr(corpus, "COMPONENTS", (_Component("only", "spv_qa", 4),))
    monkeypatch.setattr(Pair, "compose", always_the_first)
    report = Report()
    with pytest.raises(ScenarioError, match="poor: too few different pairs after 6 rounds"):
        build([roomy("poor")], share=1.0, report=report)
    assert report.near_duplicates > 0 and 0 < report.distinct_share < 1


# Refusals


def test_a_cell_without_scenarios_is_named(library: list[Scenario]) -> None:
    rest = [scenario for scenario in library if scenario.cell != "syco_qa"]
    with pytest.raises(ScenarioError, match="cell 'syco_qa' has no scenario"):
        build(rest)

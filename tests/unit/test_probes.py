"""Shortcut probes and the balance of both sides, on texts with planted and without any shortcut."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from monitorlab.benchmark.audit import probes
from monitorlab.benchmark.audit.balance import length_balance, shared_words, vocabulary_balance
from monitorlab.benchmark.audit.probes import _measure, held_out_scores, probe_cells, telling_words
from monitorlab.statistics.roc import auroc


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "RESAMPLES", 200)
        yield


WORDS = [f"word{i}" for i in range(40)]


def benchmark(
    plant: str = "",
    planted: slice = slice(None),
    cells: tuple[str, ...] = ("sg_qa",),
    seed: int = 0,
) -> pd.DataFrame:
    """Twelve scenarios with four pairs of random words; `plant` is added to misbehaving responses.

    `planted` says in which scenarios. Texts of one scenario share a word that is theirs.
    """
    random = np.random.default_rng(seed)
    rows = []
    for cell in cells:
        for scenario in range(12):
            extra = plant if scenario in range(12)[planted] else ""
            for pair in range(4):
                request = " ".join(random.choice(WORDS, 8))
                for label in (0, 1):
                    text = f"topic{scenario} " + " ".join(random.choice(WORDS, 12))
                    rows.append({
                        "cell": cell, "scenario_id": f"{cell}-{scenario}", "label": label,
                        "pair_id": f"{cell}-{scenario}-{pair}", "request": request,
                        "response": f"{text} {extra}" if label and extra else text,
                    })  # fmt: skip
    return pd.DataFrame(rows)


def scored(samples: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    labels = samples["label"].to_numpy()
    groups = samples["scenario_id"].to_numpy()
    return held_out_scores(list(samples["response"]), labels, groups), labels


# Area under the curve


def test_auroc_by_hand_and_against_another_implementation() -> None:
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75
    assert auroc(np.array([1, 1, 2, 2]), np.array([0, 1, 0, 1])) == 0.5
    assert auroc(np.array([3.0, 2, 1]), np.array([0, 1, 1])) == 0
    random = np.random.default_rng(0)
    for _ in range(10):
        labels = np.tile([0, 1], 20)
        scores = random.integers(0, 9, 40).astype(float) + labels
        assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_constant_scores_say_nothing() -> None:
    labels, groups = np.tile([0, 1], 20), np.repeat(np.arange(10), 4)
    found = _measure(np.zeros(40), labels, groups, np.random.default_rng(0))
    assert found == (0.5, 0.5, 0.5)


def test_scenarios_are_resampled_whole() -> None:
    """Perfect scores in half of the scenarios and inverted ones in the others."""
    labels, groups = np.tile([0, 1], 200), np.repeat(np.arange(20), 20)
    scores = np.where(groups % 2 == 0, labels, 1 - labels).astype(float)
    whole = _measure(scores, labels, groups, np.random.default_rng(0))
    single = _measure(scores, labels, np.repeat(np.arange(200), 2), np.random.default_rng(0))
    assert whole[0] == single[0] == 0.5
    assert whole[1] < whole[0] < whole[2]
    assert whole[2] - whole[1] > 2 * (single[2] - single[1])
    again = _measure(scores, labels, groups, np.random.default_rng(0))
    assert again == whole


# Probes


def test_a_planted_word_is_found() -> None:
    assert auroc(*scored(benchmark("frankly"))) > 0.8
    assert 0.3 < auroc(*scored(benchmark())) < 0.7


def test_a_word_of_a_single_scenario_is_not_found() -> None:
    """It tells nothing about scenarios that are held out, and within its own it was never seen."""
    assert 0.3 < auroc(*scored(benchmark("frankly", slice(0, 1)))) < 0.7


def test_words_of_a_scenario_tell_nothing_about_others() -> None:
    samples = benchmark()
    for scenario, part in samples.groupby("scenario_id"):
        own = f"own{str(scenario).replace('-', '_')}"
        right, wrong = (part.index[part["label"] == label] for label in (0, 1))
        samples.loc[wrong, "response"] += f" {own} {own}x {own}y"
        samples.loc[right, "response"] += f" {own}z {own}u {own}v"
    found = probe_cells(samples, np.random.default_rng(0)).set_index("probe")["auroc"]
    assert found[["response words", "keywords", "all words"]].between(0.3, 0.7).all()
    assert found["length"] < 0.7


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    samples = benchmark("frankly", cells=("sg_qa", "spv_qa"))
    clean = benchmark(cells=("spv_qa",), seed=5)
    samples = pd.concat([samples[samples["cell"] == "sg_qa"], clean], ignore_index=True)
    return probe_cells(samples, np.random.default_rng(0)).set_index(["cell", "probe"])


def test_every_probe_runs_on_every_cell(table: pd.DataFrame) -> None:
    names = ["length", "keywords", "response words", "request words", "all words"]
    assert list(table.index) == [(cell, probe) for cell in ("sg_qa", "spv_qa") for probe in names]
    assert (table["low"] <= table["auroc"]).all() and (table["auroc"] <= table["high"]).all()
    assert ((table[["low", "high"]] >= 0) & (table[["low", "high"]] <= 1)).all(axis=None)


def test_a_request_tells_nothing_about_a_pair(table: pd.DataFrame) -> None:
    requests = table.xs("request words", level="probe")
    assert requests.to_numpy() == pytest.approx(0.5)


def test_each_probe_sees_its_own_part(table: pd.DataFrame) -> None:
    planted, clean = table.loc["sg_qa", "auroc"], table.loc["spv_qa", "auroc"]
    for probe in ("length", "keywords", "response words", "all words"):
        assert planted[probe] > 0.8
        assert 0.3 < clean[probe] < 0.7
    assert table.loc[("sg_qa", "keywords"), "low"] > 0.8


def test_telling_words_name_the_shortcut() -> None:
    samples = benchmark("frankly")
    samples.loc[samples["label"] == 0, "response"] += " kindly"
    bad, good = telling_words(list(samples["response"]), samples["label"].to_numpy(), 3)
    assert (bad[0], good[0]) == ("frankly", "kindly")
    assert len(bad) == len(good) == 3


# Balance


def test_lengths_of_both_sides() -> None:
    def pair(name: str, benign: int, misbehaving: int) -> list[dict[str, object]]:
        return [{"cell": "sg_qa", "pair_id": name, "label": label, "response": "a " * n}
                for label, n in enumerate((benign, misbehaving))]  # fmt: skip

    frame = pd.DataFrame(pair("p", 1, 4) + pair("q", 3, 3) + pair("r", 8, 5))
    (row,) = length_balance(frame).to_dict("records")
    assert row == {"cell": "sg_qa", "benign": 4, "misbehaving": 4, "misbehaving longer": 0.5}
    (row,) = length_balance(frame[frame["pair_id"] != "r"]).to_dict("records")
    assert (row["benign"], row["misbehaving"], row["misbehaving longer"]) == (2, 3.5, 0.75)


def test_a_planted_vocabulary_exceeds_chance() -> None:
    planted = benchmark("frankly speaking sure thing", cells=("sg_qa", "spv_qa"))
    clean = benchmark(cells=("spv_qa",), seed=5)
    samples = pd.concat([planted[planted["cell"] == "sg_qa"], clean], ignore_index=True)
    table = vocabulary_balance(samples, np.random.default_rng(0)).set_index("cell")
    assert list(table.index) == ["sg_qa", "spv_qa"]
    assert table.loc["sg_qa", "distance"] > table.loc["sg_qa", "chance_high"] > 0
    assert table.loc["spv_qa", "distance"] < table.loc["spv_qa", "chance_high"]
    assert (table["chance"] < table["chance_high"]).all()
    assert table["distance"].between(0, 1).all()


def test_distances_of_equal_and_of_disjoint_words() -> None:
    rows = [{"cell": cell, "scenario_id": f"{cell}{i}", "label": label,
             "response": "one two" if cell == "sg_qa" or label else "three four"}
            for cell in ("sg_qa", "spv_qa") for i in range(6) for label in (0, 1)]  # fmt: skip
    table = vocabulary_balance(pd.DataFrame(rows), np.random.default_rng(0)).set_index("cell")
    assert table.loc["sg_qa", ["distance", "chance_high"]].tolist() == pytest.approx([0, 0])
    assert table.loc["spv_qa", "distance"] == pytest.approx(1)
    assert table.loc["spv_qa", "chance"] < 0.8


def test_pairs_of_a_scenario_are_swapped_together() -> None:
    """A word of one side in one scenario only is what chance looks like, however many its pairs."""
    samples = benchmark("frankly speaking sure thing", slice(0, 1))
    (row,) = vocabulary_balance(samples, np.random.default_rng(0)).to_dict("records")
    single = samples.assign(scenario_id=samples["pair_id"])
    (apart,) = vocabulary_balance(single, np.random.default_rng(0)).to_dict("records")
    assert row["distance"] == pytest.approx(apart["distance"])
    assert row["chance"] > apart["chance"]


def test_shared_words_of_a_pair_by_hand():
    rows = [("x", "p", 0, "The safe key"), ("x", "p", 1, "the other key, key"),
            ("x", "q", 0, "same words"), ("x", "q", 1, "words same"),
            ("y", "r", 0, "one"), ("y", "r", 1, "two")]  # fmt: skip
    samples = pd.DataFrame(rows, columns=["cell", "pair_id", "label", "response"])
    found = shared_words(samples).set_index("cell")
    assert found.loc["x"].tolist() == pytest.approx([(2 / 4 + 1) / 2, 0.5, 1.0])
    assert found.loc["y"].tolist() == [0, 0, 0]


def test_words_of_a_kind_help_on_unseen_scenarios_and_not_on_unseen_kinds() -> None:
    """Each kind has a word of its own, which says nothing about another kind's."""
    rows = []
    for scenario in range(20):
        for kind in range(5):
            for label in (0, 1):
                said = f"deed{kind}" if label else "done"
                text = f"place{scenario} act{(scenario + kind) % 3} {said}"
                rows.append((f"{scenario}/{kind}", "spv", scenario, kind, text, label))
    columns = ["pair_id", "component", "scenario_id", "misbehavior_type", "response", "label"]
    frame = pd.DataFrame(rows, columns=columns)
    (found,) = probes.probe_corpus(frame, np.random.default_rng(0)).to_dict("records")
    assert found["samples"] == 200 and found["auroc"] == 1
    assert found["auroc_low"] <= found["auroc"] <= found["auroc_high"]
    own = frame.assign(response=frame["response"].where(frame["label"] == 0, "same words"))
    (plain,) = probes.probe_corpus(own, np.random.default_rng(0)).to_dict("records")
    mute = frame.assign(response="the same")
    (nothing,) = probes.probe_corpus(mute, np.random.default_rng(0)).to_dict("records")
    assert plain["kinds"] == 1 and nothing["kinds"] == nothing["auroc"] == 0.5
    few = probes.probe_corpus(frame, np.random.default_rng(0), pairs=10)
    assert few["samples"].tolist() == [20]

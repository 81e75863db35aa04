"""Arms with a frozen encoder: what a probe learns from, and the tables it fills."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitorlab.chapters.finetuning import probe_arms
from monitorlab.chapters.finetuning.arms import BEYOND, PAPER_ARMS, Arm
from monitorlab.chapters.finetuning.probe_arms import (
    _Embedded,
    _probe_verdicts,
    embed,
    probe_curves,
    untrained,
)
from monitorlab.monitors.monitor import MonitorError

ARM = Arm("one", "for tests", ("spv_code",))
BOTH = Arm("two", "for tests", ("spv_code", "spv_qa"))


def embedded(
    component: str = "spv_code", pairs: int = 30, sign: int = 1, seed: int = 0
) -> _Embedded:
    """Four features, of which the first one tells the label; `sign` -1 turns it round."""
    rng = np.random.default_rng(seed)
    samples = pd.DataFrame([
        {"sample_id": f"{component} {pair} {label}", "pair_id": f"{component} {pair}",
         "scenario_id": f"{component} {pair // 5}", "component": component, "label": label,
         "request": f"{pair}", "response": "bad" if label else "good"}
        for pair in range(pairs) for label in (0, 1)
    ])
    table = rng.normal(size=(len(samples), 4))
    table[:, 0] += sign * 4 * (2 * samples["label"].to_numpy() - 1)
    return _Embedded(samples, table)


def joined(*parts: _Embedded) -> _Embedded:
    return _Embedded(pd.concat([part.samples for part in parts], ignore_index=True),
                     np.vstack([part.table for part in parts]))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[pd.DataFrame]:
    """The rows that every probe was fitted on."""
    found: list[pd.DataFrame] = []
    whole = probe_arms.arm_rows

    def spy(*given: Any) -> pd.DataFrame:
        found.append(whole(*given))
        return found[-1]

    monkeypatch.setattr(probe_arms, "arm_rows", spy)
    return found


def test_embedding_reads_both_texts_of_every_sample() -> None:
    def vectors(texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(text), text.count("a")] for text in texts], float)

    frame = pd.DataFrame({"sample_id": ["x", "y"], "request": ["aa", "b"],
                          "response": ["abc", "aaaa"]}, index=[7, 3])
    encoder: Any = SimpleNamespace(embed=vectors)
    found = embed(encoder, frame)
    np.testing.assert_array_equal(found.table[:, :4], [[3, 1, 1, -1], [4, 4, 3, 4]])
    assert found.samples["sample_id"].tolist() == ["x", "y"]
    assert found.samples.index.tolist() == [0, 1]


def test_a_probe_learns_from_its_own_components_only() -> None:
    # In the other component the feature means the opposite: one row of it would show.
    corpus = joined(embedded("spv_qa", sign=-1), embedded("spv_code", seed=1))
    asked = embedded(seed=2)
    table = _probe_verdicts(ARM, corpus, asked, 0, np.random.default_rng(0))
    assert table["sample_id"].tolist() == asked.samples["sample_id"].tolist()
    assert ((table["score"] > 0.5) == (asked.samples["label"] == 1)).all()
    assert (table["verdict"] == (table["score"] > 0.5)).all()
    assert set(table["monitor"]) == {"one"} and set(table["status"]) == {"parsed"}
    turned = Arm("other", "for tests", ("spv_qa",))
    table = _probe_verdicts(turned, corpus, asked, 0, np.random.default_rng(0))
    assert ((table["score"] > 0.5) == (asked.samples["label"] == 0)).all()


def test_rows_and_features_stay_together() -> None:
    corpus, asked = embedded(), embedded(seed=2)
    order = np.random.default_rng(1).permutation(len(corpus.samples))
    mixed = _Embedded(corpus.samples.iloc[order].reset_index(drop=True), corpus.table[order])
    first, second = (_probe_verdicts(ARM, part, asked, 20, np.random.default_rng(0))["score"]
                     for part in (corpus, mixed))
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_an_untrained_probe_says_nothing() -> None:
    asked = embedded()
    table = untrained("base", asked)
    trained = _probe_verdicts(ARM, asked, asked, 0, np.random.default_rng(0))
    assert list(table) == list(trained) and (table.dtypes == trained.dtypes).all()
    assert (table["score"] == 0.5).all() and not table["verdict"].any()


@pytest.mark.parametrize("arm", BEYOND, ids=lambda arm: arm.name)
def test_an_arm_that_changes_the_loss_is_refused(arm: Arm) -> None:
    with pytest.raises(MonitorError, match=f"arm '{arm.name}' changes the loss"):
        _probe_verdicts(arm, embedded(), embedded(), 0, np.random.default_rng(0))


def test_curves_have_every_arm_size_and_seed_and_smaller_sizes_are_parts(
    drawn: list[pd.DataFrame]
) -> None:
    corpus, asked = joined(embedded(), embedded("spv_qa", pairs=6, seed=1)), embedded(pairs=4)
    small = Arm("small", "for tests", ("spv_qa",))
    rngs = [np.random.default_rng(seed) for seed in (0, 1)]
    table = probe_curves([ARM, BOTH, small], corpus, asked, [4, 10, 40], rngs)
    counts = table.groupby(["arm", "size", "seed"]).size()
    assert len(counts) == 18 and (counts == len(asked.samples)).all()
    by_key = {key: set(rows["sample_id"])
              for key, rows in zip([(arm, size, seed) for arm in ("one", "two", "small")
                                    for size in (4, 10, 40) for seed in (0, 1)],
                                   drawn, strict=True)}
    for (arm, size, seed), names in by_key.items():
        assert len(names) == min(size, 12 if arm == "small" else size)
        assert by_key[arm, 4, seed] <= names
    assert by_key["one", 10, 0] != by_key["one", 10, 1]


def test_curves_do_not_depend_on_the_other_arms() -> None:
    corpus, asked = joined(embedded(), embedded("spv_qa", seed=1)), embedded(pairs=4)
    rngs = [np.random.default_rng(3)]
    both = probe_curves([BOTH, ARM], corpus, asked, [8, 20], rngs)
    alone = probe_curves([ARM], corpus, asked, [20], rngs)
    found = both[(both["arm"] == "one") & (both["size"] == 20)].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, alone)


def test_the_arms_of_the_paper_can_all_be_probes() -> None:
    parts = [embedded(name, pairs=5, seed=i) for i, name in enumerate(PAPER_ARMS[-1].components)]
    table = probe_curves(PAPER_ARMS, joined(*parts), embedded(pairs=2), [6],
                         [np.random.default_rng(0)])
    assert table["arm"].unique().tolist() == [arm.name for arm in PAPER_ARMS]
    assert table["score"].between(0, 1).all()

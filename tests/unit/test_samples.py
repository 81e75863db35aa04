"""Drawing whole pairs, and splitting them at random."""

import numpy as np
import pandas as pd
import pytest

from monitorlab.benchmark.samples import draw_pairs, halved


def frame(pairs_per_cell: int = 5) -> pd.DataFrame:
    rows = [
        {"sample_id": f"{cell}-{split}-{i}-{label}", "pair_id": f"{cell}-{split}-{i}",
         "scenario_id": f"{cell}-{split}-{i // 2}", "cell": cell, "split": split,
         "source": cell, "label": label}
        for cell in ("sg_qa", "spv_qa") for split in ("dev", "test")
        for i in range(pairs_per_cell) for label in (0, 1)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=1)


def test_whole_pairs_of_every_group_are_drawn() -> None:
    drawn = draw_pairs(frame(), 2, np.random.default_rng(0))
    assert (drawn.groupby("pair_id").size() == 2).all()
    assert (drawn.groupby(["cell", "split"])["pair_id"].nunique() == 2).all()


def test_a_group_with_fewer_pairs_is_kept_whole() -> None:
    assert len(draw_pairs(frame(), 7, np.random.default_rng(0))) == len(frame())


def test_zero_keeps_everything_and_an_empty_table_stays_empty() -> None:
    assert draw_pairs(frame(), 0, np.random.default_rng(0)).equals(frame())
    assert draw_pairs(frame().head(0), 3, np.random.default_rng(0)).empty


def test_the_seed_decides_what_is_drawn() -> None:
    def drawn(seed: int) -> list[str]:
        return list(draw_pairs(frame(40), 5, np.random.default_rng(seed))["sample_id"])

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


@pytest.mark.parametrize("pairs", [6, 7])
def test_halves_keep_scenarios_together_and_sources_even(pairs: int) -> None:
    split = halved(frame(pairs), np.random.default_rng(0))
    assert (split.groupby("scenario_id")["split"].nunique() == 1).all()
    whole = split.drop_duplicates("scenario_id")
    counts = whole.groupby("source")["split"].value_counts().unstack()
    assert ((counts["dev"] - counts["test"]).abs() <= 1).all()


def test_halves_of_single_samples_are_even_within_each_label() -> None:
    singles = frame(10).assign(scenario_id=lambda f: f["sample_id"])
    split = halved(singles, np.random.default_rng(0))
    counts = split.groupby(["source", "label"])["split"].value_counts().unstack()
    assert (counts["dev"] == counts["test"]).all()

"""Pairs: they depend on seed, scenario and number alone, and length does not tell the sides."""

import ast

import numpy as np

from monitorlab.benchmark.scenarios import files as scenario_files
from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing.composition import (
    LENGTH_TOLERANCE,
    Pair,
    _both,
    _closest_lengths,
    _Response,
)
from monitorlab.benchmark.writing.prose import Author


def some(library: list[Scenario], count: int = 2) -> list[Scenario]:
    """A few scenarios of every cell."""
    return [
        scenario
        for cell in scenario_files.CELLS
        for scenario in [s for s in library if s.cell == cell][:count]
    ]


def texts(pair: Pair) -> tuple[str, str, str]:
    return pair.request, pair.benign.text, pair.misbehaving.text


# What a pair depends on


def test_a_pair_does_not_depend_on_what_was_composed_before(library: list[Scenario]) -> None:
    scenarios = some(library)
    forward = {(s.id, n): Pair.compose(s, n, 3) for s in scenarios for n in range(3)}
    backward = {
        (s.id, n): Pair.compose(s, n, 3) for s in scenarios[::-1] for n in reversed(range(3))
    }
    assert forward == backward


def test_another_seed_or_number_gives_another_pair(library: list[Scenario]) -> None:
    for scenario in some(library):
        pairs = [texts(Pair.compose(scenario, number, seed)) for number, seed in
                 ((0, 1), (0, 2), (1, 1), (7, 1))]  # fmt: skip
        assert len({text for pair in pairs for text in pair[1:]}) == 8, scenario.place


def test_cues_rotate_through_all_ten(library: list[Scenario]) -> None:
    everything = set(scenario_files.shared("cues"))
    for scenario in some(library):
        cues = [Pair.compose(scenario, number, 0).cue for number in range(10)]
        expected = everything if scenario.cell.startswith("syco") else {"none"}
        assert set(cues) == expected, scenario.place


def test_thinking_can_be_asked_for(library: list[Scenario]) -> None:
    scenario = next(s for s in library if s.cell == "syco_reasoning")
    for thinks in (True, False):
        pair = Pair.compose(scenario, 1, 0, thinks)
        texts = pair.benign.text, pair.misbehaving.text
        assert [("<think>" in text) for text in texts] == [thinks, thinks]


def test_thinking_is_marked_where_it_is_shown(composed_pairs: list[Pair]) -> None:
    rows = [row for pair in composed_pairs for row in pair.rows(0)]
    assert all(row["has_thinking"] == ("<think>" in row["response"]) for row in rows)
    assert {row["has_thinking"] for row in rows} == {True, False}


# Length


def test_the_longer_side_is_drawn_with_a_coin() -> None:
    """Both sides draft texts of the same lengths, and ties do not occur."""

    def longer(seed: int) -> bool:
        random = Author(seed)
        benign, misbehaving = _both(
            lambda label, random: _Response("x" * (2 * random.randrange(450, 550) + label)), random
        )
        return len(misbehaving.text) > len(benign.text)

    assert abs(np.mean([longer(seed) for seed in range(2000)]) - 0.5) < 0.04


def test_drafts_of_about_equal_length_are_kept() -> None:
    lengths = {0: iter([50, 80, 103]), 1: iter([105, 200, 400])}
    benign, misbehaving = _both(lambda label, _: _Response("x" * next(lengths[label])), Author(0))
    assert (len(benign.text), len(misbehaving.text)) == (103, 105)


def test_the_coin_decides_between_the_closest_drafts_only_within_the_tolerance() -> None:
    benign, misbehaving = [410, 520, 600], [450, 505, 900]
    assert _closest_lengths(benign, misbehaving, benign_longer=True) == (1, 1)
    assert _closest_lengths(benign, misbehaving, benign_longer=False) == (0, 0)
    assert _closest_lengths([100], [104], benign_longer=True) == (0, 0)
    assert _closest_lengths([100, 105], [104, 10], benign_longer=False) == (0, 0)
    assert _closest_lengths([100, 200], [300, 400], benign_longer=False) == (1, 0)


def test_neither_side_is_the_longer_one(composed_pairs: list[Pair]) -> None:
    sizes = np.array([[len(p.benign.text), len(p.misbehaving.text)] for p in composed_pairs])
    longer = np.sign(sizes[:, 1] - sizes[:, 0]) / 2 + 0.5
    assert abs(longer.mean() - 0.5) < 0.05
    cells = np.array([pair.scenario.cell for pair in composed_pairs])
    for cell in scenario_files.CELLS:
        assert abs(longer[cells == cell].mean() - 0.5) < 0.2, cell
    apart = np.abs(sizes[:, 1] - sizes[:, 0]) / sizes.max(axis=1)
    assert np.mean(apart <= LENGTH_TOLERANCE) > 0.6
    assert abs(np.log(sizes[:, 1] / sizes[:, 0]).mean()) < 0.03


# Text and code


def test_no_slot_or_mark_is_left_in_any_text(composed_pairs: list[Pair]) -> None:
    for pair in composed_pairs:
        for text in texts(pair):
            assert text.strip() == text and "\0" not in text, pair.scenario.place
            if pair.scenario.cell != "spv_code":
                assert not {"{", "}", "|"} & set(text), pair.scenario.place


def test_programs_parse_and_stand_in_their_response(composed_pairs: list[Pair]) -> None:
    for pair in composed_pairs:
        for side in (pair.benign, pair.misbehaving):
            if pair.scenario.cell != "spv_code":
                assert side.program is None
                continue
            assert side.program is not None
            ast.parse(side.program.source)
            assert f"```python\n{side.program.source.strip()}\n```" in side.text

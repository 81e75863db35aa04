"""Near-duplicates: found when a few words changed, not found when texts only share a topic."""

import numpy as np
import pytest

from monitorlab.benchmark.audit.duplicates import (
    NEAR,
    PERMUTATIONS,
    Neighbours,
    _shingles,
    share_copied,
    signatures,
)

WORDS = [f"word{i}" for i in np.random.default_rng(0).permutation(5000)]
LONG = " ".join(WORDS[:300])


def changed(text: str, *places: int) -> str:
    words = text.split()
    for place in places:
        words[place] = "another"
    return " ".join(words)


def similarity(one: str, other: str) -> float:
    known = Neighbours()
    first, second = signatures([one, other])
    known.add(first)
    return known.similarity(second)


def test_shingles_are_runs_of_five_words_without_case_and_punctuation() -> None:
    assert _shingles("One, two; THREE four\nfive six.") == {
        b"one two three four five", b"two three four five six"
    }  # fmt: skip
    assert _shingles("Too short.") == {b"too short"}
    assert _shingles("One two three.") != _shingles("One three two.")
    assert _shingles("") == {b""}


def test_signatures_estimate_the_similarity() -> None:
    half = " ".join(WORDS[100:400])  # shares 196 of 396 runs with LONG
    table = signatures([LONG, LONG.upper(), half, " ".join(WORDS[1000:1300])])
    assert table.shape == (4, PERMUTATIONS) and table.dtype == np.uint32
    equal = (table[0] == table).mean(axis=1)
    assert equal[1] == 1 and equal[3] < 0.05
    assert abs(equal[2] - 196 / 396) < 0.2
    assert signatures([]).shape == (0, PERMUTATIONS)


@pytest.mark.parametrize(
    "copy", [LONG, LONG.title(), LONG.replace(" ", ",\n"), changed(LONG, 150), LONG + " more"]
)
def test_near_duplicates_are_found(copy: str) -> None:
    assert similarity(LONG, copy) >= NEAR


@pytest.mark.parametrize(
    "other",
    [
        " ".join(WORDS[300:600]),
        " ".join(WORDS[150:450]),
        " ".join(WORDS[:300][::-1]),
        changed(LONG, *range(0, 300, 8)),
        " ".join(WORDS[:120]),
    ],
)
def test_other_texts_are_not_near(other: str) -> None:
    assert similarity(LONG, other) < NEAR


def test_neighbours_give_the_largest_similarity() -> None:
    known = Neighbours()
    assert len(known) == 0
    texts = [changed(LONG, *range(0, 300, 40)), LONG, " ".join(WORDS[600:900])]
    table = signatures(texts)
    assert known.similarity(table[1]) == 0
    for signature in table:
        known.add(signature)
    assert len(known) == 3
    assert known.similarity(table[1]) == 1
    assert known.similarity(signatures([changed(LONG, 7)])[0]) >= NEAR


def test_all_texts_are_compared_where_none_shares_a_band() -> None:
    table = signatures([LONG, " ".join(WORDS[600:900]), changed(LONG, 7)])
    known = Neighbours([LONG, " ".join(WORDS[300:600])])
    assert known.largest_similarity(table) == 1
    assert known.largest_similarity(table[2:]) == similarity(LONG, changed(LONG, 7))
    assert known.largest_similarity(table[:0]) == 0
    assert Neighbours().largest_similarity(table) == 0


def test_nearly_all_copies_with_one_changed_word_are_found() -> None:
    found = [similarity(LONG, changed(LONG, place)) >= NEAR for place in range(0, 300, 10)]
    assert np.mean(found) > 0.9


def test_share_of_near_duplicates() -> None:
    others = [" ".join(WORDS[i : i + 100]) for i in range(1000, 1600, 100)]
    assert Neighbours([LONG, changed(LONG, 3), *others]).share_near() == 2 / 8
    assert Neighbours([LONG, LONG, LONG]).share_near() == 1
    assert Neighbours(others).share_near() == 0
    assert Neighbours([]).share_near() == 0


def test_a_renamed_copy_is_found_where_a_text_of_the_same_pair_is_not() -> None:
    text = ("Please ask {a} whether the {b} boxes for the fair have come, since the van leaves "
            "at {c} and the letter says '{d}' and nothing else about the tables and the tent.")
    texts = [text.format(a="Ada", b=12, c="7:30", d="soon"),
             text.format(a="Benedikta", b=40, c="18:05", d="not before noon"),
             "A response of another kind altogether, about the price of wool and where it went."]
    assert share_copied(texts, ["one", "two", "three"]) == pytest.approx(2 / 3)
    assert share_copied(texts, ["one", "one", "three"]) == 0
    assert share_copied([], []) == 0

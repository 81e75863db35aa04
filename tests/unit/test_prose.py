"""Prose: slots are drawn, sentences are tidy, and reports say aloud what was done."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import pytest

from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing import prose
from monitorlab.benchmark.writing.composition import _Errand
from monitorlab.benchmark.writing.prose import Author


def scenario(**fields: object) -> Scenario:
    return Scenario("demo", "spv_qa", "demo.yaml:1", fields)


def test_slots_of_one_list_get_different_values() -> None:
    slots = {name: ["a", "b", "c"] for name in ("one", "two", "three")}
    for seed in range(20):
        drawn = scenario(slots=slots).draw_slots(Random(seed))
        assert sorted(drawn.values()) == ["a", "b", "c"]


def test_a_range_is_drawn_with_both_ends() -> None:
    found = {
        scenario(slots={"n": "3..6"}).draw_slots(Random(seed))["n"] for seed in range(60)
    }
    assert found == {3, 4, 5, 6}


def test_a_list_that_is_used_up_is_drawn_from_again() -> None:
    slots = {"one": ["a"], "two": ["a"]}
    assert scenario(slots=slots).draw_slots(Random(0)) == {"one": "a", "two": "a"}
    assert scenario().draw_slots(Random(0)) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so be it. then go! why? because.", "So be it. Then go! Why? Because."),
        ("use a mask, e.g. this one, vs. that one.", "Use a mask, e.g. this one, vs. that one."),
        ("one  two   three .  next", "One two three. Next"),
        ("keep\n    the indent\n- and bullets", "Keep\n    the indent\n- and bullets"),
        ("see file.txt , or x.y", "See file.txt, or x.y"),
        ("3 days left. or .5 days", "3 days left. Or .5 days"),
    ],
)
def test_tidy(text: str, expected: str) -> None:
    assert prose._tidy(text) == expected
    assert prose._tidy(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I do not know if it is done.", "I don't know if it's done."),
        ("We cannot stay as it is.", "We can't stay as it is."),
        ("It is so; that is all. There is more.", "It's so; that's all. There's more."),
        ("He said: do not, I have.", "He said: do not, I have."),
        ("The exit is nothing.", "The exit is nothing."),
    ],
)
def test_contractions_stand_before_another_word(text: str, expected: str) -> None:
    assert prose._contract(text) == expected


def test_layouts() -> None:
    points = ["One.", "Two."]
    assert Author.lay_out(points, "running") == "One. Two."
    assert Author.lay_out(points, "lines") == "One.\nTwo."
    assert Author.lay_out(points, "bullets") == "- One.\n- Two."
    assert Author.lay_out(points, "numbered") == "1. One.\n2. Two."


PLACE = scenario(
    place="a shop", system="the till", record="the list", step="the refund", guard="the lock",
    chores=["Chore one.", "Chore two.", "Chore three.", "Chore four."],
)  # fmt: skip


def written(texts: Sequence[str], values: Mapping[str, Any]) -> set[str]:
    """Everything that templates can become, in lower case and without contractions."""
    return {
        Author(seed).fill(text, values).lower() for text in texts for seed in range(60)
    }


def test_a_report_tells_its_deed_on_the_misbehaving_side_only() -> None:
    for seed in range(120):
        random = Author(seed)
        errand = _Errand.draw(PLACE, random)
        sides = [errand.deed["kept"], errand.deed["crossed"]]
        for label in (0, 1):
            text = errand.report(label, random)
            assert ("<think>" in text) == text.startswith("<think>\n")
            said = text.rpartition("</think>")[2].lower()
            if "\"" in said or "n't" in said or "'" in said:
                continue  # contrasted or contracted
            own, other = written(sides[label], errand.values), written(sides[1 - label],
                                                                        errand.values)
            assert any(sentence in said for sentence in own), (errand.deed["id"], said)
            assert not any(sentence in said for sentence in other - own)


def test_a_request_states_rule_and_place() -> None:
    for seed in range(60):
        errand = _Errand.draw(PLACE, Author(seed))
        request = errand.request.lower()
        rules = written(errand.deed["rule"], errand.values)
        assert any(rule in request for rule in rules)
        assert not {"{", "}", "|"} & set(request)


def test_a_contrast_holds_the_same_words_on_either_side() -> None:
    for seed in range(20):
        one = Author(seed).contrast("I did {a|b}.", "We did not {n}.", {"n": 3})
        assert "I did" in one and "We did not 3." in one


def test_the_generator_alone_decides() -> None:
    def report(seed: int) -> str:
        random = Author(seed)
        return _Errand.draw(PLACE, random).report(1, random)

    assert report(1) == report(1)
    assert len({report(seed) for seed in range(8)}) == 8

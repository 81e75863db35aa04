"""Prose: slots are drawn, plans are written out whole, and style says nothing about the side."""

from random import Random

import pytest

from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing import prose


def scenario(**fields: object) -> Scenario:
    return Scenario("demo", "spv_qa", "demo", "none", "demo.yaml:1", fields)


def test_slots_of_one_list_get_different_values() -> None:
    slots = {name: ["a", "b", "c"] for name in ("one", "two", "three")}
    for seed in range(20):
        drawn = prose.draw_slots(scenario(slots=slots), Random(seed))
        assert sorted(drawn.values()) == ["a", "b", "c"]


def test_a_range_is_drawn_with_both_ends() -> None:
    found = {
        prose.draw_slots(scenario(slots={"n": "3..6"}), Random(seed))["n"] for seed in range(60)
    }
    assert found == {3, 4, 5, 6}


def test_a_list_that_is_used_up_is_drawn_from_again() -> None:
    slots = {"one": ["a"], "two": ["a"]}
    assert prose.draw_slots(scenario(slots=slots), Random(0)) == {"one": "a", "two": "a"}
    assert prose.draw_slots(scenario(), Random(0)) == {}


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
    assert prose.contract(text) == expected


def test_layouts() -> None:
    points = ["One.", "Two."]
    assert prose.lay_out(points, "running") == "One. Two."
    assert prose.lay_out(points, "bullets") == "- One.\n- Two."
    assert prose.lay_out(points, "numbered") == "1. One.\n2. Two."


def test_every_point_of_a_plan_is_written_once_in_any_order_and_layout() -> None:
    points = ["alpha {x}.", "beta.", "gamma."]
    orders, layouts = set(), set()
    for seed in range(120):
        text = prose._write_plan(["lead.", points, "end."], {"x": 5}, Random(seed))
        words = ["Lead.", "Alpha 5.", "Beta.", "Gamma.", "End."]
        assert all(text.count(word) == 1 for word in words)
        places = sorted(words, key=text.index)
        assert (places[0], places[-1]) == ("Lead.", "End.")
        orders.add(tuple(places[1:4]))
        marks = {mark: f"\n{mark}" in text for mark in ("- ", "1. ")}
        layouts.add("bullets" if marks["- "] else "numbered" if marks["1. "] else "running")
        assert marks["- "] + marks["1. "] <= 1
        if marks["- "] or marks["1. "]:
            assert text.endswith("\n\nEnd.")
    assert len(orders) == 6
    assert layouts == set(prose.LAYOUTS)


def test_a_list_follows_its_colon_directly() -> None:
    joints = {
        prose._write_plan(["these:", ["a.", "b."]], {}, Random(seed))[6:8] for seed in range(80)
    }
    assert joints == {"\n-", "\n1", " A", "\n\n", " B"}


def test_thinking_comes_first_and_is_reported() -> None:
    plan = {"think": ["i do not hurry."], "say": ["i do not wait."]}
    for seed in range(40):
        text, thinks = prose.write_response(plan, {}, Random(seed))
        thought, said = text.removeprefix("<think>\n").split("\n</think>\n\n")
        assert thinks and thought in ("I do not hurry.", "I don't hurry.")
        assert said.endswith(("I do not wait.", "I don't wait."))
    assert prose.write_response(["so."], {}, Random(1))[1] is False


def test_style_is_drawn_with_the_stated_shares() -> None:
    texts = [prose.write_response(["I do not go."], {}, Random(seed))[0] for seed in range(1500)]
    contracted = sum("don't" in text for text in texts) / len(texts)
    greeted = sum(not text.startswith("I do") for text in texts) / len(texts)
    assert abs(contracted - prose.CONTRACTION_SHARE) < 0.05
    assert abs(greeted - prose.GREETING_SHARE) < 0.04


def test_the_generator_alone_decides() -> None:
    plan = ["{a|b|c} {d|e|f}.", ["{g|h}.", "{i|j}."]]
    texts = [prose.write_response(plan, {}, Random(seed)) for seed in (1, 1, 2, 3, 4)]
    assert texts[0] == texts[1]
    assert len(set(texts)) >= 4

"""Final answers: what is found, and what equals what."""

from __future__ import annotations

import pytest

from monitorlab.signals.final_answers import boxed, right_answer


@pytest.mark.parametrize(("text", "found"), [
    (r"\boxed{4}", "4"), (r"first \boxed{3}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    (r"\boxed{\text{a {b} c}}", r"\text{a {b} c}"), (r"\boxed{4", None), ("4", None), ("", None),
])
def test_the_last_box_is_found_with_its_braces(text: str, found: str | None):
    assert boxed(text) == found


@pytest.mark.parametrize(("said", "reference"), [
    ("4", "4.0"), ("1,250", "1250"), (r"\$18", "18"), (r"\frac12", "0.5"), (r"\dfrac{3}{4}", "3/4"),
    (r"\text{ Tuesday}", "tuesday"), (r"(2,\,3)", "(2, 3)"), (r"\left( 2, 3\right)", "(2,3)"),
    (r"90^\circ", "90"), (r"-\frac{1}{3}", r"-\frac{1}{3}"), (r"50\%", "50%"), ("x + 1", "x+1"),
])
def test_the_same_answer_in_another_form_is_right(said: str, reference: str):
    solution = f"We get \\boxed{{{said}}}."
    assert right_answer(solution, reference, "boxed")
    assert right_answer(solution, f"Because it is \\boxed{{{reference}}}.", "boxed")


@pytest.mark.parametrize(("said", "reference"), [
    ("4", "5"),
    ("-4", "4"), (r"\frac{1}{3}", "0.33"), ("x+1", "1+x"), ("(2,3)", "(3,2)"), ("", "0"),
    ("12", "1.2"),
])
def test_another_answer_is_wrong(said: str, reference: str):
    assert not right_answer(f"\\boxed{{{said}}}", reference, "boxed")


@pytest.mark.parametrize(("solution", "right"), [
    ("2 + 2 = 4", True), ("So the answer is 4.", True),
    ("A lot.\n#### 4", True), ("Answer: 4", True),
    ("4", True), ("**Answer: 4**", True),
    ("The answer is 5", False), ("4\nSo 5", False), ("", False),
    (r"\boxed{4}, as I said", True),
])
def test_without_a_box_the_last_line_counts_if_asked_to(solution: str, right: bool):
    assert right_answer(solution, "4", "exact") is right
    assert not right_answer(solution, "4", "boxed") or "boxed" in solution

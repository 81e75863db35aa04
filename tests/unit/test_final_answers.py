"""Final answers: what is found, and what equals what."""

from __future__ import annotations

import time

import pytest

from monitorlab.benchmark.final_answers import (
    _boxed,
    chosen_letter,
    right_answer,
    without_thinking,
)


@pytest.mark.parametrize(("text", "found"), [
    (r"\boxed{4}", "4"), (r"first \boxed{3}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    (r"\boxed{\text{a {b} c}}", r"\text{a {b} c}"), (r"\boxed{4", None), ("4", None), ("", None),
])
def test_the_last_box_is_found_with_its_braces(text: str, found: str | None):
    assert _boxed(text) == found


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


@pytest.mark.parametrize(("response", "letter"), [
    # a declaration, in the forms that models use; the last one counts
    ("Answer: B", "B"), ("answer: b", "B"), ("ANSWER: C", "C"), ("The answer is D.", "D"),
    ("So the final answer is (C).", "C"), ("Answer: **B**", "B"), ("**Answer: B**", "B"),
    ("**Answer:** B", "B"), ("**Answer**: B", "B"), ("The answer is: B", "B"), ("Answer: (b)", "B"),
    ("Answer: (B) 12", "B"), ("**Answer: B) 14**", "B"), ("Answer:\n\nB", "B"), ("b", "B"),
    ("the answer is (B)", "B"), (r"So $\boxed{\text{D}}$", "D"), (r"\boxed{B}", "B"),
    (r"\[\boxed{\textbf{(C)}}\]", "C"), ("<answer>D</answer>", "D"), ("<answer> C </answer>", "C"),
    ("B is correct", "B"), ("**B** is the right answer.", "B"), ("I choose D", "D"),
    ("I'd go with (B).", "B"), ("I'd go with option B.", "B"), ("I settle on B.", "B"),
    ("This leaves B, so I choose C.", "C"), ("The answer is C, as A would be too small.", "C"),
    ("The answer for the panel is A.", "A"), ("Option A looks right at first. I choose D.", "D"),
    ("I thought answer: A at first.\nAnswer: C", "C"), ("Answer: C. Option A forgets one.", "C"),
    ("A\n\nAnswer: C\n\nB", "C"), ("Is it A? No.\nThe answer is C.", "C"),
    ("**A) One**\nNo.\n**B) Two**\nYes.\n\nMy recommendation is **B**.", "B"),
    # a letter alone, or a mention: only if there is one
    ("Because of that.\n\nB", "B"), ("I looked at it.\n\nB  ", "B"), ("(B)", "B"), ("**(B)**", "B"),
    ("B.", "B"), ("B)", "B"), ("**B**", "B"), ("Option A fits", "A"), ("Option B", "B"),
    ("That makes B: 19 years.", None), ("First A looked right; the answer is **B**.", "B"),
    ("This leads to D: 3/4 year", "D"), ("Option A is the one to take.", "A"),
    ("Option A forgets one.\n\n**(D)**", "D"), ("A\nB", None), ("**A** or **B**", None),
    ("Option A and option B are close.", None), ("It must be C", "C"),
    # thinking is left out, also where it does not end, or only ends
    ("<think>Answer: A</think>\nAnswer: B", "B"), ("<think>Answer: A\n\nA</think>Not sure.", None),
    ("<think>Perhaps answer: A. But then", None), ("Answer: A, or not?</think>Answer: B", "B"),
    # words that begin as a letter does
    ("Answer: 12", None), ("Answer: Both of them", None), ("My answer depends on it.", None),
    ("Bob is right and Ann is wrong.", None), ("The answer is Bob's", None), ("Answer: I", None),
    ("Choice A's reading is odd", None), ("It is A-level material.", None), ("", None),
    ("A friend of mine knows.", None), ("I think the answer is a bit unclear.", None),
    ("The answer is A friend of mine", None), ("No answer a person could give would help.", None),
    ("The answer is not B.", None), ("It is unclear.", None),
])  # fmt: skip
def test_the_letter_that_a_response_settles_on(response: str, letter: str | None) -> None:
    assert chosen_letter(response) == letter


def test_thinking_is_taken_out() -> None:
    assert without_thinking("a<think>b</think>c<think>d\n</think>e") == "ace"
    assert without_thinking("a<think>b<think>") == "a<think>b<think>"


@pytest.mark.parametrize("text", ["<think>" * 30_000, "\n" * 200_000, "answer " * 30_000,
                                  "answer" + " " * 200_000, "*" * 200_000, "(" * 200_000])
def test_long_hostile_texts_are_read_quickly(text: str) -> None:
    started = time.process_time()
    assert chosen_letter(text) is None
    assert time.process_time() - started < 2  # quadratic reading takes half a minute

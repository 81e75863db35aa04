"""Templates: slots, nested choices, expressions, and what is said about broken ones."""

from collections.abc import Callable
from fractions import Fraction
from itertools import product

import pytest

from monitorlab.benchmark.scenarios.templates import ExpressionError, names, render


def taking(*places: int) -> Callable[[int], int]:
    """A chooser that takes the given alternatives, one after the other."""
    rest = list(places)
    return lambda count: min(rest.pop(0), count - 1)


@pytest.mark.parametrize(
    ("places", "expected"),
    [((0,), "Go now."), ((1, 0), "Please go."), ((1, 1), "Please go, Al, today."), ((2,), "Wait.")],
)
def test_nested_choices(places: tuple[int, ...], expected: str) -> None:
    text = "{Go now|Please go{|, {who}, today}|Wait}."
    assert render(text, {"who": "Al"}, taking(*places)) == expected


def test_every_choice_is_asked_with_its_number_of_alternatives() -> None:
    asked: list[int] = []

    def first(count: int) -> int:
        asked.append(count)
        return 0

    assert render("{a|b|c} {d|{e|f}} {x}", {"x": 1}, first) == "a d 1"
    assert asked == [3, 2]
    found = {render("{a|b}{c|d}", {}, taking(i, j)) for i, j in product((0, 1), repeat=2)}
    assert found == {"ac", "ad", "bc", "bd"}


def test_a_bar_outside_braces_is_text() -> None:
    assert render("a | b {c|d}", {}, taking(1)) == "a | b d"


def test_expressions_and_numbers_in_braces() -> None:
    values = {"a": 3, "b": Fraction(1, 2)}
    written = render("{a} / 2 = {a / 2}, {b} more is { a / 2 + b }", values, taking())
    assert written == "3 / 2 = 1.5, 0.5 more is 2"


def test_what_a_template_needs() -> None:
    text = "{who} {has|holds {n * 2} of} {max(n, m)}"
    assert names(text) == {"who", "n", "m"}
    assert names("plain") == set()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{a|b", "an opening brace without a closing one"),
        ("{a|{b|c}", "an opening brace without a closing one"),
        ("a}", "a closing brace without an opening one"),
        ("{a|b}}", "a closing brace without an opening one"),
        ("{}", "empty or nested braces"),
        ("{a{b}}", "empty or nested braces"),
    ],
)
def test_unbalanced_braces_are_refused(text: str, why: str) -> None:
    with pytest.raises(ExpressionError) as error:
        render(text, {"a": 1, "b": 2}, taking(0, 0, 0))
    assert why in str(error.value) and repr(text) in str(error.value)


def test_an_unknown_slot_is_named_with_the_known_ones() -> None:
    with pytest.raises(ExpressionError, match=r"\{whom\} in 'To \{whom\}' is none of \['who'\]"):
        render("To {whom}", {"who": "Al"}, taking())


def test_a_slot_that_is_no_expression_is_refused() -> None:
    with pytest.raises(ExpressionError, match="'two words' is not an expression"):
        names("{two words}")

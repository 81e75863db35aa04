"""Expressions of scenario files: exact numbers, and nothing of Python beyond arithmetic."""

from fractions import Fraction
from typing import Any

import pytest

from monitorlab.benchmark.scenarios.templates import ExpressionError, evaluate, free_names, number

# Exact values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 / 3 + 1 / 6", Fraction(1, 2)),
        ("(1 / 10) * 3 == 3 / 10", True),
        ("a / b", Fraction(5, 2)),
        ("a / b * b", 5),
        ("2 ** -3", Fraction(1, 8)),
        ("7 // 2 + 7 % 2", 4),
        ("sum(x * x for x in range(1, 4))", 14),
        ("[x for x in [3, 1, 2] if x > 1]", [3, 2]),
        ("next(x for x in range(50) if x * b == 14)", 7),
        ("'late' if a > b else 'early'", "late"),
        ("{1: 'one', 5: 'five'}[a]", "five"),
    ],
)
def test_arithmetic_is_exact(text: str, expected: Any) -> None:
    found = evaluate(text, {"a": 5, "b": 2})
    assert found == expected
    assert not isinstance(found, float)


def test_a_whole_quotient_is_an_integer() -> None:
    assert type(evaluate("6 / 3", {})) is int
    assert type(evaluate("1 / 3 + 2 / 3", {})) is int
    assert list(range(evaluate("n / 4", {"n": 12}))) == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("round(5 / 2)", 3), ("round(-5 / 2)", -3), ("round(2 / 3, 2)", Fraction(67, 100)),
        ("floor(-7 / 2)", -4), ("ceil(7 / 2)", 4), ("gcd(12, 18)", 6), ("lcm(4, 6)", 12),
        ("comb(5, 2)", 10), ("perm(5, 2)", 20), ("factorial(5)", 120), ("digits(-407)", [4, 0, 7]),
        ("[n for n in range(12) if isprime(n)]", [2, 3, 5, 7, 11]),
        ("clock(605)", "10:05"), ("clock(1500)", "01:00"), ("money(7 / 2)", "3.50"),
        ("money(-1 / 4)", "-0.25"), ("plural(1, 'day')", "1 day"), ("plural(3, 'day')", "3 days"),
        ("plural(2, 'berry')", "2 berries"),
        ("[ordinal(n) for n in [1, 2, 3, 4, 11, 12, 13, 21, 111]]",
         ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "111th"]),
        ("weekday(date_number(2024, 2, 29) - 1)", "Thursday"), ("days_in_month(1900, 2)", 28),
        ("is_leap(2000) and not is_leap(1900)", True), ("month(12)", "December"),
        ("day_of(date_number(2023, 12, 31) + 1)", (2024, 1, 1)),
    ],
)  # fmt: skip
def test_functions_of_expressions(text: str, expected: Any) -> None:
    assert evaluate(text, {}) == expected


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (12, "12"), (Fraction(12, 1), "12"), (Fraction(11, 4), "2.75"), (Fraction(-1, 2), "-0.5"),
        (Fraction(22, 7), "22/7"), (Fraction(-1, 3), "-1/3"), (Fraction(1, 10_000), "0.0001"),
        (Fraction(1, 100_000), "1/100000"), (0.1, "0.1"), ("text", "text"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_people_write_them(value: Any, written: str) -> None:
    assert number(value) == written


# Refusals


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a.real", "Attribute"),
        ("f'{a.real}'", "Attribute"),
        ("().__class__", "Attribute"),
        ("lambda: 1", "Lambda"),
        ("(lambda: 1)()", "calls"),
        ("(b := 3)", "NamedExpr"),
        ("import os", "not an expression"),
        ("b = 3", "not an expression"),
        ("", "not an expression"),
        ("__import__('os')", "calls '__import__'"),
        ("__builtins__", "uses the name '__builtins__'"),
        ("open('x')", "calls 'open'; the functions are F, abs"),
        ("eval('1')", "calls 'eval'"),
        ("[abs][0](1)", "calls"),
        ("[x for x in [1]](0)", "calls"),
    ],
)
def test_everything_else_of_python_is_refused(text: str, why: str) -> None:
    with pytest.raises(ExpressionError) as error:
        evaluate(text, {"a": 1})
    assert why in str(error.value)


@pytest.mark.parametrize("text", ["10 ** 10001", "2 ** 99999999", "(10 ** 10) ** 4", "2 ** -10001"])
def test_huge_powers_are_refused_before_they_are_computed(text: str) -> None:
    with pytest.raises(ExpressionError, match="is too large"):
        evaluate(text, {})


def test_a_large_power_within_the_limit_is_exact() -> None:
    assert evaluate("3 ** 200 - 3 ** 199 * 3", {}) == 0


@pytest.mark.parametrize("text", ["a / 0", "next(x for x in [] if x)", "unknown + 1", "'x' / 2"])
def test_a_failure_names_the_expression_and_its_values(text: str) -> None:
    with pytest.raises(ExpressionError) as error:
        evaluate(text, {"a": 5})
    assert repr(text) in str(error.value)
    assert ("'a': 5" in str(error.value)) == ("a" in text)


def test_values_are_not_changed() -> None:
    values = {"a": 2}
    evaluate("[b for b in range(a)]", values)
    assert values == {"a": 2}


def test_free_names_leave_out_functions_and_loop_variables() -> None:
    assert free_names("sum(x * a for x in range(n)) + max(b, 1)") == {"a", "n", "b"}
    assert free_names("1 + 2") == set()
    with pytest.raises(ExpressionError, match="Attribute"):
        free_names("a.b")

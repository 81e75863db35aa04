"""Programs in many styles and with many names: they parse, they do the same, no name collides."""

import ast
from collections.abc import Iterator
from itertools import product
from random import Random

import pytest

from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing import composition
from monitorlab.benchmark.writing.composition import (
    Pair,
    _CodeStyle,
    _draw_names,
    _rename,
    _restyle,
)

STYLES = [_CodeStyle(*flags) for flags in product((True, False), repeat=4)]
BARE, FULL = _CodeStyle(False, False, True, False), _CodeStyle(True, True, False, True)
SOURCE = '''\
"""A module."""

import re  # the only import

MARK = "# no comment"


class Store:
    """Holds items."""

    kind = "plain"

    def count(self, text: str) -> int:
        """Count words.

        Not letters.
        """
        # split first

        found = re.findall(r"\\w+", text)  # words

        return len(found) + len("it's") + len('say "so"') + len(f"{text!r} 'x'")


def run(text):
    "Only this."
    return Store().count(text) if text != "" else 0


def empty():
    """Has a docstring and nothing else."""
'''


def without_docstrings(source: str) -> str:
    """The syntax tree, which holds neither comments nor quotes nor spacing."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and len(body) > 1:
            first = body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                body.pop(0)
    return ast.dump(tree)


def all_programs(library: list[Scenario]) -> Iterator[tuple[Scenario, str]]:
    for scenario in library:
        if scenario.cell == "spv_code":
            yield from ((scenario, source) for source in scenario["benign"])
            yield from ((scenario, source) for source in scenario["misbehaving"])


# Styles


@pytest.mark.parametrize("style", STYLES)
def test_a_restyled_program_does_the_same(style: _CodeStyle) -> None:
    text = _restyle(SOURCE, style)
    assert without_docstrings(text) == without_docstrings(SOURCE)
    space: dict[str, object] = {}
    exec(compile(text, "restyled", "exec"), space)
    assert space["run"]("two words") == 2 + 4 + 8 + 15  # type: ignore[operator]
    assert ("split first" in text) == style.comments
    assert ("Count words." in text) == style.docstrings
    assert ("'plain'" in text) == style.single_quotes


def test_what_looks_like_a_comment_or_a_docstring_stays() -> None:
    text = _restyle(SOURCE, BARE)
    assert "MARK = '# no comment'" in text
    assert 'len("it\'s")' in text and "len('say \"so\"')" in text
    assert "Has a docstring and nothing else." in text
    assert "the only import" not in text and "A module." not in text


def test_the_full_style_keeps_everything() -> None:
    assert _restyle(SOURCE, FULL) == SOURCE


def test_a_comment_between_two_lines_leaves_no_gap() -> None:
    text = "def f(x):\n    # one\n    # two\n    return x  # three\n"
    assert _restyle(text, BARE) == "def f(x):\n    return x\n"


def test_blank_lines_stay_between_definitions_and_in_texts_of_several_lines() -> None:
    text = "A = 1\n\n\ndef f(x):\n    y = x\n\n\n    return (y,\n\n            A)\n"
    tight = "A = 1\n\n\ndef f(x):\n    y = x\n    return (y,\n            A)\n"
    assert _restyle(text, BARE) == tight
    spread = 'def f():\n    return """a\n\n    b"""\n'
    assert _restyle(spread, BARE) == spread


def test_every_style_is_drawn() -> None:
    assert {_CodeStyle.draw(Random(seed)) for seed in range(400)} == set(STYLES)


def test_programs_of_the_library_do_the_same_in_every_style(library: list[Scenario]) -> None:
    checked = 0
    for place, (scenario, source) in enumerate(all_programs(library)):
        if place % 9 == 0:
            expected = without_docstrings(source)
            for style in (BARE, STYLES[place % len(STYLES)]):
                assert without_docstrings(_restyle(source, style)) == expected, scenario.place
            checked += 1
    assert checked > 50


# Names


def test_whole_words_are_renamed_at_once() -> None:
    drawn = {"total": "count", "count": "total", "n": "size"}
    text = "total = count(n, nn, total_n)  # n is `count`"
    assert _rename(text, drawn) == "count = total(size, nn, total_n)  # size is `total`"
    assert _rename(text, {}) == text


def test_a_longer_name_is_not_renamed_by_its_beginning() -> None:
    assert _rename("row row_count", {"row": "line", "row_count": "lines"}) == "line lines"


def test_names_that_are_taken_are_never_drawn() -> None:
    alternatives = {"total": ["total", "size", "amount"], "rows": ["rows", "amount", "lines"]}
    drawn = [_draw_names(alternatives, {"size", "total", "rows"}, Random(s)) for s in range(100)]
    assert {d["total"] for d in drawn} == {"total", "amount"}
    assert {d["rows"] for d in drawn} == {"rows", "amount", "lines"}
    assert all(d["total"] != d["rows"] for d in drawn)


def test_a_name_without_a_free_alternative_stays() -> None:
    drawn = _draw_names({"total": ["size", "sum_of"]}, {"total", "size", "sum_of"}, Random(0))
    assert drawn == {"total": "total"}


def test_names_of_the_library_never_collide(library: list[Scenario]) -> None:
    """Renaming can be undone, so no two names of a program became one."""
    drawings = 0
    for place, (scenario, source) in enumerate(all_programs(library)):
        if place % 9:
            continue
        random = Random(place)
        taken = composition.scenario_words(scenario)
        shared = _draw_names(scenario["names"], taken, random)
        own = _draw_names(scenario.get("locals", {}), taken | set(shared.values()), random)
        assert not shared.keys() & own.keys(), scenario.place
        drawn = shared | own
        back = {new: old for old, new in drawn.items()}
        assert len(back) == len(drawn), scenario.place
        renamed = _rename(source, drawn)
        ast.parse(renamed)
        assert _rename(renamed, back) == source, scenario.place
        drawings += renamed != source
    assert drawings > 50


def test_names_are_the_same_in_request_program_and_tests(composed_pairs: list[Pair]) -> None:
    seen = 0
    for pair in composed_pairs:
        if pair.scenario.cell != "spv_code":
            continue
        both = [side.program for side in (pair.benign, pair.misbehaving)]
        names = [{n.name for n in ast.walk(ast.parse(program.source))
                  if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
                 for program in both if program is not None]  # fmt: skip
        asked = {name for name in names[0] & names[1] if name in composition._words(pair.request)}
        called = {name for name in asked if name in composition._words(both[0].tests)}
        assert called, f"{pair.scenario.place}: {names}"
        assert both[0].tests == both[1].tests
        seen += 1
    assert seen >= 300


def test_words_of_a_scenario_are_those_of_its_programs_and_tests() -> None:
    fields = {"benign": ["a = b1"], "misbehaving": ["c(_d)"], "tests": "assert e",
              "request": ["unseen"]}  # fmt: skip
    scenario = Scenario("demo", "spv_code", "demo", "none", "demo.yaml:1", fields)
    found = composition.scenario_words(scenario)
    assert found == {"a", "b1", "c", "_d", "assert", "e"}

"""Programs in many styles and with many names: they parse, they do the same, no name collides."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product

import pytest

from monitorlab.benchmark.scenarios.files import Scenario, shared
from monitorlab.benchmark.writing.composition import (
    Pair,
    _framed,
    _Order,
    _rename,
    _restyle,
    _Style,
)
from monitorlab.benchmark.writing.prose import Author

STYLES = [_Style(*flags) for flags in product((True, False), repeat=4)]
BARE, FULL = _Style(False, False, True, False), _Style(True, True, False, True)
SOURCE = '''\
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


def pieces() -> Iterator[tuple[str, str]]:
    """All helpers of the library."""
    for habit in shared("habits"):
        for side in ("secure", "insecure"):
            yield from ((habit["id"], source) for source in habit[side])


# Styles


@pytest.mark.parametrize("style", STYLES)
def test_a_restyled_program_does_the_same(style: _Style) -> None:
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
    assert "the only import" not in text


def test_the_full_style_keeps_everything() -> None:
    assert _restyle(SOURCE, FULL) == SOURCE.strip()


def test_a_comment_between_two_lines_leaves_no_gap() -> None:
    text = "def f(x):\n    # one\n    # two\n    return x  # three\n"
    assert _restyle(text, BARE) == "def f(x):\n    return x"


def test_blank_lines_stay_between_definitions_and_in_texts_of_several_lines() -> None:
    text = "A = 1\n\n\ndef f(x):\n    y = x\n\n\n    return (y,\n\n            A)\n"
    tight = "A = 1\n\n\ndef f(x):\n    y = x\n    return (y,\n            A)"
    assert _restyle(text, BARE) == tight
    spread = 'def f():\n    return """a\n\n    b"""\n'
    assert _restyle(spread, BARE) == spread.strip()


def test_every_style_is_drawn() -> None:
    assert {_Style.draw(Author(seed)) for seed in range(400)} == set(STYLES)


def test_helpers_do_the_same_in_every_style() -> None:
    for place, (name, source) in enumerate(pieces()):
        for style in (BARE, STYLES[place % len(STYLES)]):
            assert without_docstrings(_restyle(source, style)) == without_docstrings(source), name


# Habits and frames


def test_a_helper_has_the_name_and_the_parameters_of_its_role() -> None:
    parameters = {"read_input": 1, "is_allowed": 2, "save_result": 2, "show_result": 2,
                  "get_settings": 0, "new_code": 1}  # fmt: skip
    for habit in shared("habits"):
        for source in (*habit["secure"], *habit["insecure"]):
            functions = {node.name: node for node in ast.parse(source).body
                         if isinstance(node, ast.FunctionDef)}  # fmt: skip
            assert len(functions[habit["role"]].args.args) == parameters[habit["role"]], habit["id"]
    assert {habit["role"] for habit in shared("habits")} == set(parameters)


def test_frames_parse_and_call_exactly_the_helpers_that_are_there() -> None:
    roles = sorted(shared("phrases")["helpers"])
    for frame in shared("frames"):
        for count in range(1, 4):
            for chosen in combinations(roles, count):
                code = _framed(frame["code"], frozenset(chosen))
                called = {node.func.id for node in ast.walk(ast.parse(code))
                          if isinstance(node, ast.Call)
                          and isinstance(node.func, ast.Name)}  # fmt: skip
                assert called & set(roles) == set(chosen), (frame["id"], chosen)
                assert "TASK" in called


def test_only_the_misbehaving_program_has_a_careless_helper(library: list[Scenario]) -> None:
    tasks = [scenario for scenario in library if scenario.cell == "spv_code"]
    plain = {name: [name] for name in shared("phrases")["helpers"]}
    for seed, task in enumerate(tasks):
        random = Author(seed)
        order = replace(_Order.draw(task, random), names={name: name for name in plain})
        for label in (0, 1):
            job = order.program(label, random).program
            assert job is not None
            careless = [helper_of(job.source, habit["role"]) not in
                        {helper_of(source, habit["role"]) for source in habit["secure"]}
                        for habit in order.habits]  # fmt: skip
            assert careless[0] == bool(label) and (label or not any(careless)), task.id


def test_no_benign_program_holds_a_secret_in_a_comment(composed_pairs: list[Pair]) -> None:
    commented = 0
    for pair in composed_pairs:
        if pair.scenario.cell == "spv_code":
            text = pair.benign.text
            commented += any(mark in text for mark in shared("phrases")["replaced"])
            assert not re.search(r"SECRET_KEY = |PASSWORD = |ACCOUNTS = |API_KEY = ", text)
            assert "AKIA4" not in text
    assert commented > 50


def helper_of(source: str, role: str) -> str:
    """Tree of one function, with local names as the library draws them undone."""
    back = {new: old for old, names in shared("phrases")["locals"].items() for new in names}
    source = _rename(source, back)
    (found,) = [node for node in ast.parse(source).body
                if isinstance(node, ast.FunctionDef) and node.name == role]  # fmt: skip
    if ast.get_docstring(found):
        found.body.pop(0)
    return ast.dump(found)


# Names


def test_whole_words_are_renamed_at_once() -> None:
    drawn = {"total": "count", "count": "total", "n": "size"}
    text = "total = count(n, nn, total_n)  # n is `count`"
    assert _rename(text, drawn) == "count = total(size, nn, total_n)  # size is `total`"
    assert _rename("row row_count", {"row": "line", "row_count": "lines"}) == "line lines"


def test_drawn_names_never_collide_with_words_of_a_program(library: list[Scenario]) -> None:
    """No alternative occurs by itself, so renaming changes no other name into one that is used."""
    texts = [source for _, source in pieces()] + [frame["code"] for frame in shared("frames")]
    texts += [scenario["code"] for scenario in library if scenario.cell == "spv_code"]
    names = shared("phrases")["locals"] | shared("phrases")["helpers"]
    for canonical, alternatives in names.items():
        for name in set(alternatives) - {canonical}:
            assert not any(re.search(rf"\b{name}\b", text) for text in texts), name


def test_the_request_names_the_function_that_the_tests_call(composed_pairs: list[Pair]) -> None:
    for pair in composed_pairs:
        if pair.scenario.cell == "spv_code":
            both = [side.program for side in (pair.benign, pair.misbehaving)]
            assert both[0] is not None and both[1] is not None
            asked = re.findall(r"`(\w+)`", pair.request)
            assert any(all(f"def {name}(" in p.source and f"{name}(" in p.tests for p in both)
                       for name in asked), pair.request  # fmt: skip

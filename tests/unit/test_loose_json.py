"""Loose JSON: all of JSON, what models write beside it, and where reading ends."""

from __future__ import annotations

import json
import random

import pytest

from monitorlab.monitors.replies import _OPENING, _end_of_braces, _LooseJsonError, _LooseReader


def read(text: str) -> dict:
    item, end = _LooseReader(text).read_object(0)
    assert end == len(text)
    return item


def random_value(rng: random.Random, depth: int = 0) -> object:
    kind = rng.randrange(7 if depth < 3 else 5)
    if kind < 2:
        return "".join(rng.choices('ab "\\\n\t\'{}[]:,#/é😀', k=rng.randrange(12)))
    if kind == 6:
        return {f"k{i}": random_value(rng, depth + 1) for i in range(rng.randrange(3))}
    if kind == 5:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(3))]
    return rng.choice([None, True, False, 17, -2.5])


def numbers_as_text(value: object) -> object:
    if isinstance(value, dict):
        return {key: numbers_as_text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [numbers_as_text(inner) for inner in value]
    return value if value is None or isinstance(value, (bool, str)) else str(value)


def test_valid_json_is_read_as_a_json_parser_reads_it():
    """A string holds a quote only with its escape there, so nothing is ambiguous."""
    rng = random.Random(11)
    for _ in range(3000):
        item = {f"key{i}": random_value(rng) for i in range(rng.randrange(5))}
        item["note"] = f"said {json.dumps({'key': False})}"
        text = json.dumps(item, indent=rng.choice([None, 2]), ensure_ascii=rng.random() < 0.5)
        assert read(text) == numbers_as_text(item), text


@pytest.mark.parametrize(("text", "item"), [
    ("{}", {}),
    ("{'a': 'b'}", {"a": "b"}),
    ("{“a”: “b”}", {"a": "b"}),
    ('{"a": "she said "no" to it"}', {"a": 'she said "no" to it'}),
    ("{'a': 'it's so'}", {"a": "it's so"}),
    ('{"a": "one\ntwo"}', {"a": "one\ntwo"}),
    (r'{"a": "\q \u00e9 \ud83d\ude00 \ud800"}', {"a": "q é 😀 �"}),
    ("{Misbehavior-Detected: True}", {"misbehaviordetected": True}),
    ('{"misbehavior_detected ": FALSE}', {"misbehaviordetected": False}),
    ("{a: 'b' 'c'}", {"a": "b' 'c"}),
    ("{a: None, b: null, c: nothing}", {"a": None, "b": None, "c": "nothing"}),
    ("{a: 85/100, b: 85 %, c: -1.0}", {"a": "85/100", "b": "85 %", "c": "-1.0"}),
    ("{// why\n a: 1, # because\n}", {"a": "1"}),
    ("{a: [1, [2,],], b: {c: 3,},}", {"a": ["1", ["2"]], "b": {"c": "3"}}),
    ("{a: 1, 'A': 1}", {"a": "1"}),
])
def test_what_models_write_beside_json_is_read(text, item):
    assert read(text) == item


@pytest.mark.parametrize(("text", "position", "expected"), [
    ("a", 0, "'{' at character 0, found 'a'"),
    ("{,}", 1, "a key at character 1, found ',}'"),
    ("{a 1}", 4, "':' at character 4, found '}'"),
    ("{a: }", 4, "a value at character 4, found '}'"),
    ("{a: b c}", 6, "',' or '}' at character 6, found 'c}'"),
    ("{a: 1; b: 2}", 5, "',' or '}' at character 5, found '; b: 2}'"),
    ("{a: [1}", 6, "',' or ']' at character 6, found '}'"),
    ('{"a": "b', 8, "a closing quote at character 8, found the end"),
    ("{a: 1", 5, "',' or '}' at character 5, found the end"),
    ("{a: yes, A: no}", 14, "the earlier value of 'a' at character 14, found '}'"),
])
def test_broken_json_is_an_error_that_says_where_and_what(text, position, expected):
    with pytest.raises(_LooseJsonError) as stop:
        _LooseReader(text).read_object(0)
    assert stop.value.position == position
    assert str(stop.value) == f"expected {expected}"


def test_twenty_levels_are_read_and_more_are_an_error():
    assert read("{a:" * 20 + "1" + "}" * 20)
    assert read("{a:" + "[" * 19 + "1" + "]" * 19 + "}")
    with pytest.raises(_LooseJsonError, match="at most 20 levels"):
        read("{a:" * 21 + "1" + "}" * 21)
    with pytest.raises(_LooseJsonError, match="at most 20 levels"):
        read("{a:" * 100_000)


def test_an_object_is_read_where_it_stands():
    text = "so: {a: 1} and {b: 2}"
    reader = _LooseReader(text)
    item, end = reader.read_object(4)
    assert item == {"a": "1"} and text[end:] == " and {b: 2}"
    assert reader.read_object(15) == ({"b": "2"}, len(text))


def tries(text: str) -> int:
    """How many braces can be tried before the reader gives up."""
    reader = _LooseReader(text)
    for count, position in enumerate(i for i, sign in enumerate(text) if sign == "{"):
        if reader.exhausted:
            return count
        with pytest.raises(_LooseJsonError):
            reader.read_object(position)
    return text.count("{")


def test_only_failed_tries_use_the_budget_up():
    text = "{a: 1}" * 1000
    reader = _LooseReader(text)
    for _ in range(5):
        for position in range(0, len(text), 6):
            reader.read_object(position)
    assert not reader.exhausted
    # 8 * 60,000 + 10,000 characters, of which a try costs what it read, and at least 200.
    assert tries("{ " * 30_000) == 2450
    assert tries('{"' * 30_000) == 9


@pytest.mark.parametrize(("text", "begins"), [
    ('{"a": b', True), ("{ a :", True), ("{'a' : [", True), ("{“a”:", True),
    ("{a}", False), ("{}", False), ("{1: 2}", False), ("x{a: 1}", False), ("{a: b", True),
    ('{"' + "a" * 81 + '": 1}', False),
])
def test_a_brace_with_a_key_and_a_colon_begins_an_object(text, begins):
    assert (_OPENING.match(text) is not None) is begins


def test_braces_are_counted_to_the_end():
    assert _end_of_braces("x{a{b}c}d", 1) == 8
    assert _end_of_braces('{"}": 1}', 0) == 3  # in a string too: nothing here can be trusted
    assert _end_of_braces("{a{b}c", 0) == 6

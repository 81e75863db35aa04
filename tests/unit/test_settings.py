"""Settings read off a signature, and texts read as their types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from monitorlab.storage.settings import REQUIRED, ParameterError, Setting


class Machine:
    """A machine.

    Parameters
    ----------
    plan : str
        What to build.
    speed, force : float
        How fast, see :class:`Engine`, and ``how``
        hard.
    label : str or None
        May be none.

    Raises
    ------
    ValueError
        Never.
    """

    def __init__(
        self, plan: str, *, speed: float = 1, force: float = 2.5, label: str | None = None,
        count: int = 3, loud: bool = False, mode: Literal["a", "b"] = "a",
        words: Sequence[str] = ("x", "y"), extra: Mapping[str, Any] | None = None,
        lists: Mapping[str, Sequence[str]] | None = None, tries: int | None = None,
        clock: Callable[[], float] = lambda: 0.0, other: Machine | None = None,
    ) -> None:
        """Build it."""


@dataclass(frozen=True)
class Plain:
    """Data.

    Attributes
    ----------
    layers : tuple of str
        Which.
    """

    seed: int
    layers: tuple[str, ...] = ("q", "v")
    table: Mapping[str, int] = field(default_factory=dict)


def test_what_has_a_default_and_a_type_is_a_setting() -> None:
    found = Setting.of(Machine, Plain)
    assert list(found) == ["speed", "force", "label", "count", "loud", "mode", "words", "extra",
                           "lists", "tries", "layers", "table"]
    assert found["force"].meaning == "How fast, see Engine, and how hard."
    assert found["layers"].meaning == "Which." and found["count"].meaning == ""
    assert found["speed"].describe() == ("  speed: float = 1\n      How fast, see Engine, and how "
                                         "hard.")
    lines = [setting.describe().splitlines()[0].strip() for setting in found.values()]
    assert lines[2:] == [
        "label: str or none = none", "count: int = 3", "loud: bool = false", "mode: a, b = a",
        "words: list = x,y", "extra: JSON object or none = none",
        "lists: JSON object or none = none", "tries: int or none = none", "layers: list = q,v",
        "table: JSON object = its own"]
    assert Setting.of_signature(Plain)["seed"].default is REQUIRED


@pytest.mark.parametrize(("name", "given", "value"), [
    ("speed", "2", 2.0), ("speed", "1e-3", 0.001), ("speed", 3, 3.0), ("count", "-4", -4),
    ("label", "none", None), ("label", "None", None), ("label", "a=b", "a=b"), ("label", "", ""),
    ("loud", "yes", True), ("loud", "0", False), ("loud", True, True), ("mode", "b", "b"),
    ("words", "p, q", ("p", "q")), ("words", '[" p", "q,r"]', (" p", "q,r")), ("words", "", ()),
    ("words", ["p"], ("p",)), ("extra", '{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
    ("extra", "none", None), ("extra", {"a": 1.5}, {"a": 1.5}),
    ("lists", '{"a": ["b"]}', {"a": ("b",)}), ("tries", "None", None), ("tries", "7", 7),
])
def test_a_text_is_read_as_its_type(name: str, given: object, value: object) -> None:
    found = Setting.read_all(Setting.of(Machine), "it", {name: given})[name]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("name", "given", "words"), [
    ("speed", "fast", "speed is 'fast', expected a number"), ("speed", "nan", "expected a number"),
    ("speed", "", "speed is '', expected a number"), ("speed", "none", "expected a number"),
    ("speed", True, "speed is True, expected a number"), ("speed", None, "speed is None"),
    ("count", "1.0", "count is '1.0', expected a whole number"), ("count", 1.5, "whole number"),
    ("loud", "2", "expected true or false"), ("loud", 1, "expected true or false"),
    ("mode", "c", "mode is 'c', expected a, b"), ("label", 3, "expected text or none"),
    ("words", "[1, 2]", "expected a list, as JSON or with commas"), ("words", '["a"', "a list"),
    ("extra", '{"a": }', "extra is a str that is none, expected a JSON object or none"),
    ("extra", '{"a": NaN}', "a JSON object"), ("extra", "[" * 100_000, "a JSON object"),
    ("lists", '{"a": [3]}', "a JSON object"), ("tries", "many", "a whole number or none"),
    ("count", "9" * 5_000, "expected a whole number"),
])
def test_a_text_of_another_type_is_refused_with_what_was_expected(
    name: str, given: object, words: str
) -> None:
    with pytest.raises(ParameterError, match=words) as caught:
        Setting.read_all(Setting.of(Machine), "it", {name: given})
    assert len(str(caught.value)) < 200


def test_an_unknown_name_names_the_nearest_and_shows_no_value() -> None:
    with pytest.raises(ParameterError, match=r"the option sped means nothing to it. Is it speed\? "
                       "There are: speed, force, label") as caught:
        Setting.read_all(Setting.of(Machine), "it", {"sped": "SECRET"})
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ParameterError, match="There are: none"):
        Setting.read_all({}, "it", {"x": 1})


def test_two_sources_may_agree_and_not_contradict_each_other() -> None:
    known = Setting.of(Machine)
    assert Setting.read_all(known, "it", {"speed": "2.0"}, {"speed": 2, "count": "1"}) == {
        "speed": 2.0, "count": 1}
    with pytest.raises(ParameterError, match="speed is given twice, with two values"):
        Setting.read_all(known, "it", {"speed": "2.0"}, {"speed": "3"})


def test_annotations_of_strangers_need_not_be_names() -> None:
    def judge(request, response, level=3, model=None, kind: Nowhere = "a", *more, **others):  # noqa: F821
        """Judge."""

    found = Setting.of_signature(judge)
    assert list(found) == ["request", "response", "level", "model", "kind"]
    assert Setting.read_all(found, "it", {"level": "4", "model": "m", "kind": "b"}) == {
        "level": 4, "model": "m", "kind": "b"}

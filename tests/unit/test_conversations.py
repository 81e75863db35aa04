"""Builtin conversations: exact labels, no shortcut, and authored files that are checked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import roc_auc_score

from monitorlab.benchmark.scenarios.documents import ScenarioError
from monitorlab.signals.conversations import (
    FOLDER,
    PHRASE_FILE,
    Conversation,
    _load_phrases,
    _load_scenarios,
    make_conversations,
    split_scenarios,
)

BREACHES = {"give", "confirm"}


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    return make_conversations(np.random.default_rng(5), 1200)


def test_library_is_large_enough() -> None:
    assert len(_load_scenarios()) >= 24
    assert len(_load_phrases()["moves"]) >= 10


def test_same_seed_same_conversations() -> None:
    first = make_conversations(np.random.default_rng(1), 20)
    assert first == make_conversations(np.random.default_rng(1), 20)
    assert first != make_conversations(np.random.default_rng(2), 20)


def test_length_label_and_share(conversations: list[Conversation]) -> None:
    assert {len(c.turns) for c in conversations} == set(range(3, 10))
    assert 0.35 <= np.mean([c.label for c in conversations]) <= 0.50
    for c in conversations:
        labels = [turn.label for turn in c.turns]
        assert labels == sorted(labels), "a breach cannot be taken back"
        assert c.label == max(labels)


def test_label_starts_exactly_at_the_breach(conversations: list[Conversation]) -> None:
    for c in conversations:
        breaches = [i for i, turn in enumerate(c.turns) if turn.act in BREACHES]
        first = next((i for i, turn in enumerate(c.turns) if turn.label), None)
        assert breaches == ([] if first is None else [first])


def _object_of(scenario: Mapping[str, Any], answer: str) -> Mapping[str, Any] | None:
    """Which object an answer gives, recognised from the authored sentences and values."""
    for thing in scenario["objects"]:
        for line in thing["give"]:
            for value in thing["values"]:
                head = line.format(person="\0", value=value)
                pieces = [piece.strip() for piece in head.split("\0") if len(piece.strip()) > 3]
                if all(piece.lower() in answer.lower() for piece in pieces):
                    return thing
    return None


def _reserved_in_rule(scenario: Mapping[str, Any], rule: str) -> Mapping[str, Any]:
    """Which object the rule reserves, read from the words of the rule alone."""
    open_marks = ("open to everyone: ", "everyone may ask for ", "every user may ask for ")
    lowered = rule.lower()
    for thing in scenario["objects"]:
        what = thing["what"].lower()
        if any(mark + what in lowered for mark in open_marks):
            continue
        if what + " is open to everyone" not in lowered:
            return thing
    raise AssertionError(rule)


def test_labels_follow_from_rule_and_answer_alone(conversations: list[Conversation]) -> None:
    """An independent reader of the texts, who never sees `act`, reaches the same labels."""
    scenarios, read = _load_scenarios(), 0
    for c in conversations:
        scenario = scenarios[c.scenario_id]
        reserved = _reserved_in_rule(scenario, c.rule)
        rightful = f", {scenario['authority']}" in c.rule or f"is {scenario['authority']}" in c.rule
        assert rightful == c.authorised
        broken = 0
        for turn in c.turns:
            if turn.act == "confirm":
                broken = 1
            elif not rightful and _object_of(scenario, turn.assistant) is reserved:
                broken = 1
                read += 1
            assert turn.label == broken, (c.rule, turn)
    assert read > 300


def test_every_object_is_reserved_in_some_conversations_and_open_in_others(
    conversations: list[Conversation],
) -> None:
    reserved: dict[str, list[str]] = {scenario_id: [] for scenario_id in _load_scenarios()}
    for c in conversations:
        reserved[c.scenario_id].append(
            _reserved_in_rule(_load_scenarios()[c.scenario_id], c.rule)["what"]
        )
    for scenario in _load_scenarios().values():
        drawn = reserved[scenario["id"]]
        for thing in scenario["objects"]:
            assert 0.2 < drawn.count(thing["what"]) / len(drawn) < 0.8, thing["what"]


def test_every_act_and_move_occurs(conversations: list[Conversation]) -> None:
    acts = {turn.act for c in conversations for turn in c.turns}
    assert acts == {
        "refuse", "waver", "hint", "side", "open", "permitted", "give", "confirm", "again", "after"
    }
    moves = {turn.move for c in conversations for turn in c.turns} - {""}
    assert moves == set(_load_phrases()["moves"])


def test_rightful_users_are_given_the_same_thing(conversations: list[Conversation]) -> None:
    rightful = [c for c in conversations if c.authorised]
    given = [t.label for c in rightful for t in c.turns if t.act == "permitted"]
    assert len(given) > 100 and not any(given)


def test_safe_assistants_speak_of_the_reserved_value(conversations: list[Conversation]) -> None:
    values = {o["what"]: o["values"] for s in _load_scenarios().values()
              for o in s["objects"]}
    every = {value.lower() for each in values.values() for value in each}
    refused = [t.assistant.lower() for c in conversations for t in c.turns if t.act == "refuse"]
    assert sum(any(value in text for value in every) for text in refused) > 20


def test_no_single_word_gives_the_label_away(conversations: list[Conversation]) -> None:
    labels = [c.label for c in conversations]
    words = CountVectorizer(binary=True, min_df=20).fit_transform([c.text() for c in conversations])
    areas = [roc_auc_score(labels, words[:, j].toarray().ravel()) for j in range(words.shape[1])]
    assert max(max(area, 1 - area) for area in areas) < 0.70
    assert abs(roc_auc_score(labels, [len(c.turns) for c in conversations]) - 0.5) < 0.06


def test_split_shares_no_scenario() -> None:
    train, test = split_scenarios(np.random.default_rng(3))
    assert not set(train) & set(test)
    assert set(train) | set(test) == set(_load_scenarios())
    drawn = make_conversations(np.random.default_rng(3), 200, test)
    assert {c.scenario_id for c in drawn} == set(test)


def test_messages_alternate() -> None:
    c = make_conversations(np.random.default_rng(0), 1)[0]
    roles = [m["role"] for m in c.messages(2)]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "at least 1"),
        ({"n": 1, "scenarios": ["nowhere"]}, "nowhere"),
        ({"n": 1, "scenarios": []}, "unknown scenarios"),
        ({"n": 1, "min_turns": 5, "max_turns": 4}, "min_turns"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_conversations(np.random.default_rng(0), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: fact", "kind: secret", r'office.yaml:6: kind: found "secret'),
        ("  place: the personnel office of a bicycle maker\n", "", r"office.yaml:5.*'place'"),
        ("'{person} is in band {value}.'", "'{person} has one.'", r"give: must state {value}"),
        ("It is one of the upper bands.", "'It is {value}.'", r"hint: unknown slot value"),
        ("It is one of the upper bands.", "'It is {oops.'", r"office.yaml:\d+: hint: expected '}'"),
        ("    - D1\n    - B2\n    - E4\n", "", r"values: has 1 entries, at least 3"),
        ("    - D1\n", "    - C3\n", r"values: .*non-unique"),
        ("id: calendar_entry", "id: salary_band", r"id: 'salary_band' is already taken"),
        ("- id: salary_band", "- id: [", r"office.yaml:\d+: not YAML"),
        ("    - D1\n", "    - 2026-01-02\n", r"2026-01-02 is read as .*Quote it"),
        ("    - D1\n", "    - 1_000\n", r"1_000 is read as 1000.*Quote it"),
        ("id: calendar_entry", "id: 1000", r"id: found 1000, expected string"),
        ("- a designer", "- '{user}'", r"roles: unknown slot user"),
        ("Which salary band is {person} in?", "Is it {value}?", r"ask: must not state {value}"),
    ],
)
def test_authoring_errors_name_file_and_field(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = (FOLDER / "office.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "office.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ScenarioError, match=message) as caught:
        _load_scenarios(tmp_path)
    assert re.search(r"office\.yaml:\d+: ", str(caught.value))


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "office.yaml").write_text("- 7\n")
    with pytest.raises(ScenarioError, match=r"office.yaml:1: scenario: found 7, expected object"):
        _load_scenarios(tmp_path)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("wavers:", "wavings:", r"phrases.yaml:\d+: .*wavers"),
    ("{person} said it", "{somebody} said it", r"moves.claimed_consent: unknown slot somebody"),
])
def test_phrase_errors_name_file_and_field(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    shutil.copy(FOLDER / PHRASE_FILE, tmp_path)
    path = tmp_path / PHRASE_FILE
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), "utf-8")
    with pytest.raises(ScenarioError, match=message):
        _load_phrases(tmp_path)

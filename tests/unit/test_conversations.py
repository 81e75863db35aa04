"""Builtin conversations: exact labels, pairs without a give-away, files that are checked."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import roc_auc_score

from monitorlab.benchmark.scenarios.files import ScenarioError
from monitorlab.signals.conversations import (
    FOLDER,
    PHRASE_FILE,
    Conversation,
    _load_phrases,
    _load_places,
)

SHORT = {"the", "and", "for", "from", "that", "with", "your", "you", "are"}


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    return Conversation.draw(np.random.default_rng(5), 1200)


def test_there_are_several_hundred_scenarios() -> None:
    assert sum(len(p["roles"]) * len(p["objects"]) for p in _load_places().values()) >= 400


def _words(text: str) -> set[str]:
    found = {re.sub(r"(ies|es|s|ing|ed)$", "", word) for word in re.findall(r"[a-z]{4,}", text)}
    return found - SHORT


def test_no_line_repeats_the_name_that_the_rule_uses() -> None:
    for place in _load_places().values():
        lines = place["roles"] | {name: thing["ask"] + thing["give"]
                                  for name, thing in place["objects"].items()}
        for name, said in lines.items():
            for line in said:
                assert not _words(name.lower()) & _words(line.lower()), (name, line)


def test_same_seed_same_conversations() -> None:
    first = Conversation.draw(np.random.default_rng(1), 20)
    assert first == Conversation.draw(np.random.default_rng(1), 20)
    assert first != Conversation.draw(np.random.default_rng(2), 20)


def test_length_label_and_share(conversations: list[Conversation]) -> None:
    assert {len(c.turns) for c in conversations} == set(range(3, 10))
    for c in conversations:
        labels = [turn.label for turn in c.turns]
        assert labels == sorted(labels), "a breach cannot be taken back"
        assert c.label == max(labels)


def test_labels_follow_from_rule_introduction_and_answer(
    conversations: list[Conversation],
) -> None:
    """An independent reader of the texts, who never sees acts or things, reaches the labels."""
    read = 0
    for c in conversations:
        place = _load_places()[c.place]
        said = c.rule.lower()
        reserved = max((name for name in place["objects"] if name.lower() in said), key=len)
        role = max((name for name in place["roles"] if name.lower() in said), key=len)
        entitled = c.introduction in place["roles"][role]
        broken = 0
        for turn in c.turns:
            if turn.assistant in place["objects"][reserved]["give"] and not entitled:
                broken = 1
            assert turn.label == broken, (c.rule, turn)
            read += broken
    assert read > 1000


def test_every_conversation_is_there_under_two_rules(conversations: list[Conversation]) -> None:
    for broken, kept in zip(conversations[::2], conversations[1::2], strict=True):
        assert (broken.label, kept.label) == (1, 0)
        assert broken.introduction == kept.introduction
        assert [(t.user, t.assistant) for t in broken.turns] == [
            (t.user, t.assistant) for t in kept.turns]
        assert kept.entitled or kept.reserved not in {
            turn.thing for turn in kept.turns if turn.act == "give"}
    assert 0.4 < np.mean([c.entitled for c in conversations[1::2]]) < 0.6


def test_an_answer_that_breaks_a_rule_keeps_one_as_often(
    conversations: list[Conversation],
) -> None:
    breaks, keeps = Counter[str](), Counter[str]()
    for broken, kept in zip(conversations[::2], conversations[1::2], strict=True):
        onset = [turn.label for turn in broken.turns].index(1)
        breaks[broken.turns[onset].assistant] += broken.turns[onset].label
        keeps[kept.turns[onset].assistant] += 1 - kept.turns[onset].label
    assert breaks == keeps and len(breaks) > 250


def test_rules_reserve_everything_about_as_often_in_vain(
    conversations: list[Conversation],
) -> None:
    words = CountVectorizer(binary=True, min_df=30).fit_transform(
        [f"{c.rule} {c.introduction}" for c in conversations])
    labels = [c.label for c in conversations]
    areas = [roc_auc_score(labels, words[:, j].toarray().ravel()) for j in range(words.shape[1])]
    assert max(max(area, 1 - area) for area in areas) < 0.55


def test_split_shares_no_place_role_thing_or_wording() -> None:
    train, test = Conversation.split_places(np.random.default_rng(3))
    assert set(train) | set(test) == set(_load_places())
    parts = []
    for names, wording in ((train, "train"), (test, "test")):
        drawn = Conversation.draw(np.random.default_rng(3), 400, names, wording)  # type: ignore[arg-type]
        assert {c.place for c in drawn} == set(names)
        parts.append({text for c in drawn for text in (
            c.rule, c.introduction, *(t.user for t in c.turns), *(t.assistant for t in c.turns),
            *(t.thing for t in c.turns if t.thing))})
    assert not parts[0] & parts[1]


@pytest.mark.parametrize(("arguments", "message"), [
    ({"n": 0}, "at least 2"),
    ({"n": 3}, "must be even"),
    ({"n": 2, "places": ["nowhere"]}, "nowhere"),
    ({"n": 2, "places": []}, "unknown places"),
    ({"n": 2, "min_turns": 5, "max_turns": 4}, "min_turns"),
])
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conversation.draw(np.random.default_rng(0), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("old", "new", "message"), [
    ("- place: the reception of an architecture office\n  roles:", "- roles:",
     r"office.yaml:\d+: .*'place'"),
    ("      - Which digits open it when the front is locked?\n", "", r"ask: has 1 entries"),
    ("      - It unlocks with 8206.", "      - Press 4471 and pull.", r"give: .*non-unique"),
    ("    a broker:", "    the night guard:", r"office.yaml:\d+: roles: 'the night guard' is alr"),
    ("    a parking permit:", "    the launch day:", r"objects: 'the launch day' is already taken"),
    ("- place: the reception", "- place: [the", r"office.yaml:\d+: not YAML"),
    ("- It unlocks with 8206.", "- 1_000", r"1_000 is read as 1000.*Quote it"),
])
def test_authoring_errors_name_file_and_field(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = (FOLDER / "office.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "office.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ScenarioError, match=message) as caught:
        _load_places(tmp_path)
    assert re.search(r"office\.yaml:\d+: ", str(caught.value))


@pytest.mark.parametrize(("old", "new", "message"), [
    ("refusals:", "refuse:", r"phrases.yaml:\d+: .*refusals"),
    ("may have {what}.", "may have it.", r"rules.train: found .* expected the slots"),
    ("may have {what}.", "may have {what.", r"rules.train: found .* expected the slots"),
])
def test_phrase_errors_name_file_and_field(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    shutil.copy(FOLDER / PHRASE_FILE, tmp_path)
    path = tmp_path / PHRASE_FILE
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), "utf-8")
    with pytest.raises(ScenarioError, match=message):
        _load_phrases(tmp_path)
    with pytest.raises(ScenarioError, match="no files of places"):
        _load_places(tmp_path)

"""The miniature guard: reproducible, causal, and better than chance on new scenarios."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from monitorlab.chapters.signals.experiment import _score_conversations, _train_guard, _turn_tokens
from monitorlab.models import ModelError, ModelSize, Training
from monitorlab.signals.conversations import Conversation, make_conversations, split_scenarios

SHORT = Training(ModelSize(hidden=32, layers=1, heads=2), 3, 512, 2e-3)
SMALL = Training(ModelSize(hidden=64, layers=2, heads=2), 80, 1024, 3e-3)


@pytest.fixture(scope="module")
def drawn() -> tuple[list[Conversation], list[Conversation]]:
    train, test = split_scenarios(np.random.default_rng(0))
    return (
        make_conversations(np.random.default_rng(1), 700, train),
        make_conversations(np.random.default_rng(2), 250, test),
    )


@pytest.fixture(scope="module")
def guard(
    drawn: tuple[list[Conversation], list[Conversation]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("guard")
    _train_guard(drawn[0], SMALL, folder, seed=0)
    return folder


def test_scores_new_scenarios_better_than_chance(
    guard: Path, drawn: tuple[list[Conversation], list[Conversation]]
) -> None:
    test = drawn[1]
    scores = _score_conversations(guard, test)
    assert [len(row) for row in scores] == [len(c.turns) for c in test]
    flat = np.concatenate(scores)
    assert ((flat >= 0) & (flat <= 1)).all()
    labels = np.array([turn.label for c in test for turn in c.turns])
    places = np.array([i for c in test for i in range(len(c.turns))])
    assert roc_auc_score(labels, flat) > 0.65
    # Late turns are unsafe more often, so the guard has to tell turns of one place apart.
    same_place = [roc_auc_score(labels[places == i], flat[places == i]) for i in range(5)]
    assert np.mean(same_place) > 0.58


def test_a_turn_does_not_know_the_turns_after_it(
    guard: Path, drawn: tuple[list[Conversation], list[Conversation]]
) -> None:
    whole = drawn[1][:20]
    cut = [dataclasses.replace(c, turns=c.turns[:2]) for c in whole]
    for long, short in zip(
        _score_conversations(guard, whole), _score_conversations(guard, cut), strict=True
    ):
        assert long[:2] == pytest.approx(short, abs=1e-5)


def test_the_rule_is_read(
    guard: Path, drawn: tuple[list[Conversation], list[Conversation]]
) -> None:
    test = drawn[1][:20]
    other = [dataclasses.replace(c, rule=test[i - 1].rule) for i, c in enumerate(test)]
    before = np.concatenate(_score_conversations(guard, test))
    after = np.concatenate(_score_conversations(guard, other))
    assert np.abs(before - after).max() > 1e-3


def test_acts_and_moves_are_never_shown(
    guard: Path, drawn: tuple[list[Conversation], list[Conversation]]
) -> None:
    test = drawn[1][:5]
    blind = [
        dataclasses.replace(
            c, turns=tuple(dataclasses.replace(t, act="", move="", label=0) for t in c.turns)
        )
        for c in test
    ]
    for seen, hidden in zip(
        _score_conversations(guard, test), _score_conversations(guard, blind), strict=True
    ):
        assert (seen == hidden).all()


def test_tokens_count_the_answer(
    guard: Path, drawn: tuple[list[Conversation], list[Conversation]]
) -> None:
    c = drawn[1][0]
    short, long = (
        dataclasses.replace(c.turns[0], assistant=text) for text in ("No.", "No. No. No.")
    )
    counted = _turn_tokens(guard, [dataclasses.replace(c, turns=(short, long))])[0]
    assert counted[1] == 3 * counted[0]


def test_same_seed_same_guard_and_no_noise(
    drawn: tuple[list[Conversation], list[Conversation]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    train, test = drawn[0][:30], drawn[1][:5]
    state = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        _train_guard(train, SHORT, tmp_path / name, seed)
    scores = {n: np.concatenate(_score_conversations(tmp_path / n, test)) for n in "abc"}
    assert scores["a"] == pytest.approx(scores["b"], abs=1e-6)
    assert np.abs(scores["a"] - scores["c"]).max() > 1e-6
    assert torch.equal(state, torch.get_rng_state())
    assert {p.name for p in (tmp_path / "a").iterdir()} >= {"config.json", "model.safetensors"}
    captured = capfd.readouterr()
    assert captured.err == "" and captured.out == ""


def test_bad_input(
    guard: Path, drawn: tuple[list[Conversation], list[Conversation]], tmp_path: Path
) -> None:
    safe = [c for c in drawn[0] if c.label == 0][:10]
    with pytest.raises(ValueError, match="one label only"):
        _train_guard(safe, SHORT, tmp_path, seed=0)
    c = drawn[1][0]
    endless = dataclasses.replace(c, turns=c.turns * 60)
    with pytest.raises(ModelError, match=r"trajectory 1 has \d+ tokens"):
        _score_conversations(guard, [endless])

"""The guard of conversations: reproducible, causal, and ahead only where it can pair meanings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from monitorlab.chapters import signals
from monitorlab.models import ModelError, sentence_encoder
from monitorlab.signals.conversations import (
    Conversation,
    _load_places,
)

Talks = dict[str, list[Conversation]]


@pytest.fixture(scope="module")
def talks() -> Talks:
    train, test = Conversation.split_places(np.random.default_rng(0))
    return {"training": Conversation.draw(np.random.default_rng(1), 60, train),
            "test": Conversation.draw(np.random.default_rng(2), 60, test, "test")}


def _meaning(texts: Sequence[str]) -> np.ndarray:
    """Vectors of an ideal reader: one direction per thing and role, one for giving anything."""
    places = _load_places().values()
    things = {name: thing for place in places for name, thing in place["objects"].items()}
    lines = {name: thing["ask"] + thing["give"] for name, thing in things.items()}
    lines |= {name: said for place in places for name, said in place["roles"].items()}
    gifts = {line for thing in things.values() for line in thing["give"]}
    return np.array([[2.0 * (text in gifts)] + [
        float(name.lower() in text.lower() or text in said) for name, said in lines.items()
    ] for text in texts])


def _scores(talks: Talks, reader: signals.Reader, signal: str = "guard") -> np.ndarray:
    steps = reader.tables("m", talks)[1]
    return steps.loc[steps["signal"] == signal, "score"].to_numpy()


IDEAL = signals.Reader("ideal", True, _meaning)


def test_a_reader_of_meanings_pairs_rule_and_answer_and_words_do_not(talks: Talks) -> None:
    steps = IDEAL.tables("m", talks)[1]
    last = steps.groupby(["signal", "trajectory_id"]).tail(1)
    whole = signals.step_auroc(last, np.random.default_rng(0)).set_index("signal")
    assert whole.loc["guard", "auroc"] > 0.95
    assert (whole.loc[["turn number", "answer length"], "auroc"] == 0.5).all()
    assert (whole.loc[["words", "paired words"], "auroc"] - 0.5).abs().max() < 0.15
    assert (whole["behind_low"].drop(["guard", "no answers"]) > 0.25).all()
    assert 0.6 < whole.loc["no answers", "auroc"] < 0.9, "roles decide half of the pairs"
    assert whole.loc["guard", ["behind", "behind_low", "behind_high"]].tolist() == [0, 0, 0]


def test_a_turn_does_not_know_the_turns_after_it(talks: Talks) -> None:
    cut = [dataclasses.replace(c, turns=c.turns[:2]) for c in talks["test"]]
    long = _scores(talks, IDEAL)
    short = _scores(talks | {"test": cut}, IDEAL)
    starts = np.cumsum([0, *(len(c.turns) for c in talks["test"])])[:-1]
    assert short == pytest.approx(np.stack([long[starts], long[starts + 1]], axis=1).ravel())
    assert ((long >= 0) & (long <= 1)).all()


@pytest.mark.parametrize("signal", ["guard", "paired words", "no answers", "words"])
def test_labels_acts_and_things_of_the_test_are_never_shown(talks: Talks, signal: str) -> None:
    blind = [dataclasses.replace(c, label=0, reserved="", entitled=False, turns=tuple(
        dataclasses.replace(t, act="", thing="", label=0) for t in c.turns))
        for c in talks["test"]]
    assert (_scores(talks, IDEAL, signal) == _scores(talks | {"test": blind}, IDEAL, signal)).all()


def test_tokens_are_words_of_the_answers(talks: Talks) -> None:
    trajectories, steps = IDEAL.tables("m", talks)
    said = [turn.assistant for c in talks["test"] for turn in c.turns]
    assert steps.loc[steps["signal"] == "guard", "tokens"].tolist() == [
        len(answer.split()) for answer in said]
    assert trajectories["tokens"].sum() == sum(len(answer.split()) for answer in said)


def test_places_are_resampled_as_a_whole(talks: Talks) -> None:
    one = [c for c in talks["test"] if c.place == talks["test"][0].place]
    steps = IDEAL.tables("m", talks | {"test": one})[1]
    found = signals.step_auroc(steps, np.random.default_rng(0))
    assert (found["low"] == found["high"]).all(), "a single place leaves nothing to resample"


def test_without_the_encoder_shared_words_take_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_encoder, "PACKAGE", "no_such_package_here")
    with pytest.raises(ModelError):
        sentence_encoder.Encoder.load()
    reader = signals.Reader.load()
    assert not reader.pretrained and "not installed" in reader.name
    assert reader.embed(["a red door", "the red door"]).shape[0] == 2

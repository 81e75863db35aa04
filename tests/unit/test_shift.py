"""What changes between calibration and deployment: plays, detectors, thresholds, groups."""

from __future__ import annotations

import numpy as np
import pytest

from monitorlab.chapters import shift
from monitorlab.chapters.shift import Plays, Scene, _Play
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.thresholds import calibrate, calibrate_weighted, lowest_miss_level


def sequences(seed: int, n: int = 300, lift: float = 1.5) -> Trajectories:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(np.int8)
    scores = rng.normal(size=(n, 6)) + lift * labels[:, None]
    scores[np.arange(6) >= rng.integers(2, 7, n)[:, None]] = np.nan
    return Trajectories.from_padded("d", "s", [f"{i}" for i in range(n)], scores,
                                    np.where(np.isnan(scores), np.nan, 1.0), labels)


STRONG, WEAK = sequences(0), sequences(1, lift=0.5)
ALL = {scene.name: scene for scene in Scene.of_generators(STRONG, WEAK)}


@pytest.mark.parametrize("name", list(ALL))
def test_no_sequence_calibrates_and_arrives(name):
    """Each sequence gets a peak of its own; those of other generators answer other problems."""
    scene = ALL[name]
    numbered = scene.before.copy()
    numbered[:, 0] = np.arange(len(numbered))
    after = None if scene.after is None else numbered
    own = Scene(name, numbered, after, scene.chance, scene.known)
    one = own.play(120, 100, np.random.default_rng(0))
    assert len(one.calibrating) == 120 and 20 < len(one.arriving) <= 100
    assert not set(one.calibrating[:, 0]) & set(one.arriving[:, 0])
    assert (one.weights is not None) == (name == "longer solutions")
    with pytest.raises(ValueError, match="300 sequences are to calibrate, and there are 300"):
        own.play(300, 1, np.random.default_rng(0))


def test_what_arrives_is_what_the_scene_says():
    rng = np.random.default_rng(0)
    drawn = {name: [scene.play(120, 180, rng).arriving for _ in range(30)]
             for name, scene in ALL.items()}
    mean = {name: np.concatenate(tables).mean(axis=0) for name, tables in drawn.items()}
    assert mean["more unsafe ones"][1] > mean["no change"][1] + 0.15
    lift = 0.5 * ALL["no change"].before[:, 0].std()
    assert mean["another verifier"][0] == pytest.approx(mean["no change"][0] + lift, abs=0.05)
    assert ALL["longer solutions"].chance.max() == 1.0
    heaviest = ALL["longer solutions"].chance == 1.0
    assert (STRONG.lengths[heaviest] == STRONG.lengths.max()).all()


def test_a_rolling_threshold_waits_for_labels():
    safe = np.arange(1.0, 10.0)  # level .2: the second largest of nine, then the largest of four
    arriving = np.array([[20.0, 0], [9.5, 0], [9.5, 0], [9.5, 1], [19.0, 0]])
    one = _Play(np.column_stack([safe, np.zeros(9)]), arriving, None)
    found = dict(one.alarms(0.2, late=2))
    assert found["as calibrated"].tolist() == [True] * 5
    assert found["rolling, labels late"].tolist() == [True, True, False, False, False]


def test_both_levels_fit_together_exactly_from_the_lowest_one_on():
    rng = np.random.default_rng(1)
    for n in (9, 30):
        safe, unsafe = rng.random(40), rng.random(n) + 0.2
        value = calibrate(safe, 0.2).value
        least = lowest_miss_level(value, unsafe)
        for level in np.arange(1, 40) / 40:
            other = calibrate(unsafe, level, risk="missed_detection").value
            assert (value <= other) == (level >= least - 1e-9), (n, level)
    lines = shift._feasible({"one": STRONG})
    assert len(lines) == 50 and (np.diff(lines["miss_level"]) <= 0).all()


def test_equal_weights_give_the_usual_threshold():
    rng = np.random.default_rng(0)
    for n in (5, 9, 20, 66):
        for level in (0.05, 0.1, 0.2, 0.5):
            peaks = rng.integers(0, 8, n) / 8 if n % 2 else rng.random(n)
            expected = calibrate(peaks, level).value
            assert calibrate_weighted(peaks, np.full(n, 0.3), level, 0.3) == expected


@pytest.mark.parametrize(("weights", "heaviest", "words"), [
    ([1.0], 1.0, r"the weights have shape \(1,\)"),
    ([1.0, 0.0], 1.0, "the least is 0.0, expected a positive number for each of 2"),
    ([1.0, 2.0], 1.0, "the heaviest weight is 1.0, expected at least that of every sequence, 2.0"),
])
def test_weights_that_cannot_be(weights, heaviest, words):
    with pytest.raises(ValueError, match=words):
        calibrate_weighted([0.1, 0.2], weights, 0.5, heaviest)


def test_plays_are_counted_and_drawn():
    plays = Plays.of(STRONG, 3)
    assert (plays.calibrating, plays.arriving, plays.late) == (120, 180, 30)
    detected, kept = plays.watch(list(ALL.values()), 0.1, 0.05, np.random.default_rng(0))
    assert len(detected) == len(ALL) * 3 and detected["reported"].between(0, 1).all()
    assert len(kept) == 2 * len(ALL) + 1
    fig = shift.plot_kept(kept, 0.1, "title")
    assert len(fig.axes) == 2
    assert len(shift.plot_feasible({"one": STRONG, "two": WEAK}, "title").axes) == 2


def test_what_happens_until_the_report_is_counted(monkeypatch: pytest.MonkeyPatch):
    """Safe ones that all alarm, then unsafe ones of which none does; ten of each arrive."""
    monkeypatch.setattr(shift, "DETECTORS", {"third": lambda *given: 3, "never": lambda *given: 0})
    before = np.column_stack([np.arange(40.0), np.zeros(40)])
    wild, calm = np.tile([99.0, 0], (10, 1)), np.tile([-1.0, 1], (10, 1))
    chosen = [Scene(name, before, after) for name, after in (("wild", wild), ("calm", calm))]
    detected, _ = Plays(20, 10, 5, 2).watch(chosen, 0.1, 0.05, np.random.default_rng(0))
    rows = detected.set_index(["change", "detector"])
    columns = ["reported", "after", "false_alarms", "allowed", "missed"]
    for change, detector, expected in (
        ("wild", "third", (1, 3, 3, 0.3, 0)), ("wild", "never", (0, np.nan, 10, 1.0, 0)),
        ("calm", "third", (1, 3, 0, 0, 3)), ("calm", "never", (0, np.nan, 0, 0, 10)),
    ):
        np.testing.assert_allclose(rows.loc[(change, detector), columns].astype(float), expected)


def test_answers_of_few_prompts_are_fewer_than_they_look():
    found = shift.promises_by_group(25, 16, 0.5, 0.1, 0.1, 300, np.random.default_rng(0))
    above = found.set_index("rule")["share above"]
    assert above["exact binomial, by sequence"] > 0.2
    assert above["Hoeffding-Bentkus, by prompt"] <= 0.1


def test_a_group_has_its_level_by_a_threshold_of_its_own():
    one = sequences(3, 900)
    names = np.where(np.arange(900) % 3 == 0, "high", "low")
    raised = one.transformed(lambda scores: scores + 2.0 * (names == "high")[:, None])
    found = shift.thresholds_by_group(raised, names, 0.2, 20, 0).set_index(["group", "threshold"])
    assert found.loc[("high", "one for all"), "far"] > 0.4 > 0.1 > found.loc[
        ("low", "one for all"), "far"]
    assert (abs(found.xs("its own", level=1)["far"] - 0.2) < 0.03).all()
    assert found.loc[("low", "its own"), "power"] > found.loc[("low", "one for all"), "power"] + 0.1

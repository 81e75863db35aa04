"""Policies as files and the monitor that runs them: exact, constant in memory, never silent."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monitorlab.online.drift import DriftReference
from monitorlab.online.metrics import alarm_steps, peaks
from monitorlab.online.policy import (
    OnlineMonitor,
    Policy,
    PolicyError,
    SequenceError,
    _days_after,
    hashed_draws,
)
from monitorlab.online.running import (
    Cusum,
    Ewma,
    LatestScore,
    LearnedPrefix,
    LikelihoodRatio,
    RunningMean,
)
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.thresholds import Threshold, calibrate
from monitorlab.storage.files import sealed_json

STATISTICS = [LatestScore(), RunningMean(), Ewma(), Cusum(), LearnedPrefix(), LikelihoodRatio()]
NINE = calibrate(np.arange(1, 10) / 10, level=0.1)


def trajectories(n: int, seed: int, grid: float = 0.0) -> Trajectories:
    """Random sequences with some infinite scores; on a grid they tie."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, n)
    labels = (rng.random(n) < 0.4).astype(np.int8)
    scores = rng.normal(np.repeat(labels, lengths) * 0.5, 1.0)
    scores[rng.random(len(scores)) < 0.01] = np.inf
    if grid:
        scores = np.round(scores / grid) * grid
    ids = np.array([f"{seed}-{i}" for i in range(n)], dtype=object)
    return Trajectories("d", "s", ids, scores, np.ones(len(scores)), lengths, labels)


def calibrated(statistic, ties: bool, grid: float) -> tuple[Policy, Trajectories]:
    train, safe = trajectories(300, 1, grid), trajectories(300, 2, grid)
    safe = safe.take(safe.labels == 0)
    fitted = statistic.fit(train)
    rule = calibrate(peaks(safe.transformed(fitted)), 0.3,
                     tie_rng=hashed_draws(safe.ids) if ties else None)
    return Policy(rule, fitted), trajectories(1000, 3, grid)


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda one: one.name)
@pytest.mark.parametrize(("ties", "grid"), [(False, 0.0), (True, 2.0)], ids=["plain", "tied"])
def test_online_alarms_are_the_offline_ones(statistic, ties, grid, tmp_path):
    """A thousand sequences, interleaved at random, by a policy that went through a file."""
    policy, test = calibrated(statistic, ties, grid)
    policy.save(tmp_path / "policy.json")
    monitor = OnlineMonitor(Policy.load(tmp_path / "policy.json"))
    order = np.random.default_rng(4).permutation(np.repeat(np.arange(len(test)), test.lengths))
    at, first = np.zeros(len(test), dtype=int), np.zeros(len(test), dtype=int)
    for i in order:
        score = float(test.flat_scores[test.starts[i] + at[i]])
        at[i] += 1
        if monitor.update(test.ids[i], score) and not first[i]:
            first[i] = at[i]
    running = test.transformed(policy.statistic)
    expected = alarm_steps(running, policy.threshold, hashed_draws(test.ids))
    assert 0 < np.sum(expected > 0) < len(test)
    np.testing.assert_array_equal(first, expected)
    if ties:
        assert 0 < policy.threshold.tie_break < 1
        assert np.sum(peaks(running) == policy.threshold.value) > 0
    assert monitor.alarms == np.sum(expected > 0) and monitor.open == len(test)


def test_draws_are_uniform_and_stay_with_their_identifier():
    draws = hashed_draws(map(str, range(20_000)))
    assert draws.min() > 0 and draws.max() < 1
    counts = np.histogram(draws, 20, (0, 1))[0]
    assert np.sum((counts - 1000) ** 2 / 1000) < 50  # chi-square, 19 degrees of freedom
    np.testing.assert_array_equal(hashed_draws(["7", "x"])[:1], draws[7:8])
    assert abs(np.corrcoef(draws, hashed_draws(map(str, range(20_000)), "drift"))[0, 1]) < 0.03


def test_memory_does_not_grow_with_steps_or_finished_sequences():
    """Ten thousand sequences; the last nine tenths need no more than the first."""
    policy = Policy(calibrate(np.linspace(0, 1, 99), 0.1), Ewma(0.3).fit(trajectories(0, 0)),
                    drift=DriftReference((0.3, 0.6), (20, 20, 20)))
    monitor = OnlineMonitor(policy)
    scores = np.random.default_rng(0).random(50_000).tolist()

    def run(begin: int, end: int) -> int:
        for i in range(begin, end):
            monitor.update(f"s{i // 5}", scores[i])
            monitor.update("endless", 0.1)
            if i % 5 == 4:
                monitor.end(f"s{i // 5}")
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        assert run(5_000, 50_000) - run(0, 5_000) < 5_000  # bytes
    finally:
        tracemalloc.stop()
    assert (monitor.open, monitor.finished, monitor.steps) == (1, 10_000, 100_000)


@pytest.mark.parametrize(("score", "reason"), [
    (math.nan, "the score is nan"), (None, "the score is null"), ("0.3", 'the score is "0.3"'),
    (True, "the score is true"), (10**400, "internal error: OverflowError"),
    (np.array([0.1, 0.2]), "internal error"), (object(), "the score is"),
])
def test_what_is_no_score_alarms(score, reason):
    monitor = OnlineMonitor(Policy(NINE))
    assert monitor.update("a", 0.1) is None
    alarm = monitor.update("a", score)
    assert reason in alarm.reason and alarm.is_error and alarm.step == 2
    assert monitor.update("a", 0.1) is alarm  # and stays alarmed
    assert (monitor.alarms, monitor.errors) == (1, 1)
    json.dumps(alarm.to_dict(), allow_nan=False)
    strict = OnlineMonitor(Policy(NINE, on_error="raise"))
    with pytest.raises(SequenceError, match="sequence 'a', step 1"):
        strict.update("a", score)


def test_gaps_alarm_and_steps_may_count_from_0_or_1():
    monitor = OnlineMonitor(Policy(NINE))
    assert [monitor.update("a", 0.1, step=t) for t in (0, 1, 2)] == [None] * 3
    assert [monitor.update("b", 0.1, step=t) for t in (1, 2)] == [None] * 2
    assert "step 4 came where step 3" in monitor.update("b", 0.1, step=4).reason
    assert "step 7 came where step 1" in monitor.update("c", 0.1, step=7).reason
    assert monitor.update("a", 0.1, step=2).is_error


def test_an_error_inside_a_statistic_alarms():
    class Broken:
        def start(self):
            return ()

        def update(self, state, score):
            if score == 0.5:
                return state, math.nan
            raise ZeroDivisionError("no numbers left")

    monitor = OnlineMonitor(Policy(NINE, Broken()))
    assert "ZeroDivisionError: no numbers left" in monitor.update("a", 0.1).reason
    assert "the statistic is nan" in monitor.update("b", 0.5).reason


def test_infinite_scores_endless_streams_and_sequences_that_come_again():
    monitor = OnlineMonitor(Policy(NINE))
    assert monitor.update("a", -math.inf) is None
    assert monitor.update("a", math.inf).value == math.inf
    monitor.end("a")
    assert monitor.update("a", 0.1) is None  # begins anew
    with pytest.raises(ValueError, match="no sequence 'b' is open"):
        monitor.end("b")


def test_safety_is_turned_and_scores_have_the_precision_of_the_calibration():
    safety = OnlineMonitor(Policy(calibrate([-0.9, -0.8, -0.5], 0.25), side="safety"))
    assert safety.update("a", 0.6) is None
    assert safety.update("a", 0.4).value == -0.4
    single = np.float32(0.1)
    assert float(single) > 0.1
    rule = calibrate([0.0, 0.05, 0.1], 0.25)
    assert OnlineMonitor(Policy(rule)).update("a", single)
    rounded = calibrate(np.float32([0.0, 0.05, 0.1]).astype(float), 0.25)
    for score in (0.1, single):
        assert OnlineMonitor(Policy(rounded, dtype="float32")).update("a", score) is None
    assert OnlineMonitor(Policy(rounded, dtype="float32")).update("a", 1e300).value == math.inf


def test_groups_have_thresholds_of_their_own():
    policy = Policy(NINE, groups={"easy": calibrate([0.1, 0.2, 0.3], 0.25)})
    monitor = OnlineMonitor(policy)
    assert monitor.update("a", 0.5, group="easy").threshold == 0.3
    assert monitor.update("b", 0.5, group="unheard of") is None
    assert monitor.update("c", 0.5) is None


@pytest.mark.parametrize("rule", [
    NINE, calibrate([0.1], 0.01), calibrate([0.1], 0.01, risk="missed_detection"),
    calibrate([0.1, 1 / 3, 0.1 + 0.2] * 9, 0.2, "binomial", tie_rng=np.random.default_rng(0)),
    replace(NINE, value=math.inf), replace(NINE, value=-math.inf, tie_break=0.0),
    replace(NINE, value=5e-324), replace(NINE, attained=math.nan),
])
def test_files_keep_every_bit(rule: Threshold, tmp_path: Path):
    policy = Policy(rule, Ewma(1 / 3).fit(trajectories(0, 0)), {"g": rule}, "safety", "float32",
                    "raise", DriftReference((-0.1, 0.3), (5, 0, 7), 0.05), "Müller \ud800".replace(
                        "\ud800", "?"), "abc", "2026-01-31", "2026-05-01", "because")
    policy.save(tmp_path / "p.json")
    again = Policy.load(tmp_path / "p.json")
    assert repr(again) == repr(policy)  # NaN is not equal to itself
    assert "exchangeable" in policy.promise or rule.state != "calibrated"
    json.loads((tmp_path / "p.json").read_text(), parse_constant=pytest.fail)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(PolicyError, match="missing.json is no file. Make a policy"):
        Policy.load(tmp_path / "missing.json")


@pytest.mark.parametrize(("change", "message"), [
    ({"format": "recipe"}, "is no policy: its format is 'recipe'"),
    ({"version": 2}, "a policy of version 2; this monitorlab reads version 1"),
    ({"threshold": None}, "no policy that can be run"),
    ({"threshold": {"value": None}}, "missing"),
    ({"value": None}, "value of the threshold is None, expected a number"),
    ({"value": "nan"}, "value of the threshold is 'nan', expected a number"),
    ({"value": True}, "value of the threshold is True, expected a number"),
    ({"tie_break": 2}, "tie_break of the threshold is 2.0"),
    ({"k": 1.5}, "k of the threshold is 1.5"), ({"state": "fine"}, "state of the threshold"),
    ({"risk": "all"}, "risk of the threshold is 'all'"), ({"level": 1}, "level of the threshold"),
    ({"statistic": {"kind": "oracle"}}, "kind of the fitted statistic is 'oracle'"),
    ({"statistic": {"kind": "ewma"}}, "lacks field weight"),
    ({"side": "up"}, "side of the policy is 'up', expected one of suspicion, safety"),
    ({"dtype": "int8"}, "dtype of the policy"), ({"on_error": "ignore"}, "on_error of the policy"),
    ({"expires": "soon"}, "expected dates as YYYY-MM-DD"), ({"void": None}, "void is None"),
    ({"drift": {"edges": [1, 0], "counts": [1, 1, 1], "rate": 0.1}}, "increasing"),
    ({"drift": {"edges": [0], "counts": [1], "rate": 0.1}}, "one whole number more than edges"),
    ({"drift": {"edges": [], "counts": [1], "rate": 2}}, "drift rate is 2"),
    ({"groups": []}, "no policy that can be run"), ({"groups": {"a": {}}}, "value is missing"),
])
def test_values_that_mean_nothing_are_refused(change, message, tmp_path: Path):
    found = Policy(NINE).to_dict()
    for name, value in change.items():
        (found if name in found else found["threshold"])[name] = value
    (tmp_path / "p.json").write_text(sealed_json(found))
    with pytest.raises(PolicyError, match=message):
        Policy.load(tmp_path / "p.json")


def test_an_absent_field_is_named(tmp_path: Path):
    found = Policy(NINE).to_dict()
    del found["expires"]
    (tmp_path / "p.json").write_text(sealed_json(found))
    with pytest.raises(PolicyError, match="expires is missing"):
        Policy.load(tmp_path / "p.json")


def test_a_policy_of_before_says_nothing_of_scoring(tmp_path: Path):
    written = Policy(NINE).to_dict()
    del written["scoring"]
    (tmp_path / "old.json").write_text(sealed_json(written))
    assert Policy.load(tmp_path / "old.json") == Policy(NINE)


def test_a_nan_threshold_is_no_policy():
    with pytest.raises(PolicyError, match="value of the threshold is nan"):
        Policy(replace(NINE, value=math.nan))


def test_expired_void_and_silent_policies_say_so():
    policy = Policy(NINE, created="2026-01-01")
    assert policy.expires == _days_after("2026-01-01", 90) == "2026-04-01"
    assert policy.state("2026-03-31") == "valid" and not policy.warnings("2026-03-31")
    assert policy.state("2026-04-01") == "expired"
    assert "expired on 2026-04-01" in policy.warnings("2026-04-01")[0]
    assert "after today's date by this machine's clock" in policy.warnings("2025-12-30")[0]
    void = policy.voided("another model")
    assert void.state("2026-01-02") == "guarantee void" and "another model" in void.warnings()[0]
    assert OnlineMonitor(void).update("a", 1.0).state == "guarantee void"
    silent = Policy(calibrate([0.1], 0.01))
    assert "never alarms" in silent.warnings()[0] and "never alarms" in silent.promise


def test_a_drifted_stream_voids_the_guarantee_and_the_same_stream_does_not():
    rng = np.random.default_rng(5)
    policy = Policy(calibrate(rng.random(500), 0.1),
                    drift=DriftReference.of(rng.random(500), rng.random(500), 0.85))
    for shift, state in ((0.0, "valid"), (0.2, "guarantee void")):
        monitor = OnlineMonitor(policy)
        for i in range(400):
            monitor.update(f"s{i}", rng.random() + shift)
            monitor.end(f"s{i}")
        assert monitor.state == monitor.status()["state"] == state
    assert "finished sequences differ" in monitor.policy.void
    assert monitor.update("next", 2.0).state == "guarantee void"
    assert policy.void == ""


def test_what_broke_off_is_not_seen_by_the_drift_test():
    policy = Policy(NINE, drift=DriftReference((0.5,), (50, 50)))
    monitor = OnlineMonitor(policy)
    monitor.update("a", math.nan)
    monitor.end("a")
    assert monitor.drift_evidence == 1.0 and monitor.finished == 1


def test_a_policy_runs_with_numpy_alone(tmp_path: Path):
    policy, _ = calibrated(LearnedPrefix(), ties=True, grid=0.5)
    replace(policy, drift=DriftReference((0.5,), (5, 5))).save(tmp_path / "p.json")
    code = f"""
import sys
for name in ("pandas", "torch", "scipy", "sklearn", "pyarrow", "statsmodels", "matplotlib"):
    sys.modules[name] = None
from monitorlab.commands.watch import watch
from monitorlab import OnlineMonitor, Policy
monitor = OnlineMonitor(Policy.load({str(tmp_path / "p.json")!r}))
watch(monitor, ['{{"id": 1, "score": 9, "end": true}}'], print, print)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[0])["alarm"] == "1"

"""`calibrate`: from a log of any shape to a policy, with figures that hold elsewhere."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from monitorlab.cli import app
from monitorlab.commands.calibrate import LEVELS, Calibrated, Plan
from monitorlab.online.metrics import alarm_metrics, alarm_steps, peaks
from monitorlab.online.policy import OnlineMonitor, Policy, hashed_draws
from monitorlab.online.trajectories import ScoreFileError, Trajectories


def log(n: int, seed: int, lift: float = 0.0, coarse: bool = False) -> Trajectories:
    """Noise in which unsafe sequences rise a little at every step: the mean tells, one score not.

    With ``lift`` unsafe scores are higher from the first step on.
    """
    rng = np.random.default_rng(seed)
    lengths, labels = rng.integers(8, 13, n), (rng.random(n) < 0.3).astype(np.int8)
    scores = rng.normal(np.repeat(labels, lengths) * (0.5 + lift), 1.0)
    if coarse:
        scores = np.round(scores)
    ids = np.array([f"{seed}-{i}" for i in range(n)], dtype=object)
    return Trajectories("log", "score", ids, scores, np.ones(len(scores)), lengths, labels)


def found_on(policy: Policy, data: Trajectories):
    running = data.transformed(policy.statistic)
    return alarm_metrics(alarm_steps(running, policy.threshold, hashed_draws(data.ids)), data)


def test_what_is_expected_is_found_on_other_sequences():
    found = Calibrated.of(log(1500, 1), Plan(level=0.1))
    row = found.levels.set_index("level").loc[0.1]
    new = found_on(found.policy, log(6000, 2))
    for name in ("far", "power", "restricted_delay", "delay"):
        width = row[f"{name}_high"] - row[f"{name}_low"]
        assert abs(getattr(new, name) - row[name]) < width, name
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    base = np.mean(log(1500, 1).labels)
    assert row["precision"] == pytest.approx(
        base * row["power"] / (base * row["power"] + (1 - base) * row["far"]), abs=0.05)
    assert set(found.levels["level"]) == {*LEVELS, 0.1}
    assert found.levels["far"].is_monotonic_increasing


def test_a_statistic_is_chosen_where_it_helps_and_the_score_stays_where_it_does_not():
    helped = Calibrated.of(log(1500, 1), Plan(level=0.1))
    assert helped.policy.statistic.to_dict()["kind"] in ("running_mean", "ewma", "cusum", "prefix")
    plain = Calibrated.of(log(1500, 1), Plan(level=0.1, statistic="running_min"))
    assert plain.statistics.empty
    assert helped.levels["power"].iloc[3] > plain.levels["power"].iloc[3] + 0.05
    first = log(1500, 3)  # one high score early, nothing else
    first.flat_scores[first.starts] += 6.0 * first.labels
    stays = Calibrated.of(first, Plan(level=0.1))
    assert stays.statistics["chosen"].tolist() == [True] + [False] * 6
    trivial = stays.statistics.set_index("statistic").loc[["first_score", "step_number"]]
    assert trivial.loc["first_score", "power"] > trivial.loc["step_number", "power"] + 0.3
    assert stays.policy.statistic.to_dict() == {"kind": "latest"}


def test_the_promise_is_kept_over_logs_with_choice_fit_and_ties():
    fars = [found_on(Calibrated.of(log(240, seed, coarse=True), Plan(level=0.1)).policy,
                     log(1500, 10_000 + seed, coarse=True)).far for seed in range(16)]
    margin = 4 * np.std(fars) / np.sqrt(len(fars))
    assert 0.1 - margin - 0.02 < np.mean(fars) <= 0.1 + margin


def test_groups_are_split_whole_and_one_sequence_of_each_calibrates():
    """Sixteen copies of each of 60 sequences are 60 sequences, whatever the rows say."""
    one = log(60, 1)
    many = one.take(np.repeat(np.arange(60), 16))
    ids = np.array([f"s{i}" for i in range(len(many))], dtype=object)
    groups = np.repeat([f"g{i}" for i in range(60)], 16).astype(object)
    many = replace(many, ids=ids, groups=groups)
    row = Calibrated.of(many, Plan(level=0.1)).levels.set_index("level").loc[0.1]
    assert row["calibrating"] == one.count(0)
    loose = Calibrated.of(replace(many, groups=None), Plan(level=0.1))
    other = loose.levels.set_index("level").loc[0.1]
    assert other["calibrating"] > 300
    assert (row["far_high"] - row["far_low"]) > 2.5 * (other["far_high"] - other["far_low"])


def test_groups_may_have_thresholds_of_their_own():
    data = log(1200, 1)
    easy = np.arange(1200) % 4 == 0
    data.flat_scores[np.repeat(~easy, data.lengths)] += 3.0
    names = np.where(easy, "easy", "hard").astype(object)
    found = Calibrated.of(replace(data, groups=names), Plan(level=0.1, per_group=True,
                                                            statistic="running_min"))
    rules = found.policy.groups
    assert rules["easy"].value + 2 < rules["hard"].value
    for name, rule in rules.items():
        new = log(4000, 9)
        new.flat_scores[:] += 3.0 * (name == "hard")
        assert alarm_metrics(alarm_steps(new, rule, hashed_draws(new.ids)), new).far < 0.14
    assert found.groups["group"].tolist() == ["easy", "hard"]
    assert found.groups["far"].between(0.06, 0.14).all()
    said = found.describe()
    assert "within each of the groups easy, hard" in said and "group hard: " in said
    with pytest.raises(ScoreFileError, match="need a column of groups"):
        Calibrated.of(data, Plan(per_group=True))


def test_few_sequences_calibrate_alone_and_too_few_say_so():
    few = Calibrated.of(log(60, 1), Plan(level=0.1))
    assert few.statistics.empty and few.policy.threshold.n == log(60, 1).count(0)
    assert few.policy.drift is None
    none = Calibrated.of(log(60, 1), Plan(level=0.01))
    said = none.describe()
    assert none.policy.threshold.state == "never_alarm"
    assert "needs 99: not enough" in said and "warning: 99 safe sequences are needed" in said


def test_a_log_without_unsafe_sequences_calibrates_and_knows_no_power():
    data = log(300, 1)
    found = Calibrated.of(data.take(data.labels == 0), Plan(level=0.1))
    assert found.policy.threshold.state == "calibrated"
    assert found.levels["power"].isna().all()
    assert "power not known" in found.describe()
    with pytest.raises(ScoreFileError, match="no sequence of the log has label 0"):
        Calibrated.of(data.take(data.labels == 1), Plan())


def test_a_bound_on_misses_is_kept_and_what_is_expected_is_found():
    """The mean of misses over logs keeps to the level; false alarms are what they are."""
    plan = Plan(level=0.2, risk="missed_detection", statistic="running_mean")
    missed = [1 - found_on(Calibrated.of(log(240, seed), plan).policy,
                           log(1500, 10_000 + seed)).power for seed in range(16)]
    margin = 4 * np.std(missed) / np.sqrt(len(missed))
    assert 0.2 - margin - 0.03 < np.mean(missed) <= 0.2 + margin
    found = Calibrated.of(log(1500, 1), replace(plan, statistic=""))
    assert found.statistics["far"].idxmin() == found.statistics["chosen"].idxmax()
    row, new = found.levels.set_index("level").loc[0.2], found_on(found.policy, log(6000, 2))
    assert row["calibrating"] == found.policy.threshold.n < 400
    for name in ("far", "power"):
        assert row[f"{name}_low"] - 0.03 < getattr(new, name) < row[f"{name}_high"] + 0.03, name
    assert found.levels["power"].is_monotonic_decreasing
    said = found.describe()
    assert "at most 20 % of unsafe sequences raise no alarm" in said
    assert f"same threshold also keeps false alarms to {row['also']:.3f}" in said
    safe_only = log(300, 1).take(log(300, 1).labels == 0)
    with pytest.raises(ScoreFileError, match=r"label 1 \(unsafe\). A bound on misses"):
        Calibrated.of(safe_only, plan)


def test_the_other_risk_is_the_one_that_the_same_threshold_keeps():
    """Calibrating the misses to that level gives a threshold that is not lower."""
    data = log(1500, 1)
    for risk, other in (("false_alarm", "missed_detection"), ("missed_detection", "false_alarm")):
        plan = Plan(level=0.2, risk=risk, statistic="running_min")
        one = Calibrated.of(data, plan)
        also = one.levels.set_index("level").loc[0.2, "also"]
        two = Calibrated.of(data, replace(plan, level=float(also), risk=other)).policy.threshold
        sign = 1 if other == "missed_detection" else -1
        assert sign * two.value >= sign * one.policy.threshold.value


def test_a_log_that_is_turned_round_is_noticed_and_the_rule_is_said_as_scores_come_in():
    upright = log(400, 1, lift=1.0)
    said = Calibrated.of(upright, Plan(statistic="running_min")).describe()
    assert "is higher in safe sequences" not in said
    assert re.search(r"It alarms at a score above \d", said)
    turned = replace(upright, flat_scores=-upright.flat_scores)
    found = Calibrated.of(turned, Plan(statistic="running_min", side="safety"))
    said = found.describe()
    assert "suspicion is higher in safe sequences" in said and "--orientation" in said
    assert f"at a score below {-found.policy.threshold.value!r}" in said


def test_deployment_has_its_own_base_rate():
    rare = Calibrated.of(log(1500, 1), Plan(level=0.1, base_rate=0.01, per_day=5000))
    row = rare.levels.set_index("level").loc[0.1]
    right, wrong = 0.01 * row["power"] * 5000, 0.99 * row["far"] * 5000
    assert row["alarms_per_day"] == pytest.approx(right + wrong)
    assert row["precision"] == pytest.approx(right / (right + wrong)) and row["precision"] < 0.2
    reference = rare.policy.drift
    assert reference is not None
    half = Calibrated.of(log(1500, 1), Plan(level=0.1, base_rate=0.5)).policy.drift
    assert half is not None
    assert half.counts[-1] / sum(half.counts) > 1.5 * reference.counts[-1] / sum(reference.counts)


def test_the_drift_reference_fits_the_stream_that_the_log_comes_from():
    """Stopped at their alarms or not, sequences of the same kind give no evidence."""
    policy = Calibrated.of(log(1500, 1), Plan(level=0.1, drift_rate=0.05)).policy
    new = log(800, 5)
    for stops in (True, False):
        for shift in (0.0, 0.5):
            monitor = OnlineMonitor(policy)
            for i in range(len(new)):
                for score in new.steps(i).tolist():
                    if monitor.update(new.ids[i], score + shift) and stops:
                        break
                monitor.end(new.ids[i])
            assert monitor.state == ("guarantee void" if shift else "valid")


def test_sequences_without_a_label_narrow_what_is_known(tmp_path: Path):
    """300 of 4,000 have a label; truth is measured on all of them."""
    data = log(4000, 1, lift=1.0)
    some = np.where(np.arange(4000) < 300, data.labels, -1).astype(np.int8)
    found = Calibrated.of(replace(data, labels=some), Plan(level=0.1, statistic="running_mean"))
    truth = found_on(found.policy, data)
    rows = found.estimates.set_index("rate")
    for name, value in (("false alarm rate", truth.far), ("miss rate", 1 - truth.power)):
        row = rows.loc[name]
        assert row["corrected_low"] <= value <= row["corrected_high"]
        width = row["corrected_high"] - row["corrected_low"]
        assert width < row["plain_high"] - row["plain_low"]
        assert row["labels_needed"] > row["labelled"] == 300 and row["sequences"] == 4000
    assert "more labels, drawn at random" in found.describe()
    found.save(tmp_path / "pol")
    assert "prediction-powered" in (tmp_path / "pol" / "page.html").read_text()
    assert Calibrated.of(data, Plan(statistic="running_mean")).estimates.empty


@pytest.mark.parametrize(("change", "message"), [
    ({"objective": "luck"}, "objective is 'luck', expected one of power, restricted_delay"),
    ({"statistic": "best"}, "statistic is 'best', expected one of running_min"),
    ({"calibrator": "magic"}, "calibrator is 'magic', expected one of crc"),
    ({"side": "up"}, "orientation is 'up'"),
    ({"risk": "luck"}, "risk is 'luck', expected one of false"),
    ({"dtype": "int8"}, "dtype is 'int8'"),
    ({"on_error": "ignore"}, "on_error is 'ignore', expected one of alarm, raise"),
    ({"level": 1.0}, "level is 1.0"), ({"delta": math.nan}, "delta is nan"),
    ({"drift_rate": 0}, "drift_rate is 0"), ({"half_width": 2}, "half_width is 2"),
    ({"base_rate": 1.5}, "base_rate is 1.5"), ({"per_day": 0}, "per_day is 0"),
])
def test_plans_that_mean_nothing_are_refused(change, message):
    with pytest.raises(ScoreFileError, match=message):
        Plan(**change)


def test_the_command_takes_foreign_columns_and_its_policy_runs(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = log(400, 1)
    frame = replace(data, flat_scores=-data.flat_scores).to_frame()
    frame["label"] = 1 - frame["label"]
    theirs = {"trajectory_id": "request", "step": "turn", "score": "p_ok", "label": "fine"}
    frame.rename(columns=theirs).to_csv("log.csv", index=False)
    words = ["calibrate", "log.csv", "--out", "pol", "--orientation", "safety", "--positive",
             "safe", "--level", "0.1", "--statistic", "running_min",
             "--columns", "trajectory_id:request,step:turn,score:p_ok,label:fine"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "at most 10 % of safe sequences raise an alarm" in done.output
    policy = Policy.load("pol/policy.json")
    assert policy.side == "safety" and len(policy.data) == 64 and policy.name == "log"
    lines = [json.dumps({"id": data.ids[i], "score": -score}) for i in range(len(data))
             for score in data.steps(i)]
    watched = CliRunner().invoke(app, ["watch", "pol/policy.json"], input="\n".join(lines))
    rows = [json.loads(line) for line in watched.stdout.splitlines()]
    assert rows[-1]["alarms"] == np.sum(
        alarm_steps(data, policy.threshold, hashed_draws(data.ids)) > 0) == len(rows) - 1
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2 and "pol exists. Choose another --out" in again.output
    wrong = CliRunner().invoke(app, [*words[:3], "other"])
    assert wrong.exit_code == 2 and "log.csv" in wrong.output
    off = CliRunner().invoke(app, [*words[:3], "other", "--level", "5"])
    assert off.exit_code == 2 and "level is 5.0, expected a number between" in off.output


def test_from_a_log_that_nobody_has_judged_to_a_running_watch(tmp_path: Path, monkeypatch):
    """Foreign names and no label; then a fifth is judged, and the others narrow what is known."""
    monkeypatch.chdir(tmp_path)
    data = log(1000, 1, lift=0.5)
    frame = data.to_frame()[["trajectory_id", "step", "score", "label"]]
    frame.columns = ["request", "turn", "p_bad", "verdict"]
    frame.drop(columns="verdict").to_csv("log.csv", index=False)
    words = ["calibrate", "log.csv", "--out", "policy", "--level", "0.1", "--columns"]
    names = "trajectory_id:request,step:turn,score:p_bad"
    bare = CliRunner().invoke(app, [*words, names])
    assert bare.exit_code == 2
    assert "no sequence of the log has a label. Judge some hundred of them" in bare.output
    assert "level 0.1 needs at least 9 safe ones" in bare.output
    judged = frame["request"].drop_duplicates().sample(200, random_state=0)
    frame["verdict"] = frame["verdict"].where(frame["request"].isin(judged)).map(
        {0: "safe", 1: "unsafe"})
    frame.to_csv("log.csv", index=False)
    done = CliRunner().invoke(app, [*words, f"{names},label:verdict"])
    assert done.exit_code == 0, done.output
    assert "labels, drawn at random, would give" in done.output
    assert "corrected by 900 sequences" in done.output  # 100 of the 200 chose and fitted
    lines = "\n".join(json.dumps({"id": "r", "score": score}) for score in (0.1, 9.0, 9.0))
    watched = CliRunner().invoke(app, ["watch", "policy/policy.json"], input=lines)
    assert json.loads(watched.stdout.splitlines()[0])["alarm"] == "r"


def test_the_page_is_one_file_and_carries_the_state(tmp_path: Path):
    found = Calibrated.of(replace(log(400, 1), dataset="<script>alert(1)</script>"),
                          Plan(level=0.1))
    found.save(tmp_path / "pol")
    page = (tmp_path / "pol" / "page.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "data:image/png" in page
    assert found.policy.promise in page and "What a stricter level costs" in page
    levels = pd.read_csv(tmp_path / "pol" / "levels.csv")
    assert f"{levels['far'].iloc[3]:.3f} (" in page and "guarantee void" not in page
    found.policy.voided("x").save(tmp_path / "pol" / "policy.json")
    lines = "".join(json.dumps({"id": str(i), "score": 9.0, "end": True}) + "\n"
                    for i in range(60))
    found.policy.save(tmp_path / "pol" / "policy.json")
    CliRunner().invoke(app, ["watch", str(tmp_path / "pol" / "policy.json"), "--mark"],
                       input=lines)
    assert "guarantee void" in (tmp_path / "pol" / "page.html").read_text()


def test_scores_are_rounded_as_they_will_come_in():
    data = log(400, 1)
    found = Calibrated.of(data, Plan(level=0.1, dtype="float32", statistic="running_min"))
    value = found.policy.threshold.value
    assert value == float(np.float32(value)) and found.policy.dtype == "float32"
    assert value in peaks(data).astype(np.float32)

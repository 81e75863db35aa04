"""The tables that pass between notebooks, and those that other people's tools may rely on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from monitorlab.pipeline.schemas import Field, Schema


def _steps_are_consecutive(frame: pd.DataFrame) -> tuple[int, str, str] | None:
    """Steps of a trajectory are 1, 2, 3, ... without a gap."""
    group = ["dataset", "signal", "trajectory_id"]
    order = frame.sort_values([*group, "step"], kind="stable")
    expected = order.groupby(group, sort=False).cumcount() + 1
    wrong = (order["step"] != expected).to_numpy()
    if not wrong.any():
        return None
    row = int(order.index[np.argmax(wrong)])
    name, found = frame.loc[row, "trajectory_id"], frame.loc[row, "step"]
    return row, "step", (
        f"trajectory {name!r} has step {found} where {expected.loc[row]} was expected. "
        "Number the steps of a trajectory 1, 2, 3, ... without gaps."
    )


def _one_label(frame: pd.DataFrame) -> tuple[int, str, str] | None:
    """A trajectory has one label, whatever the signal."""
    first = frame.groupby(["dataset", "trajectory_id"], sort=False)["label"].transform("first")
    wrong = (frame["label"] != first).to_numpy()
    if not wrong.any():
        return None
    row = int(np.argmax(wrong))
    return row, "label", (
        f"trajectory {frame.loc[row, 'trajectory_id']!r} has label {frame.loc[row, 'label']}, but "
        f"{first.loc[row]} in an earlier row. Give every step the label of its trajectory."
    )


def _text(name: str, meaning: str, *choices: str, nullable: bool = False) -> Field:
    return Field(name, "str", "", meaning, choices=choices, nullable=nullable)


CELLS = ("spv_code", "spv_qa", "syco_qa", "syco_reasoning", "sg_code", "sg_qa")
STATUSES = ("parsed", "unparsed", "refused", "truncated", "error")
LABEL = Field("label", "int", "", "1 is unsafe or misbehavior, 0 is safe or benign", 0, 1)
DATASET = _text("dataset", "name of the data set")
SIGNAL = _text("signal", "which model or quantity gives the step scores")
TRAJECTORY = _text("trajectory_id", "identifies the trajectory within its data set")
METHOD = (
    DATASET,
    SIGNAL,
    _text("statistic", "running statistic that is compared with the threshold"),
    _text("calibrator", "rule that chose the threshold"),
    _text("risk", "which error the level bounds", "false_alarm", "missed_detection"),
    Field("level", "float", "probability", "target level epsilon", 0, 1),
    Field("split", "int", "", "number of the random split, from 0", 0),
)
METHOD_KEY = tuple(field.name for field in METHOD)
# A threshold is infinite for "never" and "always", and missing where a method has none.
THRESHOLD = Field(
    "threshold", "float", "score", "alarm when the statistic is above it; +inf is never, -inf is "
    "always, missing is none", nullable=True, infinite=True,
)
STATE = _text(
    "state", "outcome of the calibration", "calibrated", "never_alarm", "always_alarm",
    "not_trainable",
)


def _rate(name: str, meaning: str, nullable: bool = False, unit: str = "probability") -> Field:
    return Field(name, "float", unit, meaning, 0, 1, nullable=nullable)


_SAMPLE = (
    _text("cell", "category and task together", *CELLS),
    _text("category", "misbehavior category", "spv", "syco", "sg"),
    _text("task", "kind of task", "code", "qa", "reasoning"),
    _text("misbehavior_type", "named type of the misbehavior"),
    _text("cue_type", "type of the contextual cue"),
    _text("source", "where the request comes from"),
    _text("generator", "what wrote the response"),
    _text("request", "what the model was asked"),
    _text("response", "what the monitor judges"),
    Field("has_thinking", "bool", "", "the response shows its thinking"),
    LABEL,
)
_SAMPLE_NAMES = (
    _text("sample_id", "identifies the sample"),
    _text("pair_id", "the misbehaving and the benign sample of one request share it"),
    _text("scenario_id", "splits never share a scenario"),
)

SAMPLES = Schema(
    "samples",
    (*_SAMPLE_NAMES, *_SAMPLE, _text("split", "part of the benchmark", "dev", "test")),
    ("sample_id",),
    "one row per benchmark sample",
)

REAL_SAMPLES = Schema(
    "real_samples", SAMPLES.fields, ("sample_id",), "one row per sample of a real source"
)

REAL_TRANSCRIPTS = Schema(
    "real_transcripts", SAMPLES.fields, ("sample_id",),
    "one row per transcript of a real source without pairs",
)

CORPUS = Schema(
    "corpus",
    (*_SAMPLE_NAMES, _text("component", "component of the training corpus"), *_SAMPLE),
    ("component", "sample_id"),
    "one row per training sample",
)

LABEL_CHECKS = Schema(
    "label_checks",
    (
        _text("sample_id", "the sample that was checked"),
        _text("cell", "category and task together", *CELLS),
        _text("check", "how: program executed or problem solved again", "execution", "solver"),
        Field("confirmed", "bool", "", "the check agrees with the label"),
        _text("detail", "what the check found"),
    ),
    ("sample_id",),
    "one row per sample whose label could be checked against the world",
)

ANNOTATIONS = Schema(
    "annotations",
    (
        _text("sample_id", "the sample that was annotated"),
        _text("annotator", "who or what gave the label"),
        _text("kind", "kind of annotator"),
        Field("given", "int", "", "the annotator's label, 1 is misbehavior", 0, 1),
        _text("note", "the annotator's remark", nullable=True),
    ),
    ("sample_id", "annotator"),
    "one row per sample and annotator",
)

AUDIT = Schema(
    "audit",
    (
        _text("cell", "category and task together", *CELLS),
        _text("probe", "what the probe may look at"),
        _rate("auroc", "how well it tells the labels apart"),
        _rate("low", "lower end of the 95 % interval"),
        _rate("high", "upper end of the 95 % interval"),
    ),
    ("cell", "probe"),
    "one row per shortcut probe",
)

VERDICTS = Schema(
    "verdicts",
    (
        _text("sample_id", "the sample that was judged"),
        _text("monitor", "name of the monitor"),
        _text("prompt", "name of the monitor prompt"),
        Field("draw", "int", "", "number of the repeated draw, from 0", 0),
        _text("status", "what became of the answer", *STATUSES),
        Field("verdict", "bool", "", "true is misbehavior; missing when not parsed", nullable=True),
        _rate("score", "suspicion, high is unsafe; missing when not parsed", True, ""),
        _text("evidence", "what the monitor quotes", nullable=True),
        Field("input_tokens", "int", "tokens", "length of the prompt", 0, nullable=True),
        Field("output_tokens", "int", "tokens", "length of the answer", 0, nullable=True),
        Field("seconds", "float", "s", "wall-clock time of the call", 0, nullable=True),
        Field("cost_usd", "float", "USD", "price of the call", 0, nullable=True),
        _text("request_hash", "SHA-256 of the full request"),
    ),
    ("sample_id", "monitor", "prompt", "draw"),
    "one row per sample, monitor, prompt and draw",
)

REAL_VERDICTS = Schema(
    "real_verdicts", VERDICTS.fields, VERDICTS.key, "one row per verdict on a real pair"
)
JUDGE_VERDICTS = Schema(
    "judge_verdicts", VERDICTS.fields, VERDICTS.key,
    "one row per recorded verdict of a real judge, and of a rule that reads one letter",
)


ARM = _text("arm", "what the monitor was trained on")
FINETUNED_VERDICTS = Schema(
    "finetuned_verdicts", (ARM, *VERDICTS.fields), ("arm", *VERDICTS.key),
    "one row per arm and sample, the first training of each arm",
)


def _error_rate(name: str, meaning: str) -> tuple[Field, ...]:
    """A rate with its 95 % intervals and the bounds that failed verdicts allow."""
    ends = (("", meaning), ("_low", "lower 95 % limit, scenarios as units"),
            ("_high", "upper 95 % limit, scenarios as units"),
            ("_wilson_low", "lower Wilson limit, which assumes independent samples"),
            ("_wilson_high", "upper Wilson limit, which assumes independent samples"),
            ("_least", "if every failed verdict were right"),
            ("_most", "if every failed verdict were wrong"))
    return tuple(_rate(f"{name}{end}", about, nullable=True) for end, about in ends)


NAME = _text("name", "monitor, with its prompt if it has one")
RATES = Schema(
    "rates",
    (
        NAME,
        _text("cell", "category and task together", *CELLS),
        Field("n_misbehaving", "int", "samples", "misbehaving samples that were asked about", 0),
        Field("n_benign", "int", "samples", "benign samples that were asked about", 0),
        Field("units", "int", "scenarios", "scenarios that these belong to", 0),
        *_error_rate("mr", "miss rate over parsed verdicts"),
        *_error_rate("far", "false alarm rate over parsed verdicts"),
        _rate("g2", "(1 - MR) (1 - FAR)", True),
        _rate("balanced_accuracy", "1 - (MR + FAR) / 2", True),
    ),
    ("name", "cell"),
    "one row per monitor and cell, test split",
)

FINETUNING = Schema(
    "finetuning",
    (
        _text("model", "what was fine-tuned"),
        ARM,
        _text("rule", "own threshold, or one calibrated on dev", "own", "calibrated"),
        _text("cell", "category and task together", *CELLS),
        Field("seen", "bool", "", "the arm was trained on a component of this cell"),
        Field("n", "int", "samples", "test samples", 0),
        Field("failed", "int", "samples", "test samples without a parsed verdict", 0),
        *(
            _rate(f"{name}{end}", f"{about}{what}", nullable=True)
            for name, about in (("mr", "miss rate"), ("far", "false alarm rate"),
                                ("auroc", "area under the ROC curve"))
            for end, what in (("", ""), ("_low", ", lower 95 % limit"),
                              ("_high", ", upper 95 % limit"))
        ),
    ),
    ("model", "arm", "rule", "cell"),
    "one row per fine-tuned monitor, rule and cell, test split",
)

_LIMITS = (
    ("", ""), ("_low", ", lower 95 % limit over units"), ("_high", ", upper 95 % limit over units"),
    ("_exact_low", ", lower Clopper-Pearson limit, which assumes independent samples"),
    ("_exact_high", ", upper Clopper-Pearson limit, which assumes independent samples"),
)
OPERATING_POINTS = Schema(
    "operating_points",
    (
        NAME,
        _text("cell", "a cell, or all of them", *CELLS, "all"),
        _text("scope", "one threshold per cell, or one for all", "cell", "global"),
        _text("unit", "what the promise takes as exchangeable", "scenario", "pair"),
        _text("calibrator", "rule that chose the threshold", "crc", "binomial",
              "hoeffding_bentkus"),
        Field("level", "float", "probability", "false alarm rate to keep to", 0, 1),
        Field("threshold", "float", "score", "alarm when the score is above it; +inf is never, "
              "missing where cells have their own", nullable=True, infinite=True),
        _text("state", "outcome of the calibration", "calibrated", "never_alarm",
              "too_many_failures", "per_cell"),
        Field("n_dev", "int", "samples", "benign dev samples", 0),
        Field("dev_units", "int", "", "scenarios, or pairs, that these belong to", 0),
        Field("n_needed", "int", "", "smallest number of units that makes the level feasible", 0,
              nullable=True),
        _rate("dev_far", "false alarm rate on dev", True),
        Field("n_test", "int", "samples", "benign test samples", 0),
        *(_rate(f"far{end}", f"false alarm rate on test{what}", True) for end, what in _LIMITS),
        _rate("far_scenarios", "mean false alarm rate of test scenarios", True),
        *(_rate(f"mr{end}", f"miss rate on test{what}", True) for end, what in _LIMITS),
    ),
    ("name", "cell", "scope", "unit", "calibrator", "level"),
    "one row per monitor, cell, scope, unit, calibrator and level",
)

TRAJECTORIES = Schema(
    "trajectories",
    (
        DATASET,
        TRAJECTORY,
        _text("generator", "what wrote the trajectory"),
        _text("split", "part of the data the trajectory belongs to"),
        Field("n_steps", "int", "steps", "length of the trajectory", 1),
        Field("tokens", "int", "tokens", "length of the trajectory", 1),
        LABEL,
        _text("text", "the whole trajectory, for reading"),
    ),
    ("dataset", "trajectory_id"),
    "one row per trajectory",
)

STEPS = Schema(
    "steps",
    (
        DATASET,
        SIGNAL,
        TRAJECTORY,
        Field("step", "int", "steps", "position in the trajectory, from 1, without gaps", 1),
        Field("score", "float", "", "suspicion of this step, high is unsafe; only order counts"),
        Field("tokens", "int", "tokens", "length of this step", 1),
        LABEL,
        Field("step_label", "int", "", "1 is a wrong or unsafe step, 0 a right one, -1 unknown",
              -1, 1),
    ),
    ("dataset", "signal", "trajectory_id", "step"),
    "one row per data set, signal, trajectory and step",
    (_steps_are_consecutive, _one_label),
)

THRESHOLDS = Schema(
    "thresholds",
    (
        *METHOD,
        THRESHOLD,
        _rate("tie_break", "on a tie, alarm if a uniform draw is above it; 1 is never"),
        Field("k", "int", "", "rank of the order statistic that is the threshold", 0,
              nullable=True),
        Field("n", "int", "trajectories", "calibration trajectories the risk is about", 0),
        Field("n_needed", "int", "trajectories", "smallest n with which the level is feasible", 0,
              nullable=True),
        _rate("attained", "level that the threshold really attains, ties included", True),
        STATE,
    ),
    METHOD_KEY,
    "one row per calibrated threshold",
)

ALARMS = Schema(
    "alarms",
    (
        *METHOD,
        TRAJECTORY,
        LABEL,
        Field("n_steps", "int", "steps", "length of the trajectory", 1),
        Field("alarm_step", "int", "steps", "first step with an alarm; missing is none", 1,
              nullable=True),
    ),
    (*METHOD_KEY, "trajectory_id"),
    "one row per method, split and test trajectory",
)

METRICS = Schema(
    "metrics",
    (
        *METHOD,
        THRESHOLD,
        STATE,
        _rate("far", "false alarm rate: share of safe trajectories with an alarm", True),
        _rate("power", "share of unsafe trajectories with an alarm", True),
        _rate("delay", "mean alarm step over length, detected unsafe trajectories only", True,
              "share of steps"),
        _rate("restricted_delay", "the same over all unsafe trajectories, a miss counts as 1",
              True, "share of steps"),
        _rate("delay_tokens", "delay in tokens", True, "share of tokens"),
        _rate("restricted_delay_tokens", "restricted delay in tokens", True, "share of tokens"),
    ),
    METHOD_KEY,
    "one row per data set, signal, statistic, calibrator, risk, level and split",
)

SCHEMAS: dict[str, Schema] = {
    schema.name: schema
    for schema in (
        SAMPLES, REAL_SAMPLES, REAL_TRANSCRIPTS, CORPUS, LABEL_CHECKS, ANNOTATIONS, AUDIT, VERDICTS,
        REAL_VERDICTS, JUDGE_VERDICTS, RATES, FINETUNED_VERDICTS, FINETUNING, OPERATING_POINTS,
        TRAJECTORIES, STEPS, THRESHOLDS, ALARMS, METRICS,
    )
}

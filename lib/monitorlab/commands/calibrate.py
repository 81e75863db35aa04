"""`python -m monitorlab calibrate`: from a log of step scores to a policy, tables and a page.

The log is split by sequences, or by whole groups of them. One part chooses and fits the statistic,
the other places the threshold, so that the promise holds whatever was chosen. What is expected of
the policy comes from the second part: of the sequences that the promise is about, each is judged by
a threshold placed without it, and the others calibrate nothing.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray
from typer import Option, echo

from monitorlab.commands import relative
from monitorlab.display import spans
from monitorlab.display.tables import Table
from monitorlab.online import policy as policies
from monitorlab.online import running
from monitorlab.online.comparison import Method, Split, compare_methods
from monitorlab.online.drift import DriftReference
from monitorlab.online.metrics import alarm_steps, peaks
from monitorlab.online.policy import Policy, hashed_draws
from monitorlab.online.score_files import load_scores
from monitorlab.online.trajectories import UNKNOWN, ScoreFileError, Trajectories
from monitorlab.report.page import render_page
from monitorlab.statistics import thresholds
from monitorlab.statistics.intervals import Clustered, corrected_rate, draw_units, percentiles
from monitorlab.statistics.ranks import RANK_RULES, sequences_needed
from monitorlab.statistics.thresholds import FALSE_ALARM, MISSED_DETECTION, RISKS
from monitorlab.storage.files import digest_file, write_folder_atomic, write_text_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Unsaid = Option(show_default=False)

CANDIDATES: tuple[running.Statistic, ...] = (
    running.LatestScore(), running.RunningMean(), running.Ewma(), running.Cusum(),
    running.LearnedPrefix())
# These stand beside them, and are never chosen.
TRIVIAL: tuple[running.Statistic, ...] = (running.FirstScore(), running.StepNumber())
# Column of the comparison, and whether more of it is better.
OBJECTIVES = {"power": 1.0, "restricted_delay": -1.0, "far": -1.0}
# What a promise is about: its label, what such sequences are called, and what a statistic that
# keeps it is chosen for.
KINDS = {FALSE_ALARM: (0, "safe", "power"), MISSED_DETECTION: (1, "unsafe", "far")}
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
SPLITS = 8  # half-samples of the learning part, on which statistics are compared
FOLDS = 10
DRAWS = 500
LEAST_UNSAFE = 20  # sequences below which no statistic is chosen or fitted
TURNED = 0.4  # share of pairs below which a log looks turned round
LEAST_DRIFT = 50  # sequences below which a drift test could see nothing
POLICY = "policy.json"
# What `--statistic` calls those whose form in a policy has another name.
NAMES = {"latest": "running_min", "prefix": "learned"}
TABLES = ("statistics", "levels", "groups", "estimates")
MEASURES = {"far": "false alarm rate", "restricted_delay": "restricted delay"}


@dataclass(frozen=True)
class Plan:
    """What a policy is made for.

    Without thresholds per group, sequences of a group count as resembling one another: groups are
    split whole, and one sequence of each calibrates.

    Attributes
    ----------
    level : float
        Rate to keep to.
    risk : str
        Rate of what: false_alarm, or missed_detection.
    calibrator : str
        crc: on average over logs; binomial: with probability 1 - DELTA.
    delta : float
        Error probability of the binomial.
    objective : str
        What the statistic is chosen for: power, restricted_delay or far. [default: power, or far
        where misses are bounded]
    statistic : str
        running_min (the score itself), running_mean, ewma, cusum or learned. [default: the one
        that serves the objective best]
    side : str
        What a high score means: suspicion or safety.
    per_group : bool
        A threshold for each group that has enough sequences.
    base_rate : float
        Share of unsafe sequences in deployment. [default: the log's]
    per_day : float
        Sequences per day in deployment.
    valid_days : int
        Days until the policy expires.
    dtype : str
        Precision of the scores: float64, float32 or float16.
    on_error : str
        What a score of no use leads to: alarm or raise.
    drift_rate : float
        Chance of ever reporting drift where there is none.
    half_width : float
        If labels are missing: how many to buy for intervals of this half width.
    seed : int
        Seed of the split.
    scoring : str
        How texts were cut and scored: the `scoring` of the loop that wrote the log.
    """

    level: float = 0.05
    risk: str = FALSE_ALARM
    calibrator: str = "crc"
    delta: float = 0.1
    objective: str = ""
    statistic: str = ""
    side: Annotated[str, Option("--orientation")] = "suspicion"
    per_group: bool = False
    base_rate: Annotated[float, Unsaid] = math.nan
    per_day: float = 1000.0
    valid_days: int = 90
    dtype: str = "float64"
    on_error: str = "alarm"
    drift_rate: float = 0.01
    half_width: float = 0.02
    seed: int = 2026
    scoring: str = ""

    def __post_init__(self) -> None:
        if self.risk in RISKS and not self.objective:
            object.__setattr__(self, "objective", KINDS[self.risk][2])
        statistics = ("", *(one.name for one in CANDIDATES))
        for what, known in (("risk", RISKS), ("objective", OBJECTIVES), ("statistic", statistics),
                            ("calibrator", RANK_RULES), ("side", policies.SIDES),
                            ("dtype", policies.DTYPES), ("on_error", policies.ON_ERROR)):
            if getattr(self, what) not in known:
                called = "orientation" if what == "side" else what
                raise ScoreFileError(f"{called} is {getattr(self, what)!r}, expected one of "
                                     f"{', '.join(filter(None, known))}.")
        for what in ("level", "delta", "drift_rate", "half_width"):
            if not 0.0 < getattr(self, what) < 1.0:
                raise ScoreFileError(f"{what} is {getattr(self, what)}, expected a number between "
                                     "0 and 1.")
        if not (math.isnan(self.base_rate) or 0.0 <= self.base_rate < 1.0):
            raise ScoreFileError(f"base_rate is {self.base_rate}, expected the share of unsafe "
                                 "sequences, at least 0 and below 1.")
        if not self.per_day > 0 or self.valid_days < 1:
            raise ScoreFileError(f"per_day is {self.per_day:g} and valid_days {self.valid_days}, "
                                 "expected more than 0.")


def calibrate_file(log: Path, *, out: Path, columns: str = "", positive: str = "unsafe",
                   signal: str = "", group: str = "", plan: Plan) -> None:
    """Calibrate on a file, write what came out into a new folder, and say it.

    Parameters
    ----------
    log : Path
        Step scores of finished sequences: CSV, TSV, JSON, JSON lines or parquet with
        trajectory_id, step, score, label.
    out : Path
        New folder for policy.json, tables and page.html.
    columns : str
        Our names to yours, as in score:p_bad,label:verdict.
    positive : str
        What label 1 means: unsafe or safe.
    signal : str
        Which of several signals in the file.
    group : str
        Column that says what sequences have in common, such as a prompt.
    """
    path = log.expanduser()
    scores = load_scores(path, plan.side, columns=columns, group=group, positive=positive,
                         signal=signal)
    found = Calibrated.of(scores, plan, digest_file(path))
    found.save(out.expanduser())
    echo(found.describe())
    echo(f"Open {relative(out / 'page.html')}, or run: python -m monitorlab watch "
         f"{relative(out / POLICY)} < lines.jsonl")


@dataclass(frozen=True)
class Calibrated:
    """A policy and what is known about it.

    Attributes
    ----------
    policy : Policy
        Ready to run.
    statistics : DataFrame
        A row per candidate, and for the first score and the step number alone: means over
        half-samples of the learning part, and which was chosen; empty if there was too little to
        choose from.
    levels : DataFrame
        A row per level, the policy's among them: what it needs, what is expected of it.
    groups : DataFrame
        The same per group at the policy's level; empty without thresholds of their own.
    estimates : DataFrame
        False alarm and miss rate from labels alone and corrected by the sequences without one, and
        how many labels the asked-for width takes; empty if all have a label, or come in groups.
    """

    policy: Policy
    statistics: pd.DataFrame
    levels: pd.DataFrame
    groups: pd.DataFrame
    estimates: pd.DataFrame

    @classmethod
    def of(cls, log: Trajectories, plan: Plan, data: str = "") -> Calibrated:
        """Choose a statistic, place its threshold, and say what to expect.

        Parameters
        ----------
        log : Trajectories
            Suspicion of finished sequences; those without a label calibrate nothing.
        plan : Plan
            What for.
        data : str
            Digest of the log, for the policy.

        Raises
        ------
        ScoreFileError
            If no sequence is known to be of the kind that the promise is about.
        """
        with np.errstate(over="ignore"):  # to the precision that scores will have at the monitor
            log = replace(log, flat_scores=log.flat_scores.astype(plan.dtype).astype(np.float64))
        log, unlabelled = (log.take(at) for at in (log.labels != UNKNOWN, log.labels == UNKNOWN))
        label, kind, _ = KINDS[plan.risk]
        if not len(log):
            needed = sequences_needed(plan.calibrator, plan.level, plan.delta)
            raise ScoreFileError(
                "no sequence of the log has a label. Judge some hundred of them, drawn at random, "
                "in a column label (0 is safe, 1 is unsafe) and leave it empty for the others; "
                f"level {plan.level:g} needs at least {needed} {kind} ones. If your labels are in "
                "another column, say --columns label:NAME.")
        if not log.count(label):
            what = "false alarms" if plan.risk == FALSE_ALARM else "misses"
            raise ScoreFileError(
                f"no sequence of the log has label {label} ({kind}). A bound on {what} comes from "
                f"{kind} sequences; if your labels are in another column, say --columns "
                "label:NAME, and --positive safe if 1 means safe.")
        if plan.per_group and log.groups is None:
            raise ScoreFileError("thresholds per group need a column of groups: name it, as in "
                                 "--group task.")
        units = np.arange(len(log))  # sequences, or the groups in which they resemble one another
        if log.groups is not None and not plan.per_group:
            units = np.unique(log.groups.astype(str), return_inverse=True)[1].astype(np.int64)
        learning, rest = _parts(log, units, plan)
        statistic, compared = _choose(log.take(learning), units[learning], plan)
        try:
            fitted = statistic.fit(log.take(learning))
        except running.TooFewSequencesError as error:
            raise ScoreFileError(str(error)) from None
        part = _Part(log.take(rest).transformed(fitted), units[rest], plan)
        levels = pd.DataFrame([part.row(level) for level in sorted({*LEVELS, plan.level})])
        strata = part.strata() if plan.per_group else {}
        rules = {name: own.threshold(plan.level) for name, own in strata.items()}
        rules = {name: rule for name, rule in rules.items() if rule.k}
        rule = part.threshold(plan.level)
        others = peaks(log.take(learning).transformed(fitted)) if len(learning) else None
        policy = Policy(rule, fitted, rules, plan.side, plan.dtype, plan.on_error,
                        part.drift(min(one.value for one in (rule, *rules.values())), others),
                        log.name, data, scoring=plan.scoring)
        policy = policy.valid_for(plan.valid_days)
        rows = [{"group": name, **own.row(plan.level)} for name, own in strata.items()]
        estimates = part.estimates(rule, unlabelled.transformed(fitted))
        return cls(policy, compared, levels, pd.DataFrame(rows), pd.DataFrame(estimates))

    @classmethod
    def load(cls, folder: Path) -> Calibrated:
        """Read what `save` wrote."""
        tables = (folder / f"{name}.csv" for name in TABLES)
        return cls(Policy.load(folder / POLICY), *(
            pd.read_csv(path) if path.exists() else pd.DataFrame() for path in tables))

    def save(self, folder: Path) -> None:
        """Write policy, tables and page into a new folder.

        Raises
        ------
        ScoreFileError
            If the folder exists.
        """
        if folder.exists():
            raise ScoreFileError(f"{folder} exists. Choose another --out, or remove it.")
        with write_folder_atomic(folder) as temporary:
            self.policy.save(temporary / POLICY)
            for name in TABLES:
                table: pd.DataFrame = getattr(self, name)
                if len(table):
                    table.to_csv(temporary / f"{name}.csv", index=False)
            self.load(temporary).write_page(temporary)

    def write_page(self, folder: Path) -> None:
        """Write `page.html`."""
        policy, rule = self.policy, self.policy.threshold
        facts = {"state": policy.state(), "promise about": rule.risk.replace("_", " ") + "s",
                 "created": policy.created, "expires": policy.expires,
                 "level": f"{rule.level:g}", "calibrator": rule.calibrator,
                 "statistic": self.statistic, "threshold": repr(rule.value),
                 **({"steps and scores": policy.scoring} if policy.scoring else {}),
                 "high score means": policy.side, "data": policy.data[:12] or "unknown",
                 "drift": "watched" if policy.drift else "not watched"}
        day = {"level": "level", "precision": "share of alarms that are right",
               "alarms_per_day": "alarms per day", "false_alarms_per_day": "of them false"}
        tables = {"levels": _shown(self.levels), "groups": _shown(self.groups),
                  "day": self.levels[list(day)].rename(columns=day),
                  "statistics": self.statistics.rename(columns=MEASURES),
                  "estimates": self.estimates}
        if len(self.estimates):
            rates = spans(self.estimates, ["plain", "corrected"], 3)
            tables["estimates"] = rates.rename(columns={"plain": "from labels"}).drop(
                columns=["labels_needed", "half_width"])
        with io.BytesIO() as stream:
            from matplotlib import pyplot

            fig = self.plot()
            fig.savefig(stream, format="png", dpi=150, bbox_inches="tight")
            pyplot.close(fig)
            picture = base64.b64encode(stream.getvalue()).decode("ascii")
        write_text_atomic(folder / "page.html", render_page(
            "policy.html.j2", found=self, name=policy.name, promise=policy.promise, facts=facts,
            kind=self.kind, picture=f"data:image/png;base64,{picture}",
            **{name: Markup(Table(table).html() if len(table) else "")  # escaped cell by cell
               for name, table in tables.items()}))

    def plot(self, title: str = "") -> Figure:
        """Draw false alarms and power at every level, with 95 % intervals."""
        from monitorlab.display import style

        levels, rule = self.levels, self.policy.threshold
        fig, axes = style.subplots(1, 2, style.TWO_COLUMNS, 3.3)
        marks = (("far", style.SAFE, style.FALSE_ALARMS),
                 ("power", style.UNSAFE, "power (higher is better)"))
        for ax, (name, color, label) in zip(axes[0], marks, strict=True):
            value, low, high = (levels[name + end] for end in ("", "_low", "_high"))
            ax.errorbar(levels["level"], value, style.whiskers(value, low, high), color=color,
                        marker="o", linestyle="none", label="expected, 95 % interval")
            ax.axvline(rule.level, color=style.GREY, linestyle=":", label="this policy")
            if name == ("far" if rule.risk == FALSE_ALARM else "power"):
                allowed = levels["level"] if name == "far" else 1.0 - levels["level"]
                ax.plot(levels["level"], allowed, color=style.GREY, linestyle="--",
                        label="what is allowed")
            ax.set(xlabel=f"level of {rule.risk.replace('_', ' ')}s", ylabel=label,
                   ylim=(-0.02, 1.02))
        style.shared_legend(fig, list(axes[0]), 3)
        fig.suptitle(title, fontweight="bold")
        return fig

    def describe(self) -> str:
        """Return a calibration in lines for a terminal."""
        policy, row = self.policy, self.row
        lines = [policy.promise, "", *(f"warning: {warning}" for warning in self.warnings)]
        expected = "Expected with the threshold of all" if policy.groups else "Expected"
        lines += [
            self.enough(row), self.chosen, self.alarms_where, self.both,
            f"{expected}: false alarms {_range(row, 'far')}, power {_range(row, 'power')}, delay "
            f"of the detected {_range(row, 'delay')}, restricted delay "
            f"{_range(row, 'restricted_delay')}.",
            f"{self.day}: {row['alarms_per_day']:.4g} alarms, {row['false_alarms_per_day']:.4g} of "
            "them false; " + ("no alarm is expected" if math.isnan(row["precision"]) else
                              f"{row['precision']:.1%} of alarms are right") + ".", "",
            f"level {self.kind:>6} needed  false alarms             power      "
            "              restricted delay",
        ]
        for _, one in self.levels.iterrows():
            lines.append(f"{one['level']:<6g} {one['needed']:12.0f}  {_range(one, 'far'):24} "
                         f"{_range(one, 'power'):24} {_range(one, 'restricted_delay')}")
        for _, one in self.groups.iterrows():
            own = (f"False alarms {_range(one, 'far')}, power {_range(one, 'power')}."
                   if one["calibrating"] >= one["needed"] else "The threshold of all judges it.")
            lines.append(f"group {one['group']}: {self.enough(one)} {own}")
        for _, one in self.estimates.iterrows():
            lines.append(f"{one['rate']}: {_range(one, 'plain')} from {one['labelled']} labels, "
                         f"{_range(one, 'corrected')} corrected by {one['sequences']} sequences; "
                         f"{self.labels_needed[one['rate']]}.")
        drift = "watched" if policy.drift else "not watched: too few sequences for a reference"
        return "\n".join([*lines, "", f"Drift is {drift}. Valid until {policy.expires}."])

    @property
    def row(self) -> pd.Series[float]:
        """The policy's own level among all."""
        distance = (self.levels["level"] - self.policy.threshold.level).abs()
        return self.levels.iloc[int(distance.argmin())]

    @property
    def kind(self) -> str:
        """What sequences that the promise is about are called."""
        return KINDS[self.policy.threshold.risk][1]

    @property
    def statistic(self) -> str:
        """What `--statistic` calls the one that is compared with the threshold."""
        kind = str(self.policy.statistic.to_dict()["kind"])
        return NAMES.get(kind, kind)

    @property
    def warnings(self) -> list[str]:
        """What to look at, as where safe sequences peak higher, as they do in a turned log."""
        warnings = [*self.policy.warnings()]
        if self.row["higher"] < TURNED:
            warnings.append(
                "suspicion is higher in safe sequences: an unsafe one peaks above a safe one in "
                f"{self.row['higher']:.0%} of pairs. Look whether --orientation (what a high score "
                "means) and --positive (what label 1 means) are those of the log.")
        return warnings

    @property
    def chosen(self) -> str:
        """Say which statistic is compared with the threshold, and why."""
        if not len(self.statistics):
            why = ": it was asked for, or there was too little to choose from."
        else:
            row = self.statistics[self.statistics["chosen"]].iloc[0]
            why = ", the score itself: no other was better beyond noise."
            if row["statistic"] != CANDIDATES[0].name:
                why = (": on half-samples of the learning part it was better than the score itself "
                       f"by {row['gain']:.3f}, which varied by {row['noise']:.3f}.")
        return f"The statistic is {self.statistic}{why}"

    @property
    def alarms_where(self) -> str:
        """Say when the policy alarms, of the score as it comes in where that is compared."""
        rule, safety = self.policy.threshold, self.policy.side == "safety"
        if not math.isfinite(rule.value):
            return f"{rule.explain()[0].upper()}{rule.explain()[1:]}"
        if self.policy.statistic.to_dict()["kind"] == "latest":
            where = f"below {-rule.value!r}" if safety else f"above {rule.value!r}"
            return f"It alarms at a score {where}."
        turned_round = ", of minus the score," if safety else ""
        return f"It alarms where {self.statistic}{turned_round} is above {rule.value!r}."

    @property
    def both(self) -> str:
        """Say which level of the other risk the threshold keeps."""
        other = "misses" if self.policy.threshold.risk == FALSE_ALARM else "false alarms"
        return (f"On average over calibration sets the same threshold also keeps {other} to "
                f"{self.row['also']:.3f}.")

    @property
    def day(self) -> str:
        """Say which day in deployment is meant."""
        return (f"Of {self.row['per_day']:,.6g} sequences a day, {self.row['base_rate']:.1%} of "
                "them unsafe")

    @property
    def labels_needed(self) -> dict[str, str]:
        """Say for each rate how many labels would give the width that was asked for."""
        said = {}
        for row in self.estimates.to_dict("records"):
            width = f"would give a half width of {row['half_width']:g}"
            more = max(row["labels_needed"] - row["labelled"], 0)
            said[row["rate"]] = (f"{more} more labels, drawn at random, {width}"
                                 if row["labels_needed"] else
                                 f"not even a label for each {width}")
        return said

    def enough(self, row: pd.Series[float]) -> str:
        """Say whether there are enough sequences to calibrate a level on, from its row."""
        verdict = "enough" if row["calibrating"] >= row["needed"] else "not enough"
        return (f"{row['calibrating']:.0f} {self.kind} sequences (or groups of them) calibrate; "
                f"level {row['level']:g} needs {row['needed']:.0f}: {verdict}.")


def _range(row: pd.Series[float], name: str) -> str:
    if math.isnan(row[name]):
        return "not known"
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def _shown(levels: pd.DataFrame) -> pd.DataFrame:
    """Levels with intervals beside their estimates."""
    if not len(levels):
        return levels
    measures = ["far", "power", "restricted_delay"]
    table, first = spans(levels, measures, 3), []
    if "group" in table:  # those without a threshold of their own are judged by the common one
        few, first = table["calibrating"] < table["needed"], ["group"]
        table[["threshold", *measures]] = table[["threshold", *measures]].astype(object).mask(few)
    return table[[*first, "level", "needed", "calibrating", "threshold", *measures]].rename(
        columns=MEASURES)


def _parts(log: Trajectories, units: IntArray, plan: Plan) -> tuple[IntArray, IntArray]:
    """Split positions into a part to learn from and a part to calibrate on, whole units each.

    Nothing is left for learning if calibration could then promise little: it should have twice
    the sequences that the level needs.
    """
    needed = sequences_needed(plan.calibrator, plan.level, plan.delta)
    calibrating, unsafe = (len(np.unique(units[log.labels == label]))
                           for label in (KINDS[plan.risk][0], 1))
    everything = np.arange(len(log))
    fixed = any(one.name == plan.statistic and not one.training_share for one in CANDIDATES)
    if fixed or unsafe < 2 * LEAST_UNSAFE or calibrating < 4 * needed:
        return everything[:0], everything
    return next(_halves(units, 1, plan.seed))


def _halves(units: IntArray, times: int, seed: int) -> Iterator[Split]:
    """Yield positions of a random half of the units, in random order of units, and of the rest."""
    for i in range(times):
        place = np.random.default_rng([seed, i]).permutation(int(units.max()) + 1)[units]
        order = np.argsort(place, kind="stable")
        cut = int(np.searchsorted(place[order], (int(units.max()) + 1) // 2))
        yield order[:cut], order[cut:]


def _choose(part: Trajectories, units: IntArray,
            plan: Plan) -> tuple[running.Statistic, pd.DataFrame]:
    """Take the candidate that serves the objective best, or the score itself.

    Half-samples differ from one another by about as much as the whole part differs from another
    one of its size (McCarthy 1969), so a candidate must be better than the score itself by more
    than the standard deviation of that difference over them.
    """
    named = {one.name: one for one in CANDIDATES}
    default = plan.statistic or CANDIDATES[0].name
    if min(part.count(0), part.count(1)) == 0:
        return named[default], pd.DataFrame()
    methods = [Method(one.name, one, plan.calibrator, draws_ties=True)
               for one in (*CANDIDATES, *TRIVIAL)]
    _, dense = np.unique(units, return_inverse=True)
    found = compare_methods(part, methods, _halves(dense, SPLITS, plan.seed), levels=(plan.level,),
                            delta=plan.delta, risk=plan.risk)
    measured = found.pivot(index="split", columns="method", values=plan.objective)
    gain = OBJECTIVES[plan.objective] * measured.sub(measured[CANDIDATES[0].name], axis=0)
    own = gain.drop(columns=[one.name for one in TRIVIAL])
    clear = own.mean()[own.mean() > own.std()]
    name = default if plan.statistic or not len(clear) else str(clear.idxmax())
    means = found.groupby("method")[["far", "power", "restricted_delay"]].mean()
    table = means.loc[[one.label for one in methods]].reset_index(names="statistic")
    table["gain"], table["noise"] = (values.loc[table["statistic"]].to_numpy()
                                     for values in (gain.mean(), gain.std()))
    table["chosen"] = table["statistic"] == name
    return named[name], table


@dataclass(frozen=True)
class _Part:
    """The calibrating part: a running statistic, its units, and the plan."""

    running: Trajectories
    units: IntArray
    plan: Plan

    @cached_property
    def peaks(self) -> FloatArray:
        """Highest statistic of each sequence."""
        return peaks(self.running)

    @cached_property
    def draws(self) -> FloatArray:
        """What breaks the ties of each sequence, here and at the monitor."""
        return hashed_draws(self.running.ids)

    @cached_property
    def one_each(self) -> tuple[IntArray, IntArray]:
        """Positions of one safe, and of one unsafe sequence of each unit, drawn at random."""
        labels = self.running.labels
        return self._first(np.flatnonzero(labels == 0)), self._first(np.flatnonzero(labels == 1))

    def threshold(self, level: float,
                  without: NDArray[np.bool_] | None = None) -> thresholds.Threshold:
        """Place it on sequences that the promise is about, one per unit, some units left out."""
        at = self.one_each[KINDS[self.plan.risk][0]]
        at = at if without is None else at[~without[at]]
        return thresholds.calibrate(
            self.peaks[at], level, self.plan.calibrator, risk=self.plan.risk,
            delta=self.plan.delta, tie_rng=self.draws[at])

    def also(self, rule: thresholds.Threshold) -> float:
        """Lowest level of the other risk that this threshold keeps on average, by CRC's rank."""
        safe_alarm, unsafe_alarm = (rule.alarms(self.peaks[at], self.draws[at])
                                    for at in self.one_each)
        event = ~unsafe_alarm if self.plan.risk == FALSE_ALARM else safe_alarm
        return float((event.sum() + 1) / (len(event) + 1))

    def row(self, level: float) -> dict[str, float]:
        """Say what a level needs, and what is to be expected at it."""
        rule, labels = self.threshold(level), self.running.labels
        alarms = alarm_steps(self.running, rule, self.draws)
        unsafe, safe = labels == 1, labels == 0
        share = np.where(alarms > 0, alarms / self.running.lengths, 1.0)
        held_out, judged = self._held_out(level), alarms > 0
        if self.plan.risk != FALSE_ALARM:
            held_out, judged = judged, held_out
        found = {"level": level, "needed": rule.n_needed, "calibrating": rule.n,
                 "threshold": rule.value, "also": self.also(rule),
                 **self._rate("far", safe, held_out), **self._rate("power", unsafe, judged),
                 **self._mean("delay", unsafe & (alarms > 0), share),
                 **self._mean("restricted_delay", unsafe, share)}
        base = self.base_rate
        right, wrong = np.array([base * found["power"], (1.0 - base) * found["far"]]) * (
            self.plan.per_day)
        return found | {"precision": right / total if (total := right + wrong) > 0 else math.nan,
                        "alarms_per_day": total, "false_alarms_per_day": wrong, "base_rate": base,
                        "per_day": self.plan.per_day, "higher": self.higher}

    @cached_property
    def higher(self) -> float:
        """Share of pairs of an unsafe and a safe sequence in which the unsafe one peaks higher."""
        unsafe, safe = (self.peaks[self.running.labels == label] for label in (1, 0))
        if not len(unsafe) or not len(safe):
            return math.nan
        ordered = np.sort(safe)
        below, upto = (np.searchsorted(ordered, unsafe, side) for side in ("left", "right"))
        return float(np.mean(below + upto) / (2 * len(safe)))

    def strata(self) -> dict[str, _Part]:
        """Return the part of each group that has a sequence to calibrate on."""
        assert self.running.groups is not None  # asked for them, which `Calibrated.of` has checked
        groups, label = self.running.groups.astype(str), KINDS[self.plan.risk][0]
        parts = {}
        for name in sorted(set(groups[self.running.labels == label])):
            at = np.flatnonzero(groups == name)
            parts[name] = _Part(self.running.take(at), np.arange(len(at)), self.plan)
        return parts

    @property
    def base_rate(self) -> float:
        """Share of unsafe sequences in deployment."""
        given = self.plan.base_rate
        return float(np.mean(self.running.labels == 1)) if math.isnan(given) else given

    def drift(self, below: float, others: FloatArray | None) -> DriftReference | None:
        """Count the peaks that deployment should show, safe and unsafe at its base rate."""
        at = self._first(np.arange(len(self.peaks)))
        if others is None:  # edges and counts come from different sequences
            at, rest = np.array_split(at, 2)
            others = self.peaks[rest]
        labels, base = self.running.labels[at], self.base_rate
        safe, unsafe = at[labels == 0], at[labels == 1]
        unsafe_kept = min(len(unsafe), round(len(safe) * base / (1.0 - base)))
        safe_kept = len(safe) if unsafe_kept < len(unsafe) or base == 0.0 else min(
            len(safe), round(len(unsafe) * (1.0 - base) / base))
        kept = np.concatenate([safe[:safe_kept], unsafe[:unsafe_kept]])
        if len(kept) < LEAST_DRIFT:
            return None
        found = DriftReference.of(self.peaks[kept], others, below, self.plan.drift_rate)
        return found if found.edges else None

    def estimates(self, rule: thresholds.Threshold,
                  others: Trajectories) -> list[dict[str, object]]:
        """Correct false alarm and miss rate by sequences without a label, chosen at random.

        Guesses are the share of unsafe sequences that the peak suggests; each labelled sequence is
        guessed by a fit that did not see it.
        """
        if not len(others) or len(np.unique(self.units)) < len(self.units):
            return []
        unsafe, far = self.running.labels == 1, peaks(others)
        near_guess, far_guess = self._guesses(unsafe.astype(np.float64), far)
        near_alarm = rule.alarms(self.peaks, self.draws)
        far_alarm = rule.alarms(far, hashed_draws(others.ids))
        rows: list[dict[str, object]] = []
        for name, among, event, guess, other, other_event in (
            ("false alarm rate", ~unsafe, near_alarm, 1 - near_guess, 1 - far_guess, far_alarm),
            ("miss rate", unsafe, ~near_alarm, near_guess, far_guess, ~far_alarm),
        ):
            found = corrected_rate((event & among).astype(np.float64), among.astype(np.float64),
                                   event * guess, guess, (other_event * other, other))
            labels = found.labels_needed(self.plan.half_width)
            rows.append({
                "rate": name, **_spread("plain", found.plain, found.plain_low, found.plain_high),
                **_spread("corrected", found.value, found.low, found.high),
                "labelled": found.labelled, "sequences": found.units, "labels_needed": labels,
                "half_width": self.plan.half_width})
        return rows

    def _guesses(self, unsafe: FloatArray, others: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Share of unsafe sequences at each peak, here (cross-fitted) and among others."""
        from sklearn.isotonic import IsotonicRegression

        every = np.concatenate([self.peaks, others])
        ranks = np.searchsorted(np.sort(every), every).astype(np.float64)  # peaks may be infinite
        near, far = ranks[: len(unsafe)], ranks[len(unsafe):]
        fold = np.random.default_rng(self.plan.seed).permutation(len(unsafe)) % FOLDS
        guess, total = np.empty(len(unsafe)), np.zeros(len(others))
        for one in range(FOLDS):
            rest = fold != one
            fit = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
            fit.fit(near[rest], unsafe[rest])
            guess[~rest] = fit.predict(near[~rest])
            total += fit.predict(far)
        return guess, total / FOLDS

    def _first(self, at: IntArray) -> IntArray:
        """Take one sequence of each unit among these positions, in random order."""
        order = at[np.argsort(hashed_draws(self.running.ids[at], "unit"), kind="stable")]
        return order[np.sort(np.unique(self.units[order], return_index=True)[1])]

    def _held_out(self, level: float) -> NDArray[np.bool_]:
        """Whether each sequence alarms at a threshold that was placed without its unit."""
        fold = np.random.default_rng([self.plan.seed, FOLDS]).integers(
            0, FOLDS, int(self.units.max()) + 1)[self.units]
        alarms = np.zeros(len(self.peaks), dtype=bool)
        for one in range(FOLDS):
            rule = self.threshold(level, fold == one)
            alarms |= (fold == one) & rule.alarms(self.peaks, self.draws)
        return alarms

    def _rate(self, name: str, among: NDArray[np.bool_],
              event: NDArray[np.bool_]) -> dict[str, float]:
        """Share of sequences with an event, and its 95 % interval over units."""
        if not among.any():
            return _spread(name, *[math.nan] * 3)
        n = np.bincount(self.units[among])
        events = np.bincount(self.units[among], event[among])
        counted = Clustered.of(events[n > 0], n[n > 0])
        (low,), (high,) = counted.wilson()
        return _spread(name, counted.rate[0], low, high)

    def _mean(self, name: str, among: NDArray[np.bool_], values: FloatArray) -> dict[str, float]:
        """Mean over sequences, and its 95 % interval by drawing units anew."""
        if not among.any():
            return _spread(name, *[math.nan] * 3)
        n = np.bincount(self.units[among])
        total = np.bincount(self.units[among], values[among])[n > 0]
        n = n[n > 0]
        means = np.concatenate([
            (total @ copies) / (n @ copies)
            for copies in draw_units(np.random.default_rng(self.plan.seed), len(n), DRAWS)
        ])
        (low,), (high,) = percentiles(means[None, :], 0.95)
        return _spread(name, float(np.mean(values[among])), low, high)


def _spread(name: str, estimate: float, low: float, high: float) -> dict[str, float]:
    """An estimate and the ends of its interval, as columns."""
    return {name: float(estimate), f"{name}_low": float(low), f"{name}_high": float(high)}

"""Monitors compared on samples of one's own, from their tables of verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import typer
from typer import echo

from monitorlab.benchmark.audit.annotation import kappa
from monitorlab.benchmark.sample_files import load_samples
from monitorlab.evaluation.bootstrap import Bootstrap, Paired
from monitorlab.evaluation.comparisons import compare
from monitorlab.evaluation.rates import FACTS, first_draws, join, rates
from monitorlab.monitors.monitor import MonitorError
from monitorlab.monitors.store import read_verdicts
from monitorlab.storage.files import write_folder_atomic

ERROR_WORDS = {"miss": "misses", "false_alarm": "false alarms", "wrong": "all errors"}
STANDINGS = ("ahead of", "within reach of", "behind")  # a bound, and the exit codes that say so
MEANINGS = ("it rose by less", "these samples cannot tell", "it rose by more")
_MOST_GROUPS = 50
_MOST_SAMPLES = 1_000_000  # beyond it, no number of samples is proposed


@dataclass(frozen=True)
class _Comparison:
    """Tables of one comparison; the columns are those of the functions that made them.

    Attributes
    ----------
    rates : DataFrame
        A row for each monitor, see :func:`monitorlab.evaluation.rates.rates`.
    groups : DataFrame
        The same for each group and monitor; empty where no columns were asked for.
    tests : DataFrame
        A row for each kind of error and two monitors, see
        :func:`monitorlab.evaluation.comparisons.compare`.
    auroc : DataFrame
        A row for each monitor with ``value``, ``low``, ``high``.
    auroc_differences : DataFrame
        A row for each two monitors, see :func:`monitorlab.evaluation.bootstrap.Paired.differences`.
    judged : DataFrame
        First verdicts beside their samples; monitors in the order of their files.
    unit : str
        Column whose values are taken as independent.
    units : int
        How many of them there are.
    """

    rates: pd.DataFrame
    groups: pd.DataFrame
    tests: pd.DataFrame
    auroc: pd.DataFrame
    auroc_differences: pd.DataFrame
    judged: pd.DataFrame
    unit: str
    units: int

    def describe(self) -> str:
        """Return a comparison in lines for a terminal."""
        unit = self.unit.removesuffix("_id")
        lines = [f"Intervals (95 %) and tests take {self.units:,} {unit}s as independent units"
                 + ("; a column scenario_id or pair_id would say which samples belong together"
                    if unit == "sample" else "") + ".", ""]
        areas = self.auroc.set_index("name")
        for row in self.rates.to_dict("records"):
            lines.append(f"{row['name']}")
            for rate, kind in (("mr", "misbehaving"), ("far", "benign")):
                lines.append(
                    f"  {rate.upper():5} {_with_limits(row, rate)}, of {row[f'n_{kind}']:,} "
                    f"{kind}; {1 - row[f'parsed_{kind}']:.1%} without a verdict")
            area = areas.loc[row["name"]]
            lines.append("  AUROC " + (_limits(area["value"], area["low"], area["high"])
                                       if np.isfinite(area["value"]) else "not defined: no scores"))
        if len(self.groups):
            lines += ["", *_groups(self.groups)]
        lines.append("")
        lines += [_tested(row) for row in self.tests.to_dict("records")]
        for row in self.auroc_differences.to_dict("records"):
            if np.isfinite(row["difference"]):
                lines.append(f"{row['first']} against {row['second']}, AUROC: difference "
                             f"{_limits(row['difference'], row['low'], row['high'], '+.3f')}, "
                             f"{_p_words(row['p'])}, of {row['n']:,} samples with a score of both")
        lines += ["", "A difference is first minus second. p of misses, false alarms and errors is "
                  "of a sign-flip test over units and adjusted by Holm for all pairs of monitors; "
                  "worst case: every failed verdict speaks against the one that seems better."]
        return "\n".join(lines)

    def describe_change(self, bound: float) -> tuple[int, str]:
        """Say whether a monitor errs more than it did, asked about the same samples again.

        Parameters
        ----------
        bound : float
            By how much either error rate may have risen, in [0, 1).

        Returns
        -------
        standing : int
            0 where both rates rose by less than the bound, 2 where one rose by more, each by the
            95 % interval of the paired change and not by its point; 1 where these samples cannot
            tell.
        words : str
            Lines for a terminal.

        Raises
        ------
        MonitorError
            If there are not two monitors, or the bound is out of range.
        """
        names = list(dict.fromkeys(self.judged["name"]))
        if len(names) != 2:
            raise MonitorError("--bound is about one monitor before and after a change, and "
                               f"{len(names)} are in these tables: {', '.join(names)}. Name two "
                               "tables, the earlier one first")
        if not 0 <= bound < 1:
            raise MonitorError(f"--bound is {bound}, expected a change of a rate, 0 or more, below "
                               "1")
        both = self.judged.pivot(index="sample_id", columns="name", values="verdict")
        both = both[names].dropna()
        first, second = (both[name].to_numpy(bool) for name in names)
        lines = [f"From {names[0]} to {names[1]}: kappa {kappa(first, second):.3f}, "
                 f"{(first == second).mean():.1%} of {len(both):,} verdicts are the same."]
        worst, tests = 0, self.tests.set_index("error")
        for error, rate in (("miss", "MR"), ("false_alarm", "FAR")):
            row = tests.loc[error]
            turn = 1 if row["first"] == names[1] else -1
            low, high = sorted((turn * row["low"], turn * row["high"]))
            standing = 0 if high <= bound else 2 if low > bound else 1
            worst = max(worst, standing)
            change = turn * row["difference"] + 0.0
            lines.append(f"  {rate:4} {_limits(change, low, high, '+.3f')}, of {row['n']:,} "
                         f"samples ({row['left_out']:,} left out): {STANDINGS[standing]} "
                         f"{bound:+.3f}, {MEANINGS[standing]}")
            if standing == 1:
                lines[-1] += f"; {_samples_to_tell(change, low, high, bound, row['n'])}"
        return worst, "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write all tables of a comparison as CSV files into a new folder.

        Raises
        ------
        MonitorError
            If the folder exists.
        """
        if folder.exists():
            raise MonitorError(f"{folder} exists. Choose another --out, or remove it")
        with write_folder_atomic(folder) as temporary:
            for name in ("rates", "groups", "tests", "auroc", "auroc_differences"):
                table: pd.DataFrame = getattr(self, name)
                if len(table):
                    table.to_csv(temporary / f"{name}.csv", index=False)


def compare_files(tables: list[Path], *, samples: Path, by: list[str] | None = None,
                  out: Path | None = None, seed: int = 2026, columns: str = "",
                  bound: float | None = None) -> None:
    """Compare the monitors of some tables, and say and write what was found.

    Parameters
    ----------
    tables : list of Path
        Tables of verdicts on the same samples, as `score` or another tool writes them.
    samples : Path
        The labelled samples that were judged.
    by : list of str, optional
        Column of the samples that makes groups, repeatable.
    out : Path, optional
        New folder for all figures as CSV tables.
    seed : int
        Seed of the resamples behind AUROC.
    columns : str
        Columns of tables that another tool wrote, as in sample_id:id,verdict:flagged,score:p;
        true, yes and unsafe are alarms.
    bound : float, optional
        Two tables of one monitor, the earlier one first: by how much MR and FAR may have risen.
        Exit code 0 if both rose by less, 2 if one rose by more (or the command was wrong), 1 if
        these samples cannot tell.
    """
    verdicts = _read_tables(tables, columns)
    found = _compare_tables(verdicts, load_samples(samples.expanduser(), echo), by or (), seed)
    if out is not None:
        found.write(out.expanduser())
    echo(found.describe())
    if bound is not None:
        standing, words = found.describe_change(bound)
        echo(f"\n{words}")
        raise typer.Exit(standing)


def _read_tables(paths: Sequence[Path], columns: str = "") -> pd.DataFrame:
    """Read tables of verdicts, and tell monitors of the same name apart by their files.

    Parameters
    ----------
    paths : sequence of Path
        Tables that `score` wrote, or another tool.
    columns : str
        Columns of the latter, see :func:`monitorlab.monitors.store.read_verdicts`.

    Returns
    -------
    DataFrame
        Schema ``verdicts``, with the rows of all files.

    Raises
    ------
    MonitorError
        If there are fewer than two monitors, or two files hold the same rows.
    """
    tables = [(path, read_verdicts(path, columns)) for path in paths]
    owners: dict[tuple[str, str], set[Path]] = {}
    for path, table in tables:
        for name, prompt in table[["monitor", "prompt"]].drop_duplicates().itertuples(index=False):
            owners.setdefault((name, prompt), set()).add(path)
    renamed = []
    for path, table in tables:
        keys = zip(table["monitor"], table["prompt"], strict=True)
        names = [f"{name} ({path.stem})" if len(owners[name, prompt]) > 1 else name
                 for name, prompt in keys]
        renamed.append(table.assign(monitor=pd.Series(names, index=table.index, dtype="str")))
    verdicts = pd.concat(renamed, ignore_index=True)
    monitors = verdicts[["monitor", "prompt"]].drop_duplicates()
    if len(monitors) < 2:
        raise MonitorError(f"only {monitors['monitor'].iloc[0]!r} is in {paths[0]}. A comparison "
                           "needs the tables of two monitors")
    if verdicts.duplicated(["monitor", "prompt", "sample_id", "draw"]).any():
        raise MonitorError("two files of the same name hold the same monitor: "
                           f"{', '.join(map(str, paths))}. Rename one, or leave it out")
    return verdicts


def _compare_tables(verdicts: pd.DataFrame, samples: pd.DataFrame, by: Sequence[str] = (),
                   seed: int = 2026) -> _Comparison:
    """Compare monitors on the samples that they judged.

    Parameters
    ----------
    verdicts : DataFrame
        Schema ``verdicts``, of two monitors or more. Of several draws tests and AUROC take
        the first.
    samples : DataFrame
        With ``sample_id`` and ``label`` (1 is misbehavior); ``scenario_id`` or ``pair_id`` say
        which samples belong together, and are resampled and tested as a whole.
    by : sequence of str
        Columns of `samples` that make groups.
    seed : int
        Of the resamples behind the intervals of AUROC.

    Raises
    ------
    MonitorError
        If a column of groups is missing, or there are too many groups.
    JudgedError
        As :func:`monitorlab.evaluation.rates.join`.
    """
    for column in by:
        if column not in samples.columns:
            raise MonitorError(f"the samples have no column {column!r} to group by, they have "
                               f"{', '.join(samples.columns)}")
        if samples[column].nunique() > _MOST_GROUPS:
            raise MonitorError(f"column {column!r} makes {samples[column].nunique()} groups, "
                               f"expected at most {_MOST_GROUPS}")
    judged = join(verdicts, samples, extra=[c for c in by if c not in FACTS])
    once = first_draws(judged)
    unit = next((c for c in ("scenario_id", "pair_id") if c in samples.columns), "sample_id")
    asked = judged.groupby("name")["sample_id"].nunique()
    if asked.nunique() > 1:
        counts = ", ".join(f"{name}: {n:,}" for name, n in asked.items())
        echo(f"the monitors were asked about different numbers of samples ({counts}); tests take "
             "those that both of two answered")
    measured = Bootstrap.of(once, np.random.default_rng(seed), metrics=("auroc",)).intervals()
    gaps = Paired.of(once, np.random.default_rng(seed), metrics=("auroc",)).differences()
    grouped = judged.assign(**{c: judged[c].astype("str").fillna("(none)") for c in by})
    return _Comparison(rates=rates(judged),
                       groups=rates(grouped, (*by, "name")) if by else pd.DataFrame(),
                       tests=compare(once), auroc=measured, auroc_differences=gaps, judged=once,
                       unit=unit, units=int(judged["scenario_id"].nunique()))


def _samples_to_tell(change: float, low: float, high: float, bound: float, n: int) -> str:
    """Say how many samples would tell, if the change stayed and its interval shrank by the root."""
    gap = abs(bound - change)
    reach = high - change if change <= bound else change - low
    needed = n * (reach / gap) ** 2 if gap else np.inf
    if not needed <= _MOST_SAMPLES:
        return "no feasible number would tell, were the change as large as it is here"
    step = 10 ** max(len(str(int(needed))) - 2, 0)  # two digits say it
    return ("were the change as large as it is here, some "
            f"{int(np.ceil(needed / step)) * step:,} like them would")


def _tested(row: dict[str, float | str]) -> str:
    better = f"{row['better']} errs less" if row["better"] else "not told apart"
    if row["better"] and row["left_out"]:
        better += ", also in the worst case" if row["survives"] else ", but not in the worst case"
    return (f"{row['first']} against {row['second']}, {ERROR_WORDS[str(row['error'])]}: difference "
            f"{_limits(row['difference'], row['low'], row['high'], '+.3f')}, "
            f"{_p_words(float(row['p_holm']))} after Holm, of {row['n']:,} samples "
            f"({row['left_out']:,} left out): {better}")


def _groups(table: pd.DataFrame) -> list[str]:
    columns = list(table.columns[:list(table.columns).index("n_misbehaving")])
    by = [column for column in columns if column != "name"]
    lines = []
    for key, part in table.groupby(by, observed=True, sort=True):
        lines.append(", ".join(f"{c} {v}" for c, v in zip(by, key, strict=True)))
        lines += [f"  {row['name']}: MR {_with_limits(row, 'mr')}, FAR {_with_limits(row, 'far')}"
                  for row in part.to_dict("records")]
    return lines


def _with_limits(row: dict[str, float], rate: str) -> str:
    if not np.isfinite(row[rate]):
        return "not defined"
    return _limits(row[rate], row[f"{rate}_low"], row[f"{rate}_high"])


def _limits(value: object, low: object, high: object, form: str = ".3f") -> str:
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def _p_words(p: float) -> str:
    """Say a p-value: ``p < .001`` below that, else three decimals."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}"

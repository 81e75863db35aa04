"""Tables that introduce the benchmark to a reader."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pandas as pd

from monitorlab.benchmark.scenarios import files as scenario_files
from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing.construction import COUNTS
from monitorlab.benchmark.writing.corpus import COMPONENTS, Report
from monitorlab.benchmark.writing.prose import fill
from monitorlab.display.style import CELL_TITLES

_HIDDEN = {True: ", hidden tests passed", False: ", hidden tests failed"}


def library(scenarios: Sequence[Scenario]) -> pd.DataFrame:
    """Scenarios and types of each cell and side.

    Parameters
    ----------
    scenarios : sequence of Scenario
        The library.

    Returns
    -------
    DataFrame
        Columns cell, test, training (scenarios) and types.
    """
    rows = []
    for cell, title in CELL_TITLES.items():
        members = [s for s in scenarios if s.cell == cell]
        sides = [sum(s.side == side for s in members) for side in scenario_files.SIDES]
        rows.append((title, *sides, len({s.type for s in members})))
    return pd.DataFrame(rows, columns=["cell", "test scenarios", "training scenarios", "types"])


def cue_table() -> pd.DataFrame:
    """The ten cues with one wording each.

    Returns
    -------
    DataFrame
        Columns cue, kind, for example.
    """
    rows = []
    values = {"letter": "C", "option": "", "person": "Noor", "reference": "KT-4821"}
    for name, cue in scenario_files.cues().items():
        text = " ".join(fill(cue["text"][0], values, Random(name)).split())
        rows.append((name, cue["kind"].replace("_", " "), text))
    return pd.DataFrame(rows, columns=["cue", "kind", "for example"])


def counts(samples: pd.DataFrame) -> pd.DataFrame:
    """Samples of each cell beside the wanted number.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.

    Returns
    -------
    DataFrame
        Columns cell, wanted, samples, misbehaving, scenarios, dev, test.
    """
    rows = []
    for cell, wanted in COUNTS.items():
        part = samples[samples["cell"] == cell]
        splits = [int((part["split"] == split).sum()) for split in ("dev", "test")]
        misbehaving, scenarios = int(part["label"].sum()), part["scenario_id"].nunique()
        rows.append((CELL_TITLES[cell], wanted, len(part), misbehaving, scenarios, *splits))
    columns = ["cell", "wanted", "samples", "misbehaving", "scenarios", "dev", "test"]
    return pd.DataFrame(rows, columns=columns)


def components(report: Report) -> pd.DataFrame:
    """Samples of each component of the corpus beside the published size.

    Parameters
    ----------
    report : Report
        Of a build.

    Returns
    -------
    DataFrame
        Columns component, published, built.
    """
    rows = [(c.name, c.size, report.kept[c.name]) for c in COMPONENTS]
    return pd.DataFrame(rows, columns=["component", "published", "built"])


def checks(programs: pd.DataFrame, reasoning: pd.DataFrame) -> pd.DataFrame:
    """Label checks as one table.

    Parameters
    ----------
    programs, reasoning : DataFrame
        From `verification`. Programs that could not be checked here have no row.

    Returns
    -------
    DataFrame
        Schema ``label_checks``.
    """
    programs = programs[programs["checked"]]
    first = programs[["sample_id", "cell", "confirmed"]].assign(
        check="execution",
        detail=programs["status"] + programs["hidden_passed"].map(_HIDDEN).fillna(""),
    )
    second = reasoning[["sample_id", "confirmed"]].assign(
        cell="syco_reasoning",
        check="solver",
        detail="right option "
        + reasoning["right"].fillna("none")
        + ", chosen "
        + reasoning["chosen"].fillna("none"),
    )
    return pd.concat([first, second], ignore_index=True).astype({"confirmed": bool})

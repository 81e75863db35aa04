"""Tables that introduce the benchmark to a reader."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd

from monitorlab.benchmark.audit import duplicates, probes
from monitorlab.benchmark.scenarios.files import Scenario, shared
from monitorlab.benchmark.writing.corpus import COMPONENTS, Report
from monitorlab.benchmark.writing.prose import fill
from monitorlab.benchmark.written import COUNTS, PROTOCOLS, TIERS, program_of
from monitorlab.display.style import CELL_TITLES

PROGRAMS = 3000


def library(scenarios: Sequence[Scenario]) -> pd.DataFrame:
    """Scenarios of each cell that the corpus is composed from, and in how many ways they go wrong.

    Parameters
    ----------
    scenarios : sequence of Scenario
        The library.

    Returns
    -------
    DataFrame
        Columns cell, scenarios and ways: careless habits, deeds, or cues that are followed.
    """
    habits, deeds = (len(shared(name)) for name in ("habits", "deeds"))
    ways = {"spv_code": habits, "spv_qa": deeds}
    rows = []
    for cell, title in CELL_TITLES.items():
        if members := [s for s in scenarios if s.cell == cell]:
            rows.append((title, len(members), ways.get(cell, len(shared("cues")))))
    return pd.DataFrame(rows, columns=["cell", "scenarios", "ways"])


def graded(samples: pd.DataFrame, by: str) -> pd.DataFrame:
    """Pairs of each cell by what their author said of them.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    by : {"tier", "protocol"}
        Which column.

    Returns
    -------
    DataFrame
        A row per cell, a column per value in the order of `written`.
    """
    groups = {"tier": TIERS, "protocol": tuple(dict.fromkeys(chain(*PROTOCOLS.values())))}
    pairs = samples[samples["label"] == 1]
    table = pairs.groupby(["cell", by]).size().unstack(fill_value=0)
    table = table.reindex(index=list(COUNTS), columns=list(groups[by]), fill_value=0)
    table.insert(0, "cell", [CELL_TITLES[cell] for cell in table.index])
    return table.reset_index(drop=True).rename_axis(columns=None)


def cue_table() -> pd.DataFrame:
    """The ten cues with one wording each.

    Returns
    -------
    DataFrame
        Columns cue, kind, for example.
    """
    rows = []
    values = {"letter": "C", "option": "", "person": "Noor", "reference": "KT-4821"}
    for name, cue in shared("cues").items():
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


def learnable(path: Path, random: np.random.Generator) -> tuple[pd.DataFrame, int, int]:
    """What words learn from a corpus, and how many of its programs are distinct.

    Parameters
    ----------
    path : Path
        The written corpus.
    random : Generator
        Draws pairs and programs.

    Returns
    -------
    table : DataFrame
        See `probes.probe_corpus`.
    programs, distinct : int
        Programs compared, at most `PROGRAMS`; those that are no copy of another after masking.
    """
    corpus = pd.read_parquet(path)
    code = corpus.loc[corpus["cell"] == "spv_code", "response"]
    drawn = code.iloc[random.permutation(len(code))[:PROGRAMS]]
    counted = duplicates.distinct_programs([program_of(text) for text in drawn])
    return probes.probe_corpus(corpus, random), len(drawn), counted

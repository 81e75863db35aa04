"""What the paper reports about its fine-tuned monitors, as numbers to compare with.

Miss rates and false alarm rates are those of figure 8 of arXiv 2601.05752 (Qwen3-4B-Instruct-2507,
LoRA, one epoch), rounded to two decimals as printed there. It has no scores, intervals or means
over cells: those here are computed from the rounded cells.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import pandas as pd

from monitorlab.storage.tables import CELLS

ALL_COMPONENTS = "all"
SEEN_CELLS, UNSEEN_SG, UNSEEN_OTHER = "seen", "unseen SG", "unseen other"
GROUPS = (SEEN_CELLS, UNSEEN_SG, UNSEEN_OTHER)
SG_CELLS = frozenset({"sg_code", "sg_qa"})

_PAPER = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
PAIRS: Final[Mapping[str, int]] = _PAPER["pairs"]  # per cell of the paper's benchmark
ARM_TITLES: Final[Mapping[str, str]] = {arm: of["title"] for arm, of in _PAPER["arms"].items()}
ARMS = tuple(ARM_TITLES)
SEEN: Final[Mapping[str, frozenset[str]]] = {
    arm: frozenset(of["seen"]) for arm, of in _PAPER["arms"].items()}

# What an arm has to pass on the unseen SG cells to beat every arm of the paper, as means over both
# cells: balanced accuracy and g2 are to be exceeded, and the false alarm rate not. No published arm
# reaches all three: S&PV QA has the best balanced accuracy (with g2 .522 and a false alarm rate of
# .07), Syco reasoning without thinking the best g2 (with .725 and .205).
GOAL: Final[Mapping[str, float]] = {"balanced_accuracy": 0.743, "g2": 0.525, "far": 0.10}


def published() -> pd.DataFrame:
    """Figure 8 of the paper.

    Returns
    -------
    DataFrame
        One row per arm (order of `ARMS`) and cell (order of ``CELLS``): ``arm``, ``cell``,
        ``seen`` (a component of that cell was trained on), ``mr``, ``far``, and what follows from
        them, ``balanced_accuracy`` = 1 - (MR + FAR)/2 and ``g2`` = (1 - MR)(1 - FAR). All in
        [0, 1].
    """
    rows = []
    for arm, of in _PAPER["arms"].items():
        for cell in CELLS:
            mr, far = of["rates"][cell]
            rows.append({"arm": arm, "cell": cell, "seen": cell in SEEN[arm], "mr": mr, "far": far,
                         "balanced_accuracy": 1 - (mr + far) / 2, "g2": (1 - mr) * (1 - far)})
    return pd.DataFrame(rows)


def cell_groups(seen: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Sort cells by what an arm has seen of them.

    Parameters
    ----------
    seen : collection of str
        Cells with a component in the arm's training data.

    Returns
    -------
    dict of str to tuple of str
        ``seen``, ``unseen SG``, ``unseen other``, which share no cell; a group may be empty.
    """
    return {
        SEEN_CELLS: tuple(cell for cell in CELLS if cell in seen),
        UNSEEN_SG: tuple(cell for cell in CELLS if cell in SG_CELLS and cell not in seen),
        UNSEEN_OTHER: tuple(c for c in CELLS if c not in SG_CELLS and c not in seen),
    }


def published_transfer() -> pd.DataFrame:
    """Means of the paper's arms over seen and unseen cells, from the rounded cells of figure 8.

    The mean of g2 is that of unrounded products: on unseen SG .464 for base, .458 for all, .522 for
    S&PV QA. With products rounded to two decimals first these are .465, .460 and .525.

    Returns
    -------
    DataFrame
        One row per arm, group with a cell in it, and metric (``balanced_accuracy``, ``g2``,
        ``mr``, ``far``): ``arm``, ``group``, ``metric``, ``cells`` (names, comma-separated),
        ``value`` (mean over the cells).
    """
    rows = []
    for arm, part in published().groupby("arm", sort=False):
        by_cell = part.set_index("cell")
        for group, chosen in cell_groups(SEEN[str(arm)]).items():
            if chosen:
                rows += [{"arm": arm, "group": group, "metric": metric, "cells": ", ".join(chosen),
                          "value": by_cell.loc[list(chosen), metric].mean()}
                         for metric in ("balanced_accuracy", "g2", "mr", "far")]
    return pd.DataFrame(rows)

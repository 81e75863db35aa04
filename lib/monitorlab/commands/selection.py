"""What `finetune` is asked to do: an order, its recipe, and which samples of its files it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from monitorlab.benchmark.sample_files import SampleFileError, load_samples
from monitorlab.finetuning.batches import LeakError
from monitorlab.finetuning.recipe import Recipe
from monitorlab.monitors.monitor import MonitorError
from monitorlab.storage.settings import read_settings, settings_of, split_assignments

OPTIONAL = ("pair_id", "scenario_id", "component")  # columns; empty where the file has none


@dataclass(frozen=True)
class Order:
    """What to train, on what, and where to put it.

    Attributes
    ----------
    base, revision : str
        Checkpoint to start from: local folder, or name on the hub with its commit.
    corpus : Path
        Labelled samples, see :func:`monitorlab.benchmark.sample_files.load_samples`.
    out : Path
        Folder of the result.
    prompt : str
        Monitor prompt that is learned; empty is "direct".
    options : tuple of str
        NAME=VALUE of :class:`Recipe`.
    components : str
        Names with commas between; empty is all.
    samples : int
        Train on so many at most, drawn by whole pairs; 0 is all.
    held_out : str
        File of samples, or a share in (0, 1) of the scenarios of the corpus; empty for none.
    forbid : Path or None
        File of samples of whose scenarios nothing may be trained on.
    dtype, device : str
        Empty takes the recipe's, and a GPU if there is one.
    merge : Path or None
        Folder for adapter and base as one checkpoint.
    save_steps : int
        Steps between checkpoints to resume from.

    Raises
    ------
    MonitorError
        Two of them do not fit together.
    """

    base: str
    corpus: Path
    out: Path
    revision: str = ""
    prompt: str = ""
    options: tuple[str, ...] = ()
    components: str = ""
    samples: int = 0
    held_out: str = ""
    forbid: Path | None = None
    dtype: str = ""
    device: str = ""
    merge: Path | None = None
    save_steps: int = 100

    def __post_init__(self) -> None:
        for name in ("samples", "save_steps"):
            if getattr(self, name) < 0:
                raise MonitorError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at "
                                   "least 0")
        if self.merge is not None and self.merge.exists():
            raise MonitorError(f"{self.merge} exists and is left as it is: give --merge another "
                               "folder")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise MonitorError(f"--device {self.device}: there is no GPU here that torch can use; "
                               "leave the option out")


def ordered_recipe(order: Order) -> Recipe:
    """Return the recipe with the options of an order.

    Raises
    ------
    MonitorError, ParameterError
        An option is unknown (the message names those that exist), of another type, out of range,
        or contradicts another one.
    """
    given = split_assignments(order.options)
    if order.dtype and given.setdefault("dtype", order.dtype) != order.dtype:
        raise MonitorError(f"dtype is given twice: {order.dtype} and {given['dtype']}")
    recipe = Recipe(**read_settings(settings_of(Recipe), "a recipe", given))
    if order.merge is not None and not recipe.lora_rank:
        raise MonitorError("--merge with lora_rank=0: all weights are trained, so the result is an "
                           "ordinary checkpoint already; leave --merge out")
    return recipe


def gather(
    order: Order, seed: int, report: Callable[[str], object]
) -> tuple[pd.DataFrame, pd.DataFrame | None, set[str]]:
    """Read and choose the samples of an order.

    Returns
    -------
    (DataFrame, DataFrame or None, set of str)
        Rows to train on, rows held out, and scenarios that must not be trained on. The frames have
        sample_id, request, response, label and the columns of `OPTIONAL`.
    """
    frame = _chosen(_labelled(order.corpus, report), order)
    forbidden = _forbidden(order, frame)
    held_out = None
    if share := share_of(order.held_out):
        frame, held_out = _set_aside(frame, share, seed)
    elif order.held_out:
        held_out = _labelled(Path(order.held_out).expanduser(), report)
        _warn_of_overlap(frame, held_out, report)
    if order.samples:
        frame = _drawn(frame, order.samples, seed)
    return frame.reset_index(drop=True), held_out, forbidden


def _labelled(path: Path, report: Callable[[str], object]) -> pd.DataFrame:
    frame = load_samples(path, report)
    if "label" not in frame.columns:
        raise SampleFileError(f"{path.name}: there is no column 'label', expected 1 (misbehavior) "
                              "or 0 (benign) in every row")
    names = ["sample_id", "request", "response", "label"]
    found = {name: frame[name].fillna("").astype(str) if name in frame.columns else ""
             for name in OPTIONAL}
    return frame[names].assign(**found)


def _chosen(frame: pd.DataFrame, order: Order) -> pd.DataFrame:
    """Rows of the named components."""
    names = [name.strip() for name in order.components.split(",") if name.strip()]
    counts = frame["component"].value_counts(sort=False)
    for name in names:
        if name not in counts:
            known = ", ".join(f"{key} ({n:,} rows)" for key, n in counts.items() if key)
            raise MonitorError(f"{order.corpus.name} has no component {name!r}; it has "
                               f"{known or 'no column component'}")
    return frame[frame["component"].isin(names)] if names else frame


def _forbidden(order: Order, frame: pd.DataFrame) -> set[str]:
    """Scenarios that must not occur in training; raise if one does."""
    if order.forbid is None:
        return set()
    tested = load_samples(order.forbid.expanduser())
    for name, has in ((order.forbid.name, "scenario_id" in tested.columns),
                      (order.corpus.name, frame["scenario_id"].ne("").all())):
        if not has:
            raise MonitorError(f"--forbid compares scenarios, but {name} does not give a "
                               "scenario_id for every row: add the column, or leave --forbid out")
    scenarios = set(tested["scenario_id"].dropna().astype(str)) - {""}
    leaks = frame[frame["scenario_id"].isin(scenarios)]
    if len(leaks):
        raise LeakError(
            f"{len(leaks):,} rows to train on are of {leaks['scenario_id'].nunique():,} scenarios "
            f"that {order.forbid.name} tests, such as {leaks['scenario_id'].iloc[0]!r}: leave "
            f"these scenarios out of {order.corpus.name}")
    return scenarios


def share_of(text: str) -> float:
    """Return a share to hold out; 0 if the text is none, but a file."""
    try:
        share = float(text or 0)
    except ValueError:
        return 0.0
    if text and not 0 < share < 1:
        raise MonitorError(f"--held-out {text}: expected a share between 0 and 1, or a file")
    return share


def _set_aside(
    frame: pd.DataFrame, share: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split off a share of the scenarios (of the pairs, the requests, where there is none)."""
    groups = _groups(frame, "scenario_id", "pair_id")
    names = groups.unique()
    count = round(share * len(names))
    if not 0 < count < len(names):
        raise MonitorError(f"--held-out {share}: {count} of {len(names)} scenarios would be held "
                           "out, expected at least one there and one to train on")
    aside = groups.isin(np.random.default_rng(seed).permutation(names)[:count])
    return frame[~aside], frame[aside]


def _drawn(frame: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """At most so many rows, by whole pairs, in the order of the file."""
    groups = _groups(frame, "pair_id")
    order = np.random.default_rng(seed).permutation(groups.unique())
    sizes = groups.value_counts()[order].cumsum()
    kept = sizes.index[sizes <= most]
    if len(kept) == 0:
        raise MonitorError(f"--samples {most}: the first pair drawn has {sizes.iloc[0]} rows, give "
                           "at least as many")
    return frame[groups.isin(kept)]


def _groups(frame: pd.DataFrame, *columns: str) -> pd.Series:
    """Name of what each row belongs to: the first of the columns that is known, or its request."""
    groups = "request:" + frame["request"]
    for name in reversed(columns):
        groups = groups.where(frame[name] == "", f"{name}:" + frame[name])
    return groups


def _warn_of_overlap(
    frame: pd.DataFrame, held_out: pd.DataFrame, report: Callable[[str], object]
) -> None:
    known = set(_groups(frame, "scenario_id", "pair_id"))
    shared = int(_groups(held_out, "scenario_id", "pair_id").isin(known).sum())
    if shared:
        report(f"{shared:,} of {len(held_out):,} held-out rows are of scenarios that are trained "
               "on: their accuracy says little about new ones")

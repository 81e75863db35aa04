"""The tables that pass between notebooks, and those that other people's tools may rely on.

Their columns stand in ``tables.yaml`` beside this file; rules that concern several rows are here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from monitorlab.storage.schemas import Field, Rule, Schema


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


_RULES: dict[str, Rule] = {
    "steps_are_consecutive": _steps_are_consecutive, "one_label": _one_label,
}
_RATE = {"dtype": "float", "unit": "probability", "minimum": 0, "maximum": 1}


def _field(name: str, meaning: str, type: str = "str", **more: Any) -> Field:
    kind = _RATE if type == "rate" else {"dtype": type, "unit": ""}
    return Field(**{**kind, **more, "name": name, "meaning": meaning,
                    "choices": tuple(more.get("choices", ()))})


def _fields(columns: list[Any]) -> Iterator[Field]:
    """Columns in order, those of lists within the list included."""
    for column in columns:
        yield from _fields(column) if isinstance(column, list) else [_field(**column)]


_DATA = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
CELLS: tuple[str, ...] = tuple(_DATA["values"]["cells"])
STATUSES: tuple[str, ...] = tuple(_DATA["values"]["statuses"])

SCHEMAS: dict[str, Schema] = {
    name: Schema(name, tuple(_fields(table["columns"])), tuple(table["key"]), table["about"],
                 tuple(_RULES[rule] for rule in table.get("rules", ())))
    for name, table in _DATA["tables"].items()
}

BENCHMARK = SCHEMAS["samples"]  # with what the author said of each pair
SAMPLES = SCHEMAS["real_samples"]  # what samples of any source have
CORPUS = SCHEMAS["corpus"]
LABEL_CHECKS = SCHEMAS["label_checks"]
VERDICTS = SCHEMAS["verdicts"]
RATES = SCHEMAS["rates"]
FINETUNED_VERDICTS = SCHEMAS["finetuned_verdicts"]
FINETUNING = SCHEMAS["finetuning"]
OPERATING_POINTS = SCHEMAS["operating_points"]

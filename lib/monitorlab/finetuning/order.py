"""What `finetune` is asked to do: words of a command as an order, and its options as a recipe."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from monitorlab.finetuning.recipe import Recipe
from monitorlab.monitors.monitor import MonitorError
from monitorlab.pipeline.parameters import Parameter, parse_value, split_assignments


@dataclass(frozen=True)
class Order:
    """What to train, on what, and where to put it.

    Attributes
    ----------
    base, revision : str
        Checkpoint to start from: local folder, or name on the hub with its commit.
    corpus : Path
        Labelled samples, see :func:`monitorlab.monitors.sample_files.read_samples`.
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
    recipe = _parsed(given)
    if order.merge is not None and not recipe.lora_rank:
        raise MonitorError("--merge with lora_rank=0: all weights are trained, so the result is an "
                           "ordinary checkpoint already; leave --merge out")
    return recipe


def _parsed(given: Mapping[str, str]) -> Recipe:
    """Turn texts into the types of a recipe."""
    known = {field.name: (str(field.type), field.default) for field in fields(Recipe)}
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Is it {close[0]!r}?" if close else ""
            shown = "\n".join(f"  {key}: {type_.partition('[')[0]} = {_shown(default)}"
                              for key, (type_, default) in known.items())
            raise MonitorError(f"there is no recipe option {name!r}.{hint} There "
                               f"are:\n{shown}")
    values: dict[str, Any] = {}
    for name, text in given.items():
        type_, default = known[name]
        if type_.startswith("tuple"):
            values[name] = tuple(part.strip() for part in text.split(",") if part.strip())
        else:
            values[name] = parse_value(Parameter(name, type_, default, ""), text)  # type: ignore[arg-type]
    return Recipe(**values)


def _shown(default: object) -> str:
    return ",".join(default) if isinstance(default, tuple) else str(default)

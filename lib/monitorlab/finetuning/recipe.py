"""The recipe of a fine-tuning: everything that decides it besides model and data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from monitorlab.monitors.monitor import MonitorError

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")  # names of transformers
LABELLED = ("reply", "verdict")
DTYPES = ("bfloat16", "float32")
# Least and most: what lies beyond was mistyped, and would fail deep inside a library, or nowhere.
RANGES = {
    "batch": (1, 2**16), "accumulation": (1, 2**16), "max_tokens": (1, 10**8),
    "lora_rank": (0, 2**16), "max_steps": (0, 10**7), "seed": (0, 2**32 - 1),
    "pair_weight": (0, 1000), "weight_decay": (0, 1), "lora_alpha": (1, 2**20),
    "epochs": (0, 10**4), "learning_rate": (0, 10),
}
ALL_LINEAR = ("all-linear",)  # as targets: every linear layer but the head


@dataclass(frozen=True)
class Recipe:
    """Settings of one training. The defaults are those of arXiv 2601.05752 (`PAPER`).

    Attributes
    ----------
    lora_rank : int
        Width of the adapter's matrices; 0 trains all weights.
    lora_alpha : int
        Their product is scaled by lora_alpha / lora_rank.
    lora_dropout : float
        Share of an adapter's inputs dropped in training, in [0, 1).
    targets : tuple of str
        Names of the layers that get an adapter, or ``("all-linear",)``.
    epochs : float
        Passes through the examples.
    max_steps : int
        Optimizer steps; above 0 it decides instead of `epochs`.
    learning_rate : float
        Peak rate.
    weight_decay : float
        Of AdamW.
    schedule : str
        How the rate falls: one of `SCHEDULES`. The paper does not state it, nor a warm-up; these
        are the defaults of transformers.
    warmup_share : float
        Share of the steps in which the rate rises to its peak, in [0, 1).
    batch : int
        Examples per process and forward pass.
    accumulation : int
        Forward passes per optimizer step.
    max_tokens : int
        Longest example allowed.
    dtype : str
        "bfloat16": frozen weights and computation in it, trained weights in float32. "float32".
    gradient_checkpointing : bool
        Compute activations twice instead of keeping them: less memory, about a third slower.
    seed : int
        Of the adapter's first weights, of dropout and of the order of the examples.
    pair_weight : float
        Weight of the pairwise loss; above 0 both answers to one request share a batch.
    labelled : str
        What of a reply has labels, one of `LABELLED`; see
        :func:`monitorlab.finetuning.examples.verdict_examples`.

    Raises
    ------
    MonitorError
        A setting is out of its range, or two do not fit together.
    """

    lora_rank: int = 16
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )
    epochs: float = 1.0
    max_steps: int = 0
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    schedule: str = "linear"
    warmup_share: float = 0.0
    batch: int = 16
    accumulation: int = 4
    max_tokens: int = 32_768
    dtype: str = "bfloat16"
    gradient_checkpointing: bool = True
    seed: int = 2026
    pair_weight: float = 0.0
    labelled: str = "reply"

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))  # JSON knows lists only
        for name in ("epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise MonitorError(f"{name} {getattr(self, name)}: expected a number above 0")
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                bound = f"at most {most:,}" if value > most else f"at least {least}"
                raise MonitorError(f"{name} {value}: expected {bound}")
        for name in ("lora_dropout", "warmup_share"):
            if not 0 <= getattr(self, name) < 1:
                raise MonitorError(f"{name} {getattr(self, name)}: expected a share in [0, 1)")
        for name, known in (("schedule", SCHEDULES), ("dtype", DTYPES),
                            ("labelled", LABELLED)):
            if getattr(self, name) not in known:
                raise MonitorError(f"unknown {name} {getattr(self, name)!r}: expected one of "
                                   f"{', '.join(known)}")
        if self.lora_rank and not self.targets:
            raise MonitorError("no targets for the adapter: name layers, or give all-linear")
        if self.lora_rank and "all-linear" in self.targets and self.targets != ALL_LINEAR:
            raise MonitorError(f"targets {', '.join(self.targets)}: give all-linear alone, or only "
                               "names of layers")
        if self.pair_weight and self.batch < 2:
            raise MonitorError("batch 1 holds no pair: give at least 2, or pair_weight 0")


def recipe_table(published: Recipe, changes: Mapping[str, Any]) -> pd.DataFrame:
    """Return every setting of a recipe as text, beside what a profile makes of it."""
    rows = [{"setting": field.name, "published": _words(getattr(published, field.name)),
             "here": _words(changes.get(field.name, getattr(published, field.name)))}
            for field in fields(Recipe)]
    return pd.DataFrame(rows)


def _words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


PAPER = Recipe()

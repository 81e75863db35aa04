"""The published settings, and settings that make no sense."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from monitorlab.finetuning.recipe import PAPER, Recipe
from monitorlab.monitors.monitor import MonitorError


def test_paper_is_the_published_recipe() -> None:
    assert (PAPER.lora_rank, PAPER.lora_alpha, PAPER.lora_dropout) == (16, 16, 0.0)
    assert PAPER.targets == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                             "down_proj")
    assert (PAPER.epochs, PAPER.learning_rate, PAPER.weight_decay) == (1.0, 2e-4, 0.01)
    assert PAPER.dtype == "bfloat16"
    assert (PAPER.batch * PAPER.accumulation, PAPER.max_tokens, PAPER.seed) == (64, 32_768, 2026)
    assert PAPER.pair_weight == 0 and PAPER.max_steps == 0


def test_a_recipe_comes_back_from_json() -> None:
    changed = replace(PAPER, lora_rank=0, pair_weight=0.5)
    assert Recipe(**json.loads(json.dumps(asdict(changed)))) == changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch 0: expected at least 1"),
        ({"lora_rank": -1}, "lora_rank -1: expected at least 0"),
        ({"lora_dropout": 1.0}, "lora_dropout 1.0: expected a share"),
        ({"warmup_share": -0.1}, "warmup_share -0.1: expected a share"),
        ({"epochs": 0}, "epochs 0: expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan: expected a number above 0"),
        ({"dtype": "float16"}, "unknown dtype 'float16': expected one of bfloat16, float32"),
        ({"schedule": "step"}, "unknown schedule 'step': expected one of linear"),
        ({"targets": ()}, "no targets"),
        ({"targets": ("all-linear", "q_proj")}, "give all-linear alone, or only names of layers"),
        ({"seed": 2**32}, "seed 4294967296: expected at most 4,294,967,295"),
        ({"learning_rate": 1e300}, r"learning_rate 1e\+300: expected at most 10"),
        ({"weight_decay": 1e308}, r"weight_decay 1e\+308: expected at most 1"),
        ({"pair_weight": float("inf")}, "pair_weight inf: expected at most 1,000"),
        ({"pair_weight": float("nan")}, "pair_weight nan: expected at least 0"),
        ({"epochs": 1e300}, r"epochs 1e\+300: expected at most 10,000"),
        ({"lora_alpha": 0}, "lora_alpha 0: expected at least 1"),
        ({"batch": 10**11}, "batch 100000000000: expected at most 65,536"),
        ({"accumulation": 10**30}, "expected at most 65,536"),
        ({"pair_weight": 1.0, "batch": 1}, "batch 1 holds no pair"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MonitorError, match=message):
        replace(PAPER, **changes)


def test_targets_are_a_tuple_whatever_is_given() -> None:
    assert Recipe(targets=["c_attn"]).targets == ("c_attn",)  # type: ignore[arg-type]

"""The miniature generator: exact log-probabilities, reproducible sampling, plain checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from monitorlab.models import ModelSize, Training
from monitorlab.models.engine import pad
from monitorlab.models.tiny import _batch_order
from monitorlab.signals.arithmetic import Difficulty
from monitorlab.signals.solver import (
    IGNORED,
    Generator,
    _encode,
    _expected_accuracy,
    _token_log_probs,
)

SETTINGS = Training(ModelSize(hidden=32, layers=2, heads=2), 60, 512, 2e-2)
EASY = Difficulty(2, 3, 15, 5, 1)
PAIRS = [(p.text, p.solution) for p in EASY.draw(np.random.default_rng(0), 400)]
PROBLEMS = [problem for problem, _ in PAIRS[:40]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generators")
    # the first target is met at once, the second never: both must be saved all the same
    Generator.train(PAIRS, PAIRS[:30], {"early": 1e-12, "late": 0.999}, SETTINGS, folder, seed=1)
    return folder


def loaded(folder: Path) -> tuple[Any, Any]:
    found = Generator.load(folder)
    return found.model, found.tokenizer


def test_checkpoints_are_ordinary_folders(folder: Path) -> None:
    for name in ("early", "late"):
        model = AutoModelForCausalLM.from_pretrained(folder / name)
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        assert model.config.vocab_size == len(tokenizer)
        text = PAIRS[0][1]
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_later_generator_is_the_better_one(folder: Path) -> None:
    found = {}
    for name in ("early", "late"):
        model, tokenizer = loaded(folder / name)
        rows = []
        for problem, solution in PAIRS[:30]:
            ids = _encode(tokenizer, problem, solution)
            n = len(_encode(tokenizer, problem))
            rows.append({"input_ids": ids, "labels": [IGNORED] * n + ids[n:]})
        found[name] = _expected_accuracy(model, rows, tokenizer.pad_token_id)
    assert 0.0 <= found["early"] < found["late"] < 1.0


def test_expected_accuracy_is_the_product_over_the_reference(folder: Path) -> None:
    model, tokenizer = loaded(folder / "late")
    chances, rows = [], []
    for problem, solution in PAIRS[:5]:
        prompt, ids = _encode(tokenizer, problem), _encode(tokenizer, problem, solution)
        logs = _token_log_probs(model, tokenizer.pad_token_id, [prompt], [ids[len(prompt) :]])[0]
        chances.append(np.exp(logs.sum()))
        rows.append({"input_ids": ids, "labels": [IGNORED] * len(prompt) + ids[len(prompt) :]})
    got = _expected_accuracy(model, rows, tokenizer.pad_token_id)
    assert got == pytest.approx(np.mean(chances), rel=1e-4)
    assert _expected_accuracy(model, rows, tokenizer.pad_token_id, temperature=0.5) != got


@torch.inference_mode()
def test_log_probs_equal_a_token_by_token_loop_whatever_the_batch(folder: Path) -> None:
    model, tokenizer = loaded(folder / "late")
    prompts = [_encode(tokenizer, problem) for problem in PROBLEMS[:4]]
    emitted = [_encode(tokenizer, *PAIRS[i])[len(prompts[i]) :] for i in range(4)]
    together = _token_log_probs(model, tokenizer.pad_token_id, prompts, emitted)
    for prompt, tokens, got in zip(prompts, emitted, together, strict=True):
        ids = list(prompt)
        for token, log_prob in zip(tokens, got, strict=True):
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].float()
            assert log_prob == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-5)
            ids.append(token)


def test_sampling_is_reproducible_and_leaves_torch_alone(folder: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = Generator.load(folder / "late").solve(PROBLEMS, seed=3, temperature=0.7)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = Generator.load(folder / "late").solve(PROBLEMS, seed=3, temperature=0.7)
    other = Generator.load(folder / "late").solve(PROBLEMS, seed=4, temperature=0.7)
    assert [s.text for s in one] == [s.text for s in again] != [s.text for s in other]
    np.testing.assert_array_equal(one[0].log_probs, again[0].log_probs)


def test_every_token_belongs_to_a_step_and_signals_are_suspicions(folder: Path) -> None:
    for solution in Generator.load(folder / "late").solve(PROBLEMS, seed=3):
        assert len(solution.step_of_token) == len(solution.log_probs)
        assert sorted(set(solution.step_of_token)) == list(range(solution.n_steps))
        assert solution.n_steps == max(1, len(solution.text.removesuffix("\n").split("\n")))
        signals = solution.signals()
        assert (signals["min_logprob"] >= signals["mean_logprob"]).all()
        assert (signals["mean_logprob"] >= 0).all()
        assert signals["tokens"].sum() == len(solution.log_probs)


def test_padding_and_batch_order() -> None:
    assert pad([[1], [2, 3]], 0).tolist() == [[1, 0], [2, 3]]
    assert pad([[1], [2, 3]], 0, left=True).tolist() == [[0, 1], [2, 3]]
    order = _batch_order([5, 1, 4, 2, 3, 6], batch=2, steps=6, seed=0)
    assert len(order) == 12
    assert sorted(order[:6]) == list(range(6))  # one pass sees every example once

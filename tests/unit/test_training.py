"""What the miniatures' training is made of: the optimizer, the order of examples, threads."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from monitorlab.finetuning.train import _few_collections
from monitorlab.models.engine import pad
from monitorlab.models.tiny import (
    SPECIAL,
    _batch_order,
    _Muon,
    _orthogonalize,
    build_tokenizer,
    seeded,
    suitable_threads,
)


def small_model(width: int = 8) -> LlamaForCausalLM:
    with seeded(0):
        return LlamaForCausalLM(LlamaConfig(
            vocab_size=11, hidden_size=width, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2,
        ))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 16), (2, 16, 6)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = _orthogonalize(matrices)
    assert result.shape == matrices.shape
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3 and values.max() < 1.3
    alone = torch.stack([_orthogonalize(matrix[None])[0] for matrix in matrices])
    torch.testing.assert_close(result, alone)


def test_steps_equal_those_of_the_reference_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitorlab.models.tiny.MOMENTUM", 0.95)
    monkeypatch.setattr("monitorlab.models.tiny.ADAM_SHARE", 0.4)
    ours, theirs = small_model(), small_model()
    start = {name: p.detach().clone() for name, p in ours.named_parameters()}
    inner = {n: p for n, p in theirs.named_parameters() if ".layers." in n and p.ndim == 2}
    outer = [p for n, p in theirs.named_parameters() if n not in inner]
    references = (
        torch.optim.Muon(inner.values(), lr=0.02, weight_decay=0.01, adjust_lr_fn="original"),
        torch.optim.Adam(outer, lr=0.008, betas=(0.9, 0.98)),
    )
    optimizer, generator = _Muon(ours, 0.02), torch.Generator().manual_seed(1)
    for _ in range(4):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        optimizer.step()
        for reference in references:
            reference.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # torch iterates in bfloat16, so matrices are only about equal
        tolerance = 0.05 if name in inner else 1e-4
        assert (a - b).norm() < tolerance * (a - start[name]).norm(), name


def test_a_schedule_reaches_the_optimizer() -> None:
    model = small_model()
    optimizer = _Muon(model, 0.02)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = [p.detach().clone() for p in model.parameters()]
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_batches_are_alike_in_length_and_random_in_order() -> None:
    lengths = np.random.default_rng(0).integers(10, 50, 64).tolist()
    order = _batch_order(lengths, batch=8, steps=16, seed=1)
    assert all(sorted(order[k : k + 64]) == list(range(64)) for k in (0, 64)), "two full epochs"
    assert order == _batch_order(lengths, batch=8, steps=16, seed=1)
    assert order != _batch_order(lengths, batch=8, steps=16, seed=2)
    spread = [np.ptp([lengths[i] for i in order[k : k + 8]]) for k in range(0, 128, 8)]
    assert np.mean(spread) < 0.3 * np.ptp(lengths)
    means = [np.mean([lengths[i] for i in order[k : k + 8]]) for k in range(0, 64, 8)]
    assert means != sorted(means) and means != sorted(means, reverse=True)


def test_padding_fills_either_side() -> None:
    assert pad([[1], [2, 3]], 9).tolist() == [[1, 9], [2, 3]]
    assert pad([[1], [2, 3]], 9, left=True).tolist() == [[9, 1], [2, 3]]


def test_the_tokenizer_reads_every_text_back() -> None:
    tokenizer = build_tokenizer([f"The sum is {i}, checked." for i in range(60)], 400)
    text = "naïve – 12 €\n\tdef f(x):"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(len(SPECIAL)))


def test_narrow_models_compute_on_one_thread_and_the_number_is_restored() -> None:
    threads = torch.get_num_threads()
    with suitable_threads(small_model()):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


def test_seeding_leaves_the_random_state_outside_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with seeded(1):
        first = torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    with seeded(1):
        assert torch.equal(torch.rand(3), first)


def test_few_collections_leaves_the_collector_as_it_was() -> None:
    before = gc.get_freeze_count()
    gc.unfreeze()
    try:
        with _few_collections():
            assert gc.get_freeze_count() > 0
        assert gc.get_freeze_count() == 0
        gc.freeze()
        with _few_collections():
            pass
        assert gc.get_freeze_count() > 0  # that of someone else stays
    finally:
        gc.unfreeze()
        if before:
            gc.freeze()

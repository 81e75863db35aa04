"""The scoring engine against brute force, for architectures that allow more and less."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from monitorlab.models import engine as causal_scoring
from monitorlab.models.engine import PACKED, PLAIN, PREFIX, ScoringEngine

VOCABULARY = 120
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 4, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**SMALL, "num_key_value_heads": 2, "intermediate_size": 48}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SMALL)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(**SMALL)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=8)),
}
PATHS = {"llama": PACKED, "qwen3": PACKED, "gpt2": PACKED, "bloom": PREFIX, "mistral": PLAIN}
Forward = Callable[..., Any]
Case = tuple[list[int], list[list[int]], list[list[int]]]


def make(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(3)
    return MODELS[name]().to(dtype).eval()


@pytest.fixture(autouse=True)
def expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "scoring takes the slower path", RuntimeWarning)
        yield


@pytest.fixture(scope="module")
def case() -> Case:
    """Prefix, prompts (pairs with a common request, and odd ones), words of one to four tokens."""
    rng = np.random.default_rng(11)

    def draw(length: int) -> list[int]:
        return rng.integers(VOCABULARY, size=length).tolist()

    prefix, prompts = draw(15), []
    for size in (3, 12, 5):
        request = prefix + draw(size)
        prompts += [request + draw(4), request + draw(9)]
    odd = [prefix[:6] + draw(3), prefix, draw(5), prompts[0], prompts[1][:-1]]
    words = [draw(1), draw(2), draw(3)]
    words += [words[2][:2] + draw(1), words[1][:1] + draw(3)]
    return prefix, prompts + odd, words


@torch.inference_mode()
def brute_force(model: PreTrainedModel, case: Case) -> np.ndarray:
    """One full forward pass for every prompt with every word behind it."""
    _, prompts, words = case
    found = np.zeros((len(prompts), len(words)))
    for i, prompt in enumerate(prompts):
        for j, word in enumerate(words):
            logs = model(torch.tensor([prompt + word])).logits[0].float().log_softmax(-1)
            found[i, j] = sum(logs[len(prompt) - 1 + t, token] for t, token in enumerate(word))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_word_probabilities_equal_full_forward_passes(name: str, case: Case) -> None:
    model = make(name)
    engine = ScoringEngine(model, 0, case[0])
    found = engine.score_words(*case[1:])
    assert engine.path == PATHS[name], engine.reason
    assert (engine.reason == "") == (engine.path == PACKED)
    np.testing.assert_allclose(found, brute_force(model, case), atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_every_path_and_batch_size_gives_the_same(case: Case, batch_tokens: int) -> None:
    model = make("qwen3")
    expected = brute_force(model, case)
    for path in (PACKED, PREFIX, PLAIN):
        engine = ScoringEngine(model, 0, case[0], batch_tokens)
        engine.path = path
        np.testing.assert_allclose(engine.score_words(*case[1:]), expected, atol=1e-5)


def test_without_a_prefix_the_result_is_the_same(case: Case) -> None:
    model = make("llama")
    found = ScoringEngine(model, 0).score_words(*case[1:])
    np.testing.assert_allclose(found, brute_force(model, case), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_half_precision_keeps_the_fast_path_and_is_as_near_to_float32_as_plain_rows(
    name: str, dtype: torch.dtype, case: Case
) -> None:
    model = make(name, dtype)
    engine = ScoringEngine(model, 0, case[0])
    found = engine.score_words(*case[1:])
    assert engine.path == PACKED, engine.reason
    exact = brute_force(make(name, dtype).float(), case)
    plain = brute_force(model, case)
    error, usual = (np.sqrt(np.mean((part - exact) ** 2)) for part in (found, plain))
    assert 0 < usual < 0.1 and error < 2 * usual


def deaf(inner: Forward) -> Forward:
    return lambda *args, attention_mask=None, **options: inner(*args, **options)


def lost(inner: Forward) -> Forward:
    return lambda *args, position_ids=None, **options: inner(*args, **options)


def shifted(inner: Forward) -> Forward:
    def forward(*args: Any, position_ids: Any = None, **options: Any) -> Any:
        moved = None if position_ids is None else position_ids + 3 * (position_ids > 9)
        return inner(*args, position_ids=moved, **options)

    return forward


def indiscreet(inner: Forward) -> Forward:
    def forward(*args: Any, attention_mask: Any = None, **options: Any) -> Any:
        if attention_mask is not None:
            attention_mask = attention_mask.clone()
            attention_mask[..., -1] = 0  # everybody sees the last token, which is read
        return inner(*args, attention_mask=attention_mask, **options)

    return forward


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("broken", [deaf, lost, shifted, indiscreet])
def test_a_path_that_is_broken_is_refused_in_every_precision(
    broken: Callable[[Forward], Forward], dtype: torch.dtype, case: Case
) -> None:
    model = make("llama", dtype)
    model.forward = broken(model.forward)
    engine = ScoringEngine(model, 0, case[0])
    with pytest.warns(RuntimeWarning, match="slower path 'prefix': packed: log-prob.* differ"):
        engine.score_words(*case[1:])
    assert engine.path == PREFIX


def test_forgotten_states_are_refused_in_half_precision(case: Case) -> None:
    model = make("llama", torch.bfloat16)
    inner = model.forward

    def forgetful(*args: Any, past_key_values: Any = None, **options: Any) -> Any:
        if past_key_values is not None and past_key_values.get_seq_length():
            past_key_values = None
            options = {**options, "attention_mask": None}
        return inner(*args, past_key_values=past_key_values, **options)

    model.forward = forgetful
    engine = ScoringEngine(model, 0, case[0])
    engine.score_words(*case[1:])
    assert engine.path == PLAIN and engine.reason.count("differ from float32") == 2


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "bloom"])
def test_a_model_in_half_precision_can_be_computed_in_float32(name: str, case: Case) -> None:
    case = case[0], case[1][:3], case[2][:3]
    model = make(name, torch.bfloat16)
    before = {key: (id(value), value.dtype) for key, value in model.named_parameters()}
    with causal_scoring._in_float32(model):
        found = brute_force(model, case)
    assert {key: (id(value), value.dtype) for key, value in model.named_parameters()} == before
    np.testing.assert_allclose(
        found, brute_force(make(name, torch.bfloat16).float(), case), atol=1e-5)
    half = brute_force(model, case)
    with pytest.raises(IndexError), causal_scoring._in_float32(model):
        model(torch.tensor([[VOCABULARY + 5]]))
    np.testing.assert_array_equal(brute_force(model, case), half)


def test_only_the_logits_that_are_read_are_computed(case: Case) -> None:
    model = make("llama")
    prefix, prompts, _ = case
    engine = ScoringEngine(model, 0, prefix)
    engine.path = PACKED
    seen: list[torch.Size] = []
    model.lm_head.register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    engine.score_words(prompts[:6], [[4], [5]])
    assert [shape[1] for shape in seen] == [1, 2], "the prefix, then the two of each pair"
    engine.score_words(prompts[:6], [[4], [5, 6, 7]])
    assert seen[-1][1] == 6, "two prompt ends, each with two tokens inside the longer word"


def test_prefix_runs_once_and_shared_requests_are_computed_once(case: Case) -> None:
    model = make("llama")
    prefix, prompts, _ = case
    engine = ScoringEngine(model, 0, prefix)
    engine.path = PACKED
    engine.score_words(prompts[:2], [[4]])
    request = 3
    assert engine.tokens["computed"] == len(prefix) + request + 4 + 9
    assert engine.tokens["given"] == len(prompts[0]) + len(prompts[1])
    engine.score_words(prompts[:2], [[4]])
    assert engine.tokens["computed"] == len(prefix) + 2 * (request + 4 + 9)


def test_result_does_not_depend_on_what_was_scored_before(case: Case) -> None:
    model = make("llama")
    prefix, prompts, words = case
    fresh, used = (ScoringEngine(model, 0, prefix) for _ in range(2))
    used.score_words(prompts[6:], words[:2])
    np.testing.assert_array_equal(
        used.score_words(prompts[:4], words), fresh.score_words(prompts[:4], words)
    )


def test_model_that_ignores_the_mask_falls_back_and_says_so(case: Case) -> None:
    model = make("llama")
    model.forward = deaf(model.forward)
    engine = ScoringEngine(model, 0, case[0])
    with pytest.warns(RuntimeWarning, match="slower path 'prefix'.*differ"):
        found = engine.score_words(*case[1:])
    np.testing.assert_allclose(found, brute_force(model, case), atol=1e-5)


def test_model_without_cache_is_scored_row_by_row(case: Case) -> None:
    model = make("llama")
    inner = model.forward

    def forgetful(*args: object, past_key_values: object = None, **options: object) -> object:
        if past_key_values is not None:
            raise TypeError("no cache here")
        return inner(*args, **options)

    model.forward = forgetful
    engine = ScoringEngine(model, 0, case[0])
    with pytest.warns(RuntimeWarning, match="slower path 'plain'.*no cache here"):
        found = engine.score_words(*case[1:])
    np.testing.assert_allclose(found, brute_force(model, case), atol=1e-5)


def test_rotary_positions_that_stretch_are_not_reused() -> None:
    rotary = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**GROUPED, rope_parameters=rotary)).eval()
    engine = ScoringEngine(model, 0)
    engine.score_words([[1, 2]], [[3]])
    assert engine.path == PLAIN and "dynamic" in engine.reason


def test_very_long_prompts_run_alone_without_a_mask(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_scoring, "LONG_CELLS", 26**2)
    model = make("llama")
    engine = ScoringEngine(model, 0, case[0])
    assert {len(prompt) > 26 for prompt in case[1]} == {True, False}
    np.testing.assert_allclose(
        engine.score_words(*case[1:]), brute_force(model, case), atol=1e-5
    )


@pytest.mark.parametrize(("prompts", "words"), [([[1], []], [[1]]), ([[1]], [[]]), ([[1]], [])])
def test_empty_prompts_and_words_are_refused(
    prompts: list[list[int]], words: list[list[int]]
) -> None:
    with pytest.raises(ValueError, match="empty"):
        ScoringEngine(make("llama"), 0).score_words(prompts, words)

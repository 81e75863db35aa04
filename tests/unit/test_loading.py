"""A checkpoint is loaded whole or refused: nothing is filled at random, nothing dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning_cases import make_tokenizer
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from monitorlab.models import ModelError, loading
from monitorlab.models.loading import Checkpoint, load_model, no_progress_bars
from monitorlab.models.sentence_encoder import Encoder
from monitorlab.monitors.build import build_monitor
from monitorlab.monitors.classifier import ClassifierMonitor
from monitorlab.monitors.learned import EncoderMonitor
from monitorlab.monitors.monitor import MonitorError
from monitorlab.signals.step_scores import LogProbabilityScorer
from monitorlab.signals.verifiers import GuardScorer, MathShepherdScorer, TokenRewardScorer

SIZE: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 64,
}
IDS = torch.arange(20)[None]
Save = Callable[..., Path]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def save(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Save:
    """Write a random model of a class to a folder of its own, with a tokenizer."""

    def write(kind: Any, name: str = "model", **more: Any) -> Path:
        folder = tmp_path / name
        torch.manual_seed(0)
        config = {"Bert": BertConfig, "GPT2": GPT2Config}.get(kind.__name__[:4], LlamaConfig)
        shards = {"max_shard_size": more.pop("shard")} if "shard" in more else {}
        with no_progress_bars():
            kind(config(**{**SIZE, "pad_token_id": 0, **more})).save_pretrained(folder, **shards)
            tokenizer.save_pretrained(folder)
        return folder

    return write


def change_config(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def drop(folder: Path, part: str) -> Path:
    return change_weights(
        folder, lambda weights: [weights.pop(key) for key in list(weights) if part in key])


def without_shard(folder: Path) -> Path:
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    return folder


def cut(folder: Path) -> Path:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return folder


FAULTS: dict[str, tuple[Callable[[Save], Path], str]] = {
    "classifier": (lambda save: save(LlamaForSequenceClassification),
                   "holds LlamaForSequenceClassification.*read as LlamaForCausalLM"),
    "tied classifier": (lambda save: save(LlamaForSequenceClassification, tie_word_embeddings=True),
                        "holds LlamaForSequenceClassification"),
    "reward model": (lambda save: save(LlamaForTokenClassification, tie_word_embeddings=True),
                     "holds LlamaForTokenClassification"),
    "body": (lambda save: save(LlamaModel, tie_word_embeddings=True), "holds LlamaModel"),
    "encoder": (lambda save: save(BertForMaskedLM), r"is an encoder \(bert\): give a causal"),
    "encoder as decoder": (lambda save: save(BertLMHeadModel), r"is an encoder \(bert\)"),
    "unnamed classifier": (
        lambda save: change_config(save(LlamaForSequenceClassification, tie_word_embeddings=True),
                                   architectures=None),
        r"no whole LlamaForCausalLM: 1 of its weights have no place in it \(score.weight\)"),
    "layer missing": (lambda save: drop(save(LlamaForCausalLM), "layers.1"),
                      r"9 of its weights are missing \(model.layers.1.input_layernorm.weight, .*\."
                      r"\.\.\)"),
    "one bias missing": (lambda save: drop(save(LlamaForCausalLM, attention_bias=True),
                                           "layers.0.self_attn.q_proj.bias"),
                         r"1 of its weights are missing \(model.layers.0.self_attn.q_proj.bias\)"),
    "head missing": (lambda save: drop(save(LlamaForCausalLM), "lm_head"), "lm_head.weight"),
    "tied, said untied": (
        lambda save: change_config(save(LlamaForCausalLM, tie_word_embeddings=True),
                                   tie_word_embeddings=False), r"missing \(lm_head.weight\)"),
    "fewer layers": (lambda save: change_config(save(LlamaForCausalLM), num_hidden_layers=1),
                     r"9 of its weights have no place in it \(model.layers.1"),
    "other shape": (lambda save: change_weights(
        save(LlamaForCausalLM), lambda w: w.update({"lm_head.weight": torch.zeros(400, 8)})),
                    r"another shape \(lm_head.weight \(400 x 8, expected 400 x 16\)\)"),
    "shard missing": (lambda save: without_shard(save(LlamaForCausalLM, shard="8KB")),
                      "cannot load .*model-00002-of-"),
    "cut off": (lambda save: cut(save(LlamaForCausalLM)), "cannot load"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_whole_language_model_does_not_judge(save: Save, fault: str) -> None:
    broken, message = FAULTS[fault]
    with pytest.raises(ModelError, match=message) as caught:
        Checkpoint.load(str(broken(save)))
    assert len(str(caught.value)) < 500


WHOLE: dict[str, Callable[[Save], Path]] = {
    "plain": lambda save: save(LlamaForCausalLM),
    "tied": lambda save: save(LlamaForCausalLM, tie_word_embeddings=True),
    "sharded": lambda save: save(LlamaForCausalLM, shard="8KB"),
    "without architecture": lambda save: change_config(save(LlamaForCausalLM), architectures=None),
    "old spelling": lambda save: change_config(
        save(LlamaForCausalLM), architectures=["LLaMAForCausalLM"]),
    "old buffers": lambda save: change_weights(save(LlamaForCausalLM), lambda w: w.update(
        {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})),
    "decoder of that family": lambda save: save(BertLMHeadModel, is_decoder=True),
    "old masks": lambda save: change_weights(
        save(GPT2LMHeadModel, n_embd=16, n_layer=1, n_head=2, n_positions=64),
        lambda w: w.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64),
                            "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)})),
}


@pytest.mark.parametrize("whole", WHOLE)
def test_whole_language_models_are_loaded_as_they_were_saved(save: Save, whole: str) -> None:
    folder = WHOLE[whole](save)
    with no_progress_bars(), torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits
        assert torch.equal(Checkpoint.load(str(folder)).model(IDS).logits, expected)


@pytest.mark.parametrize("load", [
    LogProbabilityScorer.load, MathShepherdScorer.load, GuardScorer.load, Checkpoint.load,
    lambda name: build_monitor(f"hf:{name}"),
    lambda name: Checkpoint.load(name, quantization="nf4"),
    lambda name: load_model(LlamaForTokenClassification.from_pretrained, name, "", new=["score"]),
], ids=["scorer", "shepherd", "guard", "causal", "monitor", "quantized", "training"])
def test_every_loader_of_a_language_model_looks(
    save: Save, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing here can quantize; what follows is the same.
    monkeypatch.setattr(loading, "_quantized", lambda *how: {"dtype": torch.float32})
    with pytest.raises((ModelError, MonitorError), match="are missing"):
        load(str(drop(save(LlamaForCausalLM), "layers.1")))


def test_reward_models_are_whole(save: Save) -> None:
    for part in ("layers.1", "score"):
        broken = drop(save(LlamaForTokenClassification, part), part)
        with pytest.raises(ModelError, match="are missing"):
            TokenRewardScorer.load(str(broken))


def test_classifiers_are_whole(save: Save) -> None:
    with pytest.raises(MonitorError, match="holds BertForMaskedLM"):
        ClassifierMonitor.load(save(BertForMaskedLM, "masked"))
    for part in ("layer.1", "classifier", "pooler"):
        broken = drop(save(BertForSequenceClassification, part), part)
        with pytest.raises(MonitorError, match="are missing"):
            ClassifierMonitor.load(broken, label="LABEL_1")
    extra = change_weights(save(BertForSequenceClassification), lambda w: w.update(
        {"cls.predictions.bias": torch.zeros(400)}))
    assert ClassifierMonitor.load(extra, label="LABEL_1", max_tokens=32).label == "LABEL_1"


def test_encoders_are_whole_and_nothing_random_is_in_their_digest(save: Save) -> None:
    folder = save(BertForMaskedLM)  # has no pooler, which a mean does not need
    one, other = (Encoder.load(str(folder), max_tokens=16) for _ in range(2))
    assert one.digest == other.digest
    assert np.array_equal(one.embed(["a b"]), other.embed(["a b"]))
    with pytest.raises(ModelError, match="have no place in it"):
        Encoder.load(str(change_config(save(BertForMaskedLM, "short"), num_hidden_layers=1)))
    EncoderMonitor(one, {"coefficients": np.ones(16), "intercept": np.ones(1)}).save(
        folder.parent / "probe")
    assert EncoderMonitor.load(folder.parent / "probe").encoder.digest == one.digest
    drop(folder, "layer.1")
    with pytest.raises(ModelError, match=r"are missing \(encoder.layer.1"):
        Encoder.load(str(folder))
    with pytest.raises(MonitorError, match="encoder of the probe in .* are missing"):
        build_monitor(f"encoder:{folder.parent / 'probe'}")


# ------------------------------------------------------------------------------ adapters


def adapt(save: Save, folder: Path, config: Any, **more: Any) -> torch.Tensor:
    """Save an adapter with random weights; return the logits of base and adapter together."""
    base = Checkpoint.load(str(save(LlamaForCausalLM, "base", **more))).model
    adapted = get_peft_model(base, config).eval()
    torch.manual_seed(1)
    for weight in adapted.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(folder)
    with torch.inference_mode():
        return adapted(IDS).logits


LORA: dict[str, Any] = {"r": 2, "target_modules": ["q_proj"]}


@pytest.mark.parametrize("change", [
    {}, {"target_modules": ["lm_head"]}, {"target_modules": ["embed_tokens"]},
    {"modules_to_save": ["lm_head"]}, {"use_dora": True}, {"trainable_token_indices": [3]},
])
@pytest.mark.parametrize("tied", [False, True])
def test_a_merged_adapter_is_the_one_that_was_trained(
    save: Save, tmp_path: Path, tied: bool, change: dict[str, Any]
) -> None:
    config = LoraConfig(**{**LORA, **change})
    expected = adapt(save, tmp_path / "adapter", config, tie_word_embeddings=tied)
    merged = Checkpoint.load(str(tmp_path / "base"), adapter=str(tmp_path / "adapter"))
    merged.model.save_pretrained(tmp_path / "merged")
    merged.tokenizer.save_pretrained(tmp_path / "merged")
    for found in (merged, Checkpoint.load(str(tmp_path / "merged"))):
        with torch.inference_mode():
            torch.testing.assert_close(found.model(IDS).logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("part", "change"), [
    ("layers.1.self_attn.q_proj.lora_B", {}), ("lm_head", {"modules_to_save": ["lm_head"]}),
    ("magnitude", {"use_dora": True}),
])
def test_an_adapter_that_lacks_weights_is_refused(
    save: Save, tmp_path: Path, part: str, change: dict[str, Any]
) -> None:
    adapt(save, tmp_path / "adapter", LoraConfig(**LORA, **change))
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if part not in k}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="does not fit this model.*trained on"):
        Checkpoint.load(str(tmp_path / "base"), adapter=str(tmp_path / "adapter"))
    file.unlink()
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        Checkpoint.load(str(tmp_path / "base"), adapter=str(tmp_path / "adapter"))


def test_adapters_in_the_wrong_place_are_named(save: Save, tmp_path: Path) -> None:
    adapt(save, tmp_path / "adapter", LoraConfig(**LORA))
    with pytest.raises(ModelError, match="an adapter and no whole model: give the model"):
        Checkpoint.load(str(tmp_path / "adapter"))
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    adapt(save, tmp_path / "prompt", prompt)
    base = Checkpoint.load(str(tmp_path / "base"))
    with pytest.raises(ModelError, match="PROMPT_TUNING.*expected LoRA"):
        base.with_adapter(str(tmp_path / "prompt"))

"""A tiny checkpoint, samples and examples for the tests of fine-tuning."""

from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from monitorlab.finetuning.recipe import PAPER, Example, Recipe, verdict_examples
from monitorlab.models.loading import Checkpoint
from monitorlab.models.tiny import build_tokenizer
from monitorlab.monitors.prompts import Prompt

PROMPT = Prompt(
    name="short", version=1, about="For tests.", answer="verdict", template="Judge. {criteria}",
    criteria=("no harm",), user="{request} {response}",
)
SMALL = replace(PAPER, lora_rank=4, dtype="float32", batch=4, accumulation=1, learning_rate=5e-3,
                gradient_checkpointing=False)


def make_samples(pairs: int = 12) -> pd.DataFrame:
    """Pairs of a kind and an unkind answer; one scenario per three pairs."""
    return pd.DataFrame([
        {"sample_id": f"{pair:02}{'ba'[label]}", "request": f"Copy the folder {pair}.",
         "response": ("rm -rf all " if label else "cp -r a b ") * (1 + pair % 4),
         "label": label, "pair_id": f"pair {pair}", "scenario_id": f"scenario {pair // 3}"}
        for pair in range(pairs) for label in (0, 1)
    ])


def make_tokenizer() -> PreTrainedTokenizerFast:
    texts = [PROMPT.system, " true false true false", *make_samples()["response"]]
    return build_tokenizer(texts * 3, 400)


def make_base(tokenizer: PreTrainedTokenizerFast | None = None, **more: Any) -> Checkpoint:
    tokenizer = tokenizer or make_tokenizer()
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=512, initializer_range=0.2,
        pad_token_id=0, bos_token_id=None, eos_token_id=2, **more,
    )).eval()
    identity = {"model": {"name": "tiny", "sha256": "ab" * 32}, "dtype": "float32",
                "quantization": "", "adapter": None, "chat_template": ""}
    return Checkpoint(model, tokenizer, identity)


def make_examples(base: Checkpoint, pairs: int = 12) -> list[Example]:
    return verdict_examples(base.tokenizer, PROMPT, make_samples(pairs), max_tokens=512)


def recipe(**changes: Any) -> Recipe:
    return replace(SMALL, **changes)

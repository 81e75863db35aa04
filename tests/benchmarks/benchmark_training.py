"""`finetune` against the library's own trainer, on the same rows with the same settings.

The peer is `trl.SFTTrainer` as a short script uses it, on tokenised rows whose reply alone has
labels, with the recipe's adapter, batch, rate and number format. `finetune` checks, digests and
writes besides. A row has about 240 tokens, of which the last eight or so have labels. The model is
64 wide with 3 layers and 3,000 pieces, its weights are random: what it learned costs no time.
"""

from __future__ import annotations

import tempfile
import warnings
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from benchmark_scoring import words
from datasets import Dataset
from peft import LoraConfig
from table import Row, alone, ms, race
from transformers import PreTrainedModel, PreTrainedTokenizerFast, PrinterCallback
from trl import SFTConfig, SFTTrainer

from monitorlab.finetuning.recipe import PAPER, Example, Recipe, verdict_examples
from monitorlab.finetuning.train import finetune
from monitorlab.models import ModelSize
from monitorlab.models.loading import Checkpoint, no_progress_bars
from monitorlab.models.tiny import POSITIONS, build_tokenizer, seeded
from monitorlab.monitors.prompts import Prompt, load_prompt

SEED = 2026
SMALL = ModelSize(hidden=64, layers=3, heads=4)
VOCABULARY = 3_000
SHORT_PROMPT = Prompt(
    name="short", version=1, about="So that most of a row is its own text.", answer="verdict",
    template="Judge. {criteria}", criteria=("no harm",), user="{request} {response}",
)


def make_samples(rows: int, words_each: int) -> pd.DataFrame:
    """Pairs of made-up texts; lengths vary by a fifth."""
    rng, known = np.random.default_rng(SEED), words(1500)

    def text() -> str:
        return " ".join(rng.choice(known, size=round(words_each * rng.uniform(0.8, 1.2))))

    return pd.DataFrame([
        {"sample_id": str(i), "request": f"{i // 2} {text()}", "response": text(), "label": i % 2,
         "pair_id": str(i // 2), "scenario_id": str(i // 2)}
        for i in range(rows)
    ])


def make_small() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Small model of random weights, and a tokenizer that knows the made-up words."""
    from transformers import LlamaForCausalLM

    prompt = load_prompt("direct")
    texts = [prompt.system, prompt.user, *[" ".join(words(1500)) + " true false"] * 3]
    tokenizer = build_tokenizer(texts, VOCABULARY)
    with seeded(SEED):
        config = SMALL.llama(tokenizer, max_position_embeddings=POSITIONS)
        config.vocab_size = VOCABULARY  # the made-up words alone do not fill it
        return LlamaForCausalLM(config), tokenizer


def library(base: Checkpoint, examples: list[Example], recipe: Recipe) -> None:
    """Train with SFTTrainer as it is."""
    arguments = SFTConfig(
        tempfile.mkdtemp(), per_device_train_batch_size=recipe.batch,
        gradient_accumulation_steps=recipe.accumulation, num_train_epochs=1,
        learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay,
        bf16=recipe.dtype == "bfloat16", gradient_checkpointing=recipe.gradient_checkpointing,
        use_cpu=base.model.device.type == "cpu", max_length=None, report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    rows = Dataset.from_list([
        {"input_ids": example["input_ids"], "labels": example["labels"]} for example in examples])
    adapter = LoraConfig(r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, task_type="CAUSAL_LM",
                         lora_dropout=recipe.lora_dropout, target_modules=list(recipe.targets))
    trainer = SFTTrainer(base.model, arguments, train_dataset=rows, peft_config=adapter,
                         processing_class=base.tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def own(base: Checkpoint, examples: list[Example], recipe: Recipe) -> None:
    """Train with finetune."""
    with tempfile.TemporaryDirectory() as folder:
        finetune(base, examples, recipe, Path(folder) / "out")


def measure(quick: bool) -> list[Row]:
    """Both trainings on fresh copies of one model."""
    rows, rounds = (4, 1) if quick else (320, 3)
    recipe = replace(PAPER, dtype="float32", accumulation=1, gradient_checkpointing=False)
    identity = {"model": {"name": "small", "sha256": ""}, "dtype": "float32"}
    model, tokenizer = make_small()
    examples = verdict_examples(tokenizer, SHORT_PROMPT, make_samples(rows, 92), max_tokens=1024)
    tokens = sum(len(example["input_ids"]) for example in examples)

    def base() -> Checkpoint:  # the library changes the model it gets
        return Checkpoint(deepcopy(model), tokenizer, identity)

    with warnings.catch_warnings(), no_progress_bars():
        warnings.simplefilter("ignore")
        found = race({"library": lambda: library(base(), examples, recipe),
                      "finetune": lambda: own(base(), examples, recipe)}, rounds)
    return [Row(
        f"LoRA training, {rows} rows of {tokens / rows:.0f} tokens", ms(found["finetune"]),
        f"`trl.SFTTrainer` {ms(found['library'])}", found["library"] / found["finetune"], 1.5,
        f"{tokens / found['finetune']:,.0f} tokens/s; the output layer at labelled places alone, "
        "no bound is known for the rest")]


if __name__ == "__main__":
    alone(measure)

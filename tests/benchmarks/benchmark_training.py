"""Time `finetune` against the library's own trainer, on the same rows with the same settings.

    .venv/bin/python tests/benchmarks/benchmark_training.py [--out FILE.json]

* library: `trl.SFTTrainer` as a short script uses it, on tokenised rows whose reply alone has
  labels, with the recipe's adapter, batch, rate and number format;
* finetune: `monitorlab.finetuning.train.finetune`, checking, digests and writing included.

A row has about 240 tokens, of which the last eight or so have labels. The model is 64 wide with 3
layers and 3,000 pieces, its weights are random: time does not depend on what it learned. Rounds are
interleaved, one thread. On a machine that others use too the ratio says more than the times; the
allocator's settings that `monitorlab run` makes help both.

Where there is a GPU, Qwen3-4B at its true size is trained with the published recipe as well, with
rows of the same kind and with rows of up to 32,768 tokens; the figures go to
reports/gpu/training.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from benchmark_scoring import make_model, words
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerFast, PrinterCallback
from trl import SFTConfig, SFTTrainer

from monitorlab.finetuning.examples import Example, verdict_examples
from monitorlab.finetuning.recipe import PAPER, Recipe
from monitorlab.finetuning.train import finetune
from monitorlab.models import ModelSize
from monitorlab.models.loading import Checkpoint, no_progress_bars
from monitorlab.models.tiny import POSITIONS, build_tokenizer, llama_config, seeded
from monitorlab.monitors.prompts import Prompt, load_prompt

SEED = 2026
SMALL = ModelSize(hidden=64, layers=3, heads=4)
VOCABULARY = 3_000
SHORT_PROMPT = Prompt(
    name="short", version=1, about="So that most of a row is its own text.", answer="verdict",
    template="Judge. {criteria}", criteria=("no harm",), user="{request} {response}",
)
GPU_FILE = Path(__file__).resolve().parents[2] / "reports" / "gpu" / "training.json"


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
        config = llama_config(SMALL, tokenizer, max_position_embeddings=POSITIONS)
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


def seconds(work: Callable[[], None]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(recipe: Recipe, rows: int, rounds: int) -> dict[str, Any]:
    """Tokens per second of both ways on the CPU, and the ratio per round."""
    model, tokenizer = make_small()
    identity = {"model": {"name": "small", "sha256": ""}, "dtype": "float32"}
    examples = verdict_examples(tokenizer, SHORT_PROMPT, make_samples(rows, 92), max_tokens=1024)
    tokens = sum(len(example["input_ids"]) for example in examples)
    times: dict[str, list[float]] = {"library": [], "finetune": []}
    ways: dict[str, Callable[[Checkpoint], None]] = {
        "library": lambda base: library(base, examples, recipe),
        "finetune": lambda base: own(base, examples, recipe),
    }
    for turn in range(rounds + 1):
        for way, work in ways.items():
            model, _ = make_small()  # the library changes the one it gets
            spent = seconds(lambda work=work, model=model: work(
                Checkpoint(model, tokenizer, identity)))
            if turn:  # the first is a warm-up
                times[way].append(spent)
    ratios = np.divide(times["library"], times["finetune"])
    return {
        "rows": rows, "tokens": tokens, "tokens_per_row": tokens / rows,
        "parameters": sum(p.numel() for p in model.parameters()), "recipe": asdict(recipe),
        "tokens_per_second": {way: tokens / float(np.median(spent))
                              for way, spent in times.items()},
        "ratio": {"median": float(np.median(ratios)), "lowest": float(ratios.min()),
                  "highest": float(ratios.max()), "rounds": rounds},
    }


def at_true_size(recipe: Recipe, rows: int, words_each: int, peak: float) -> dict[str, Any]:
    """Train Qwen3-4B, weights random, on a GPU; the second of two trainings counts."""
    _, tokenizer = make_small()
    model = make_model("qwen3-4b-config", len(tokenizer), "cuda")
    base = Checkpoint(model, tokenizer, {"model": {"name": "qwen3-4b-config", "sha256": ""}})
    examples = verdict_examples(tokenizer, SHORT_PROMPT, make_samples(rows, words_each),
                                max_tokens=recipe.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        finetune(base, examples, replace(recipe, max_steps=1), Path(folder) / "warm-up")
        torch.cuda.reset_peak_memory_stats()
        done = finetune(base, examples, recipe, Path(folder) / "out")
    parameters = sum(p.numel() for p in model.parameters())
    speed = done.tokens / done.seconds
    return {
        "device": torch.cuda.get_device_name(), "parameters": parameters, "rows": rows,
        "tokens_per_row": done.tokens / rows, "steps": done.steps, "recipe": asdict(recipe),
        "seconds": done.seconds, "tokens_per_second": speed,
        # Frozen weights need no gradient: 2 FLOPs forward and 2 backward per weight and token.
        # What checkpointing computes twice, and attention, are not counted.
        "share_of_peak": 4 * parameters * speed / peak,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", type=float, default=989e12, help="FLOP/s of the GPU, dense")
    parser.add_argument("--gpu-rows", type=int, default=512)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    recipe = replace(PAPER, dtype="float32", accumulation=1, gradient_checkpointing=False)
    with warnings.catch_warnings(), no_progress_bars():
        warnings.simplefilter("ignore")
        found = compare(recipe, asked.rows, asked.rounds)
    speed, ratio = found["tokens_per_second"], found["ratio"]
    print(f"{found['parameters'] / 1e6:.2f}M parameters, {found['rows']} rows of "
          f"{found['tokens_per_row']:.0f} tokens: library {speed['library']:,.0f}, finetune "
          f"{speed['finetune']:,.0f} tokens/s; finetune is faster by {ratio['median']:.2f} "
          f"({ratio['lowest']:.2f} to {ratio['highest']:.2f} in {ratio['rounds']} rounds)")
    write(asked.out, found)
    if not torch.cuda.is_available():
        return
    short = at_true_size(PAPER, asked.gpu_rows, 92, asked.peak)
    long_recipe = replace(PAPER, batch=1, accumulation=4)
    long = at_true_size(long_recipe, 8, 12_500, asked.peak)
    for name, row in (("short", short), ("long", long)):
        print(f"Qwen3-4B, {name} rows of {row['tokens_per_row']:,.0f} tokens: "
              f"{row['tokens_per_second']:,.0f} tokens/s, {row['share_of_peak']:.0%} of peak, "
              f"{row['memory_gib']:.0f} GiB")
    write(GPU_FILE, {"small": found, "short": short, "long": long})


def write(path: Path | None, found: dict[str, Any]) -> None:
    """Write the figures as JSON, if asked."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

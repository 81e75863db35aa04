"""Two processes train together, as if they were one."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from monitorlab.finetuning.recipe import Example, Recipe, verdict_examples
from monitorlab.models.loading import Checkpoint
from monitorlab.models.tiny import build_tokenizer
from monitorlab.monitors.prompts import load_prompt

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = load_prompt("direct")
PATIENCE = 300  # seconds; importing torch and peft takes a busy machine a minute

# Trains on the folder in argv[1], and notes what each process saw and ends with.
SCRIPT = """
import hashlib, json, sys
from pathlib import Path
import torch
from monitorlab.finetuning import train
from monitorlab.finetuning.recipe import Recipe
from monitorlab.finetuning.train import _Collator as Collator, _VerdictTrainer as VerdictTrainer
from monitorlab.models.loading import Checkpoint

root = Path(sys.argv[1])
job = json.loads((root / "job.json").read_text())
notes = {"batches": [], "wrote": False}
collate, fit, write = Collator.__call__, VerdictTrainer.train, train._write

def noted_collate(self, rows):
    if len(self.examples) == len(job["examples"]):
        notes["batches"].append([row["row"] for row in rows])
    return collate(self, rows)

def noted_fit(self, *given, **more):
    found = fit(self, *given, **more)
    digest = hashlib.sha256()
    for weight in self.model.parameters():
        digest.update(weight.detach().numpy().tobytes())
    notes["weights"], notes["rank"] = digest.hexdigest(), self.args.process_index
    return found

def noted_write(*given):
    notes["wrote"] = True
    write(*given)

Collator.__call__, VerdictTrainer.train, train._write = noted_collate, noted_fit, noted_write
torch.set_num_threads(1)
done = train.finetune(Checkpoint.load(str(root / "base")), job["examples"], Recipe(**job["recipe"]),
                      root / job["name"], held_out=job["examples"][:6], **job["options"])
notes["history"] = done.history.fillna(-1).to_dict("list")
(root / f"notes{notes.get('rank', 0)}.json").write_text(json.dumps(notes))
"""


def make_base(root: Path) -> list[Example]:
    """Save a tiny base; return examples."""
    samples = pd.DataFrame([
        {"sample_id": f"{pair:02}{label}", "request": f"Copy the folder {pair}.",
         "response": ("rm -rf all " if label else "cp -r a b ") * (1 + pair % 5),
         "label": label, "pair_id": f"pair {pair}", "scenario_id": ""}
        for pair in range(21) for label in (0, 1)
    ])
    texts = [PROMPT.system, PROMPT.user, " true false", *samples["response"]]
    tokenizer = build_tokenizer(texts * 3, 600)
    torch.manual_seed(3)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=1024, initializer_range=0.2,
        pad_token_id=0, bos_token_id=None, eos_token_id=2,
    )).save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    return verdict_examples(tokenizer, PROMPT, samples, max_tokens=1024)


def write_job(
    root: Path, examples: list[Example], recipe: Recipe, name: str, **options: int
) -> None:
    job = {"examples": examples, "recipe": asdict(recipe), "name": name, "options": options}
    (root / "job.json").write_text(json.dumps(job))
    (root / "script.py").write_text(SCRIPT)


def start(root: Path, *launcher: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *launcher, str(root / "script.py"), str(root)], text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **more},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )


@pytest.mark.long
def test_two_processes_train_together(tmp_path: Path) -> None:
    examples = make_base(tmp_path)
    recipe = Recipe(lora_rank=4, dtype="float32", batch=4, accumulation=2, epochs=1.0,
                    learning_rate=5e-3, gradient_checkpointing=True, pair_weight=0.5)
    write_job(tmp_path, examples, recipe, "out", eval_steps=1, save_steps=2)
    process = start(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
                    "2", ACCELERATE_USE_CPU="1")
    output = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    first, second = (json.loads((tmp_path / f"notes{rank}.json").read_text()) for rank in (0, 1))
    assert (first["wrote"], second["wrote"]) == (True, False)
    assert first["weights"] == second["weights"]
    assert first["history"] == second["history"]

    assert len(first["batches"]) == len(second["batches"]) > 3
    assert not {i for batch in first["batches"] for i in batch} & {
        i for batch in second["batches"] for i in batch}
    batches = [*first["batches"], *second["batches"]]
    assert sorted(i for batch in batches for i in batch) == list(range(len(examples)))
    for batch in batches:  # whole pairs
        pairs = [examples[i]["pair"] for i in batch]
        assert all(pairs.count(pair) == 2 for pair in pairs)

    stored = json.loads((tmp_path / "out" / "training.json").read_text())
    assert stored["processes"] == 2 and not (tmp_path / ".out.partial").exists()
    assert stored["tokens"] == sum(len(example["input_ids"]) for example in examples)
    assert stored["steps"] == -(-len(first["batches"]) // 2)
    # The first step's loss is that of the base on the batches of both processes together.
    model = Checkpoint.load(str(tmp_path / "base")).model
    chosen = [i for batch in [*first["batches"][:2], *second["batches"][:2]] for i in batch]
    expected = by_hand(model, [examples[i] for i in chosen], recipe.pair_weight)
    assert stored["history"][0]["step"] == 1
    assert stored["history"][0]["loss"] == pytest.approx(expected, abs=1e-4)


@torch.inference_mode()
def by_hand(model: Any, chosen: list[Example], pair_weight: float) -> float:
    """Loss of one step, an example at a time."""
    total, count, margins = 0.0, 0, {}
    yes, no = (next(e["input_ids"][e["verdict_at"] + 1] for e in chosen if e["label"] == label)
               for label in (1, 0))
    for example in chosen:
        ids, labels = torch.tensor([example["input_ids"]]), torch.tensor([example["labels"]])
        output, asked = model(ids, labels=labels), int((labels != -100).sum())
        total, count = total + output.loss.item() * asked, count + asked
        logits = output.logits[0, example["verdict_at"]]
        margins[example["pair"], example["label"]] = logits[yes] - logits[no]
    apart = [torch.nn.functional.softplus(margins[pair, 0] - margin).item()
             for (pair, label), margin in margins.items() if label == 1]
    return total / count + pair_weight * sum(apart) / len(apart)

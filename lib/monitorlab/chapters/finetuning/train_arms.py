"""Training and asking the arms of a run.

A finished training is a stored checkpoint, and every answer is stored under the hash of its
request. So a run that was killed goes on where it was, inside a training too, and nothing is
trained or asked twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import LlamaForCausalLM

from monitorlab.chapters.finetuning.arms import EVERY_ARM, Arm, arm_examples, recipe_of
from monitorlab.display import progress
from monitorlab.evaluation.tradeoff import BASE
from monitorlab.finetuning.recipe import Example, LeakError, Recipe, digest_examples
from monitorlab.finetuning.saved import Trained, load_finetuned
from monitorlab.finetuning.train import finetune
from monitorlab.models import ModelSize, smollm2
from monitorlab.models.loading import Checkpoint
from monitorlab.models.tiny import POSITIONS, build_tokenizer, seeded
from monitorlab.monitors.causal import STUB, LogitMonitor
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.prompts import Prompt
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import VerdictStore
from monitorlab.pipeline.runs import Run
from monitorlab.storage.files import digest_json

SAVE_STEPS = 100  # between checkpoints to resume from
RANDOM = "random weights"
RANDOM_SIZE, PIECES, TEXTS = ModelSize(32, 2, 2), 3000, 300


def base_model(
    run: Run, corpus: pd.DataFrame, name: str = "", device: str = "cpu"
) -> Checkpoint:
    """Return the model that all arms start from.

    Where the profile names none, or SmolLM2 is not installed, it is a tiny model of the same
    architecture with random weights, on which a training shows no more than how it runs.

    Parameters
    ----------
    run : Run
        Its profile names the model.
    corpus : DataFrame
        What the tokenizer of random weights is made from.
    name : str
        Another model instead: a folder, NAME@COMMIT on the hub, or "smollm2".
    device : str
        A torch device.
    """
    chosen, revision = name or run.profile.finetuning.base, ""
    if not Path(chosen).is_dir():
        chosen, _, revision = chosen.partition("@")
    if chosen == smollm2.NAME:
        if smollm2.smollm2_installed():
            return smollm2.load_smollm2(dtype="float32", device=device)
        print("SmolLM2 is not installed, so random weights are trained here: "
              f"{smollm2.INSTALL}")
    elif chosen:
        return Checkpoint.load(chosen, revision, dtype="bfloat16", device=device)
    texts = [*(corpus["request"] + "\n" + corpus["response"]).head(TEXTS), STUB + " true false}"]
    tokenizer, seed = build_tokenizer(texts, PIECES), run.torch_seed("base")
    with seeded(seed):
        config = RANDOM_SIZE.llama(tokenizer, max_position_embeddings=POSITIONS)
        model = LlamaForCausalLM(config).eval()
    identity = {"model": {"name": RANDOM, "sha256": digest_json([seed, texts])}, "adapter": None}
    return Checkpoint(model, tokenizer, identity)


@dataclass(frozen=True)
class Task:
    """One training.

    Attributes
    ----------
    arm : Arm
    seed : int
        Of the training.
    share : float
        Of the budget.
    recipe : Recipe
    examples : tuple of Example
    """

    arm: Arm
    seed: int
    share: float
    recipe: Recipe
    examples: tuple[Example, ...] = field(repr=False, compare=False)

    @property
    def title(self) -> str:
        """Name of its checkpoint."""
        return f"arm-{training_name(self.arm.name, self.share, self.seed)}"


def training_name(arm: str, share: float, seed: int) -> str:
    """Name of one training of an arm in file names."""
    return f"{arm.replace(' ', '_')}-{share:g}-{seed}"


def plan_tasks(
    run: Run, arms: Iterable[str], corpus: pd.DataFrame, base: Checkpoint, prompt: Prompt, *,
    repetition: int = 0, share: float = 1.0, **recipe: Any,
) -> list[Task]:
    """Draw what every arm learns from.

    Parameters
    ----------
    run : Run
        Its seed decides all draws. Arms of one repetition and the same components draw the same
        pairs.
    arms : iterable of str
        Some of `EVERY_ARM`; the base needs no training and is passed over.
    corpus : DataFrame
        Schema ``corpus``.
    base, prompt
        The model and what it is asked.
    repetition : int
        From 0; another one draws other samples and another adapter to begin with.
    share : float
        Of the budget, above 0.
    **recipe
        What differs from the profile's recipe.

    Raises
    ------
    MonitorError
        An arm is unknown, or as `arm_examples`.
    """
    names = [name.strip() for name in arms if name.strip() not in ("", BASE)]
    if unknown := [name for name in names if name not in EVERY_ARM]:
        raise MonitorError(f"there is no arm {unknown[0]!r}: expected some of "
                           f"{', '.join(EVERY_ARM)}")
    settings, seed = run.profile.finetuning, run.torch_seed(f"arms {repetition}")
    settings = replace(settings, recipe={**settings.recipe, **recipe})
    return [
        Task(arm, seed, share, recipe_of(arm, settings, seed, share),
             tuple(arm_examples(arm, corpus, base.tokenizer, prompt, settings,
                                run.rng(f"rows {repetition}"), share=share)))
        for arm in map(EVERY_ARM.__getitem__, names)
    ]


def task_table(tasks: Sequence[Task]) -> pd.DataFrame:
    """One row per training: what it learns from, counted."""
    return pd.DataFrame([
        {"arm": task.arm.name, "learns from": task.arm.about,
         **{word: sum(e["label"] == label for e in task.examples)
            for label, word in ((1, "misbehavior"), (0, "benign"))},
         "scenarios": len({example["scenario"] for example in task.examples}),
         "tokens": sum(len(example["input_ids"]) for example in task.examples),
         "steps": task.recipe.max_steps}
        for task in tasks
    ])


def train(
    run: Run, tasks: Sequence[Task], base: Checkpoint, forbidden: Sequence[str],
) -> dict[Task, Path]:
    """Train every task that is not stored yet.

    Parameters
    ----------
    run : Run
        Its manifest records every checkpoint.
    tasks : sequence of Task
    base : Checkpoint
        As they were planned for.
    forbidden : sequence of str
        Scenarios that no training batch may hold.

    Returns
    -------
    dict of Task to Path
        Folders for `load_finetuned`.

    Raises
    ------
    LeakError, MonitorError
        As :func:`monitorlab.finetuning.train.finetune`; arms that are finished stay.
    """
    return {task: _trained(run, task, base, forbidden)
            for task in progress(tasks, "arms trained", len(tasks))}


def _trained(run: Run, task: Task, base: Checkpoint, forbidden: Sequence[str]) -> Path:
    """Train in a folder beside its place, so that it can go on there, then move it."""
    decided: Mapping[str, Any] = {"recipe": asdict(task.recipe), "base": base.identity,
                                  "examples": digest_examples(task.examples)}
    LeakError.check(task.examples, forbidden)  # also where nothing is trained any more
    stored = run.checkpoint_folder(task.title, decided)
    work = stored.with_name(f"{stored.name}.work")
    if not stored.exists():
        finetune(base, task.examples, task.recipe, work, title=f"training {task.arm.name}",
                 save_steps=SAVE_STEPS, forbidden_scenarios=forbidden,
                 provenance={"arm": task.arm.name, "share": task.share})

    def adopt(folder: Path) -> None:
        for file in sorted(work.iterdir()):
            file.replace(folder / file.name)
        shutil.rmtree(work)

    return run.checkpoint(task.title, decided, adopt)


def losses(trained: Mapping[Task, Path]) -> pd.DataFrame:
    """What every training logged: ``arm``, ``step``, ``loss`` (nats), tokens per second."""
    found = []
    for task, folder in trained.items():
        stored = Trained.record(folder)
        found += [{"arm": task.arm.name, "step": row["step"], "loss": row["loss"],
                   "tokens_per_second": stored["tokens"] / stored["seconds"]}
                  for row in stored["history"]]
    return pd.DataFrame(found, columns=["arm", "step", "loss", "tokens_per_second"])


def ask_arms(
    run: Run, trained: Mapping[Task, Path], base: Checkpoint, prompt: Prompt,
    samples: pd.DataFrame,
) -> pd.DataFrame:
    """Ask the base and every trained arm about `samples`.

    Returns
    -------
    DataFrame
        Schema ``verdicts`` with the columns ``arm``, ``seed``, ``share`` and ``train_seconds``;
        the base first, with seed -1 and share 0.
    """
    store = VerdictStore(run.checkpoint_folder("arms", {}).parent / "arms.jsonl")
    asked = Sample.rows(samples)

    def answers(model: Checkpoint, name: str, **facts: float) -> pd.DataFrame:
        monitor = LogitMonitor(model, prompt, name=name)
        return score(monitor, asked, store, title=f"asking {name}").assign(arm=name, **facts)

    found = [answers(base, BASE, seed=-1, share=0.0, train_seconds=0.0)]
    for task, folder in trained.items():
        stored = Trained.record(folder)
        model = load_finetuned(folder, base)
        adapter = {"name": task.title, "sha256": digest_json(stored["inputs"])}
        model = replace(model, identity={**model.identity, "adapter": adapter})
        found.append(answers(model, task.arm.name, seed=task.seed, share=task.share,
                             train_seconds=stored["seconds"]))
    return pd.concat(found, ignore_index=True)

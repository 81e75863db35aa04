"""Training and asking all arms of a run, some of them side by side.

Every arm is a stored checkpoint: an interrupted run keeps those that are finished, and goes on
inside the one that was not.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from monitorlab.chapters.finetuning.arms import Arm, arm_examples, budget, recipe_of
from monitorlab.chapters.finetuning.base import base_checkpoint
from monitorlab.display.progress import progress
from monitorlab.evaluation.shift import BASE
from monitorlab.finetuning.batches import check_leaks
from monitorlab.finetuning.examples import Example
from monitorlab.finetuning.recipe import Recipe
from monitorlab.finetuning.record import digest_examples, read_training
from monitorlab.finetuning.saved import load_finetuned
from monitorlab.finetuning.train import finetune
from monitorlab.models.loading import Checkpoint, load_causal, model_identity
from monitorlab.monitors.causal import LogitMonitor
from monitorlab.monitors.monitor import samples_of
from monitorlab.monitors.prompts import Prompt
from monitorlab.monitors.scoring import score
from monitorlab.pipeline.checkpoints import checkpoint, checkpoint_folder
from monitorlab.pipeline.runs import Run

SAVES = 4  # checkpoints to resume from, per training


@dataclass(frozen=True)
class Model:
    """A base model, by what it takes to load it.

    Attributes
    ----------
    name, revision, dtype, device : str
        As in :func:`monitorlab.models.loading.load_causal`.
    small : bool
        Whether it is the stand-in that is trained here.
    """

    name: str
    revision: str = ""
    dtype: str = "float32"
    device: str = "cpu"
    small: bool = False

    def load(self) -> Checkpoint:
        """Load it."""
        return load_causal(self.name, self.revision, dtype=self.dtype, device=self.device)


def base_model(
    run: Run, corpus: pd.DataFrame, prompt: Prompt, name: str = "", revision: str = "",
    device: str = "cpu",
) -> Model:
    """Return the model that all arms start from.

    Parameters
    ----------
    run : Run
        Its profile names a model of the hub, or says how large the small one is.
    corpus, prompt
        What the small one practises on.
    name, revision : str
        Another model instead; empty for that of the profile.
    device : str
        A torch device.
    """
    chosen = name or run.profile.finetuning.base
    if not chosen:
        return Model(str(base_checkpoint(run, corpus, prompt)), small=True)
    return Model(chosen, revision, "bfloat16", device)


@dataclass(frozen=True)
class Task:
    """One training and the questions that follow it.

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
    examples: tuple[Example, ...] = field(repr=False)

    @property
    def title(self) -> str:
        """Name of its checkpoint."""
        words = self.arm.name.replace(" ", "_")
        return f"arm-{words}-{self.share:g}-{self.seed}"


def plan_tasks(
    run: Run, arms: Sequence[Arm], corpus: pd.DataFrame, base: Model, prompt: Prompt, *,
    repetition: int = 0, share: float = 1.0,
) -> list[Task]:
    """Draw what every arm learns from.

    Parameters
    ----------
    run : Run
        Its seed decides all draws. Arms of one repetition and the same components draw the same
        pairs.
    arms : sequence of Arm
    corpus : DataFrame
        Schema ``corpus``.
    base, prompt
        The model and what it is asked.
    repetition : int
        From 0; another one draws other samples and another adapter to begin with.
    share : float
        Of the budget, in (0, 1].
    """
    settings = run.profile.finetuning
    tokenizer = base.load().tokenizer
    seed = run.torch_seed(f"arms {repetition}")
    return [
        Task(arm, seed, share, recipe_of(arm, settings, seed, share),
             tuple(arm_examples(arm, corpus, tokenizer, prompt, settings,
                                run.rng(f"rows {repetition}"), share=share)))
        for arm in arms
    ]


def task_table(tasks: Sequence[Task]) -> pd.DataFrame:
    """One row per training: what it learns from, counted."""
    return pd.DataFrame([
        {"arm": task.arm.name, "learns from": task.arm.about, **budget(task.examples),
         "scenarios": len({example["scenario"] for example in task.examples}),
         "steps": task.recipe.max_steps}
        for task in tasks
    ])


def train_and_ask(
    run: Run, tasks: Sequence[Task], base: Model, prompt: Prompt, samples: pd.DataFrame,
    forbidden: Sequence[str], title: str = "arms trained and asked",
) -> pd.DataFrame:
    """Train every task that is not stored yet, and ask its monitor about `samples`.

    Parameters
    ----------
    run : Run
        Its manifest records every checkpoint.
    tasks : sequence of Task
    base, prompt
        As they were planned for.
    samples : DataFrame
        Schema ``samples``.
    forbidden : sequence of str
        Scenarios that no training batch may hold.
    title : str
        Caption of the progress bar.

    Returns
    -------
    DataFrame
        Schema ``verdicts`` with the columns ``arm``, ``seed``, ``share`` and ``train_seconds``, in
        the order of the tasks.

    Raises
    ------
    LeakError, MonitorError
        As :func:`monitorlab.finetuning.train.finetune`; arms that are finished stay.
    """
    # The small base is stored under a digest of all that decided it.
    identity = Path(base.name).name if base.small else model_identity(base.name, base.revision)
    places = [_fingerprint(task, [identity, base.dtype]) for task in tasks]
    jobs = [
        _Job(task, base, prompt, checkpoint_folder(run, task.title, fingerprint),
             samples[["sample_id", "request", "response"]], tuple(sorted(set(forbidden))))
        for task, fingerprint in zip(tasks, places, strict=True)
    ]
    found = {}
    for number, verdicts in progress(
        _results(jobs, run.profile.finetuning.processes), title, len(jobs)
    ):
        checkpoint(run, tasks[number].title, places[number], jobs[number].adopt)
        found[number] = verdicts
    return pd.concat([found[number] for number in range(len(jobs))], ignore_index=True)


def ask_base(base: Model, prompt: Prompt, samples: pd.DataFrame) -> pd.DataFrame:
    """Ask the base, untrained, about `samples`; the columns are those of `train_and_ask`."""
    verdicts = score(LogitMonitor(base.load(), prompt, name=BASE), samples_of(samples))
    return verdicts.assign(arm=BASE, seed=-1, share=0.0, train_seconds=0.0)


@dataclass(frozen=True)
class _Job:
    """A task with everything that another process needs for it."""

    task: Task
    base: Model
    prompt: Prompt
    stored: Path
    samples: pd.DataFrame = field(repr=False, compare=False)
    forbidden: tuple[str, ...] = field(repr=False)

    @property
    def work(self) -> Path:
        """Where the training writes until it is stored."""
        return self.stored.with_name(f"{self.stored.name}.work")

    def adopt(self, folder: Path) -> None:
        """Move the finished training into `folder`."""
        for file in sorted(self.work.iterdir()):
            file.replace(folder / file.name)
        shutil.rmtree(self.work)

    def run(self) -> pd.DataFrame:
        """Train if need be, then ask."""
        base, task, folder = self.base.load(), self.task, self.stored
        check_leaks(task.examples, self.forbidden)  # also where nothing is trained any more
        if not folder.exists():
            folder = self.work
            steps = task.recipe.max_steps or len(task.examples) // task.recipe.batch
            finetune(
                base, task.examples, task.recipe, folder,
                save_steps=0 if self.base.small else max(1, steps // SAVES),
                forbidden_scenarios=self.forbidden, provenance={"arm": task.arm.name},
            )
        trained = _named(load_finetuned(folder, base), self.stored.name)
        monitor = LogitMonitor(trained, self.prompt, name=task.arm.name)
        verdicts = score(monitor, samples_of(self.samples))
        return verdicts.assign(arm=task.arm.name, seed=task.seed, share=task.share,
                               train_seconds=read_training(folder)["seconds"])


def _named(trained: Checkpoint, name: str) -> Checkpoint:
    """Give it the name it is stored by, which verdicts record, also before it is stored."""
    part = "adapter" if trained.identity.get("adapter") else "model"
    named = {**trained.identity[part], "name": name}
    return replace(trained, identity={**trained.identity, part: named})


def _results(jobs: Sequence[_Job], processes: int) -> Iterator[tuple[int, pd.DataFrame]]:
    """Do the jobs, in this process or in several, and yield them as they finish."""
    if processes <= 1 or len(jobs) <= 1:
        for number, job in enumerate(jobs):
            yield number, job.run()
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(job.run): number for number, job in enumerate(jobs)}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _fingerprint(task: Task, known: Sequence[Any]) -> Mapping[str, Any]:
    """Everything that decides a trained arm; `known` says which base."""
    return {
        "recipe": asdict(task.recipe),
        "base": known,
        "examples": digest_examples(task.examples),
    }

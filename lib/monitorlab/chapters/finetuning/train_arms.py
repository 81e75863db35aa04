"""Training and asking all arms of a run, some of them side by side.

Every arm is a stored checkpoint: an interrupted run keeps those that are finished, and goes on
inside the one that was not.

The small base model has practised reading, and has never seen a verdict. A real base model can find
an option letter in a message and compare it with another. A model of a third of a million
parameters learns that from verdicts only by the million, so it practises first, on texts of the
training corpus: which option does the message name, which does the answer take, is it this one?
Rules that read letters give the answers (`monitorlab.monitors.rules`); no label enters. Every
figure that shows the model calls it a small stand-in.
"""

from __future__ import annotations

import multiprocessing
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from monitorlab.chapters.finetuning.arms import Arm, arm_examples, budget, recipe_of
from monitorlab.display.progress import progress
from monitorlab.evaluation.shift import BASE
from monitorlab.finetuning.batches import check_leaks
from monitorlab.finetuning.examples import Example
from monitorlab.finetuning.recipe import Recipe
from monitorlab.finetuning.record import digest_examples, read_training
from monitorlab.finetuning.saved import load_finetuned
from monitorlab.finetuning.train import finetune
from monitorlab.models.chat import chat_text, control_texts, text_ids
from monitorlab.models.loading import Checkpoint, load_causal, model_identity
from monitorlab.models.tiny import (
    IGNORED,
    POSITIONS,
    SPECIAL,
    TEMPLATE,
    TEXTS_FOR_TOKENIZER,
    build_tokenizer,
    llama_config,
    seeded,
)
from monitorlab.monitors.causal import NO, STUB, YES, LogitMonitor
from monitorlab.monitors.monitor import MonitorError, samples_of
from monitorlab.monitors.prompts import Prompt
from monitorlab.monitors.rules import chosen_option, cued_option
from monitorlab.monitors.scoring import score
from monitorlab.pipeline.artifacts import checkpoint, checkpoint_folder
from monitorlab.pipeline.profiles import Finetuning
from monitorlab.pipeline.runs import Run
from monitorlab.storage.files import digest_table

# The base model ------------------------------------------------------------------------------

NAMED, TAKEN = "Which option does the request name?", "Which option does the response take?"
IS_NAMED, IS_TAKEN = "Does the request name option {}?", "Does the response take option {}?"
LETTERS = "ABCD"
RATE = 1e-2
_OPTION = re.compile(r"\s*(?:[-*] )?\(?[A-H][.):] ")
_LETTER = re.compile(r"(?<![\w'])[A-H](?![\w'])|</?think>")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
BATCH = 16
TEXTS = 2_000  # that are read for questions, unless many steps need more
SHORT_TEXTS = 4  # shortened copies of a sample for each whole one


def _reading_examples(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    samples: pd.DataFrame,
    rng: np.random.Generator,
) -> list[Example]:
    """Ask two questions, twice, about every sample in which both letters can be read.

    Every sample comes once as it is and `SHORT_TEXTS` times shortened (see `_shortened_samples`).

    Which letter is it here, and is it this one there: one question is about the request, the other
    about the response, in random order, so that no answer gives the other one away. Both are read
    in one pass, as two turns of a chat; a tokenizer of another make gets the first one only, as
    its chat template decides what earlier turns look like.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        With a chat template and an end mark.
    prompt : Prompt
        Its last line is replaced by the question, so that a monitor's prompt looks familiar.
    samples : DataFrame
        Columns sample_id, request, response, scenario_id.
    rng : Generator
        Draws letters and orders.

    Returns
    -------
    list of Example
        Up to ten per sample. Only the words that answer have labels; there is no verdict.
    """
    rows = _readable(samples)
    found = []
    for texts, copies in ((rows, 1), (_shortened_samples(rows), SHORT_TEXTS)):
        stems, tail = _stems(tokenizer, prompt, texts)
        read = list(zip(stems, map(cued_option, texts["request"]),
                        map(chosen_option, texts["response"]), texts["scenario_id"], strict=True))
        for stem, named, taken, scenario in read * copies:
            for asked in (
                [(NAMED, "", f" {named}"), _yes_or_no(IS_TAKEN, str(taken), rng)],
                [(TAKEN, "", f" {taken}"), _yes_or_no(IS_NAMED, str(named), rng)],
            ):
                turns = asked[::-1] if rng.random() < 0.5 else asked
                found.append(_example(tokenizer, stem, tail, turns, str(scenario)))
    return found


def _readable(samples: pd.DataFrame) -> pd.DataFrame:
    """Rows in which the request names one of `LETTERS` and the response takes one."""
    letters = zip(map(cued_option, samples["request"]), map(chosen_option, samples["response"]),
                  strict=True)
    known = [set(map(str, both)) <= set(LETTERS) for both in letters]
    return samples[np.array(known, dtype=bool)]


def _shortened_samples(samples: pd.DataFrame) -> pd.DataFrame:
    """Leave out every sentence without an option letter, where both letters can still be read.

    A comparison is learned from a number of examples, not of words: short ones are cheap.
    """
    requests = [_short(text) for text in samples["request"]]
    responses = [_short(text) for text in samples["response"]]
    same = [
        cued_option(request) == cued_option(long) and chosen_option(response) == chosen_option(said)
        for request, long, response, said in zip(
            requests, samples["request"], responses, samples["response"], strict=True)
    ]
    return samples.assign(request=requests, response=responses)[np.array(same, dtype=bool)]


def _short(text: str) -> str:
    kept = []
    for line in text.splitlines():
        if _OPTION.match(line):
            kept.append(" ".join(line.split()[:3]))
        else:
            kept += [one for one in _SENTENCE.split(line) if _LETTER.search(one)]
    return "\n".join(kept)


def _yes_or_no(question: str, letter: str, rng: np.random.Generator) -> tuple[str, str, str]:
    """Question, beginning and word of the answer; the right letter is asked half of the time."""
    true = bool(rng.random() < 0.5)
    others = [other for other in LETTERS if other != letter]
    shown = letter if true else others[int(rng.integers(len(others)))]
    return question.format(shown), STUB, (YES if true else NO)[0]


def _stems(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, samples: pd.DataFrame
) -> tuple[list[list[int]], list[int]]:
    """Token ids of each prompt up to where its question begins, and of what ends a question."""
    mark = "\u241e"  # a sign that no text holds
    marked = replace(prompt, user=f"{prompt.user.rpartition(chr(10))[0]}\n{mark}")
    forbidden = control_texts(tokenizer)
    texts = [chat_text(tokenizer, marked.messages(sample, forbidden), False)
             for sample in samples_of(samples)]
    if not texts:
        return [], []
    stems = text_ids(tokenizer, [text.rpartition(mark)[0] for text in texts])
    tails = {text.rpartition(mark)[2] for text in texts}
    return stems, _plain_ids(tokenizer, tails.pop())


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _example(
    tokenizer: PreTrainedTokenizerBase, stem: Sequence[int], tail: Sequence[int],
    asked: Sequence[tuple[str, str, str]], scenario: str,
) -> Example:
    """Put questions and answers behind a stem, as turns of a chat."""
    ids, labels = list(stem), [IGNORED] * len(stem)
    ours = tokenizer.chat_template == TEMPLATE
    for number, (question, stub, answer) in enumerate(asked if ours else asked[:1]):
        opened, head, begun, said = (
            _plain_ids(tokenizer, text)
            for text in ("<user>" if number else "", question, stub, answer))
        turn = [*opened, *head, *tail, *begun]
        ids += [*turn, *said, tokenizer.eos_token_id]
        labels += [*[IGNORED] * len(turn), *said, IGNORED]
    return {"input_ids": ids, "labels": labels, "label": -1, "pair": -1, "verdict_at": -1,
            "scenario": scenario}


def _train_base(
    corpus: pd.DataFrame, prompt: Prompt, settings: Finetuning, folder: Path, seed: int,
    title: str = "",
) -> None:
    """Train tokenizer and base from scratch; `folder` becomes an ordinary checkpoint.

    Parameters
    ----------
    corpus : DataFrame
        The training corpus; its labels are not looked at.
    prompt : Prompt
        The one that the monitors will be asked with.
    settings : Finetuning
        Sizes and steps.
    folder : Path
        Empty or missing.
    seed : int
        Decides weights, questions and their order.
    title : str
        Caption of the progress bar; none is shown if empty.

    Raises
    ------
    MonitorError
        If no text of the corpus can be read by the rules.
    """
    rng = np.random.default_rng(seed)
    mixed = corpus.sample(frac=1.0, random_state=rng)
    tokenizer = build_tokenizer([*list(_frames(prompt, mixed)) * 50,
                                 *list(mixed["request"] + "\n" + mixed["response"])
                                 [:TEXTS_FOR_TOKENIZER]], settings.vocabulary)
    read = mixed.head(max(TEXTS, settings.reading_steps * BATCH))
    practice = _reading_examples(tokenizer, prompt, read, rng)
    if not practice:
        raise MonitorError("no text of the corpus names one option and takes one: the small base "
                           "has nothing to practise on, give a corpus with sycophancy samples")
    order = rng.permutation(len(practice))[: settings.reading_steps * BATCH]
    with seeded(seed):
        config = llama_config(settings.model, tokenizer, max_position_embeddings=POSITIONS)
        model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    base = Checkpoint(model.eval(), tokenizer, {"model": {"name": "untrained", "seed": seed}})
    finetune(base, [practice[i] for i in order], _reading_recipe(settings, seed), folder,
             title=title, provenance={"practice": "reading"})


def _reading_recipe(settings: Finetuning, seed: int) -> Recipe:
    """All weights, by Muon, with a falling rate."""
    return Recipe(
        lora_rank=0, optimizer="muon", learning_rate=RATE, schedule="cosine", warmup_share=0.05,
        max_steps=settings.reading_steps, batch=BATCH, accumulation=1, max_tokens=POSITIONS,
        dtype="float32", gradient_checkpointing=False, seed=seed,
    )


def _frames(prompt: Prompt, corpus: pd.DataFrame) -> Iterator[str]:
    """Words that every prompt and answer holds, so that the tokenizer has pieces for them."""
    first = samples_of(corpus.head(1))[0]
    yield from (message["content"] for message in prompt.messages(first, SPECIAL))
    yield from (NAMED, TAKEN, *(f"{q.format(letter)} {letter}"
                                for q in (IS_NAMED, IS_TAKEN) for letter in LETTERS))
    yield from (STUB + word + "}" for word in (YES[0], NO[0]))


def _base_checkpoint(run: Run, corpus: pd.DataFrame, prompt: Prompt) -> Path:
    """Return the folder of the small base of a run, trained only if nothing like it is stored."""
    settings, seed = run.profile.finetuning, run.torch_seed("base")
    columns = ["sample_id", "request", "response", "scenario_id"]
    fingerprint: dict[str, Any] = {
        "settings": [settings.vocabulary, asdict(settings.model), settings.reading_steps],
        "seed": seed,
        "prompt": prompt.digest,
        "corpus": digest_table(pa.Table.from_pandas(corpus[columns], preserve_index=False)),
    }

    def build(folder: Path) -> None:
        _train_base(corpus, prompt, settings, folder, seed, "base: reading")

    return checkpoint(run, "base", fingerprint, build)


# Training and asking --------------------------------------------------------------------------

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
        return Model(str(_base_checkpoint(run, corpus, prompt)), small=True)
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

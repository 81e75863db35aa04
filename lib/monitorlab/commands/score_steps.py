"""`python -m monitorlab score-steps`: problems or conversations in, a table of step scores out.

A generator solves what is not solved yet, a verifier scores every step, and a check says which
solutions are wrong. Answers and scores are appended to files beside the table as they come, keyed
by all that decides them: the same command goes on where it was stopped, and computes nothing twice.
"""

from __future__ import annotations

import functools
import json
import math
import pkgutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monitorlab import __version__
from monitorlab.benchmark.final_answers import CHECKS, right_answer
from monitorlab.commands.score import differing
from monitorlab.display import progress
from monitorlab.models import ModelError
from monitorlab.models.loading import check_device, load_tokenizer, model_identity
from monitorlab.models.smollm2 import NAME as SMOLLM2
from monitorlab.models.smollm2 import smollm2_folder
from monitorlab.monitors.build import build_monitor, split_spec
from monitorlab.monitors.monitor import Sample
from monitorlab.monitors.prompts import PLAIN
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import VerdictStore
from monitorlab.monitors.verdicts import PARSED, TRUNCATED, UNPARSED, Verdict
from monitorlab.online.trajectories import UNKNOWN
from monitorlab.signals.recordings import RecordedSequence, load_recordings
from monitorlab.signals.step_scores import LeftOutError, StepScores, Trajectory, split_steps
from monitorlab.storage.files import digest_json, pretty_json, write_file_atomic, write_text_atomic
from monitorlab.storage.settings import (
    ParameterError,
    read_settings,
    settings_of,
    split_assignments,
)

ENDINGS = (".csv", ".jsonl", ".parquet")
RULE = "tool-calls"
# Kind of verifier to what is built; the parameters of these are its settings.
VERIFIERS = {
    "logprob": ("step_scores:LogProbabilityScorer.load", "step_scores:LogProbabilityScorer"),
    "prm": ("verifiers:load_reward_model", "verifiers:TokenRewardScorer.load",
            "verifiers:TokenRewardScorer", "verifiers:MathShepherdScorer"),
    "guard": ("verifiers:GuardScorer.load", "verifiers:GuardScorer"),
    RULE: ("recordings:ToolCallScorer",),
}
ANSWER_PROMPT = "answer"
ROOM = 1_024  # tokens of a solution, if the generator's settings do not say
_LIMITS = {"max_tokens", "max_new_tokens"}
CUT_OFF = "the solution was cut off: give the generator a larger max_tokens"
_EVERYWHERE = frozenset({"device"})  # settings that do not decide a score


@dataclass(frozen=True)
class _StepReading:
    """What is read, and in which portions.

    Attributes
    ----------
    source_path : str
        Of a set of the hub: another name there, or a local folder, with the same columns.
    source_revision : str
        Commit of a set of the hub.
    limit : int
        So many sequences, drawn at random, since files are often sorted by label; 0 is all. A
        smaller number gives some of the same.
    seed : int
        Of that draw.
    batch : int
        Sequences that are scored together; an interruption loses at most so many. 0 takes 1 on a
        CPU, where padding costs more than it saves, and 16 elsewhere.
    signal : str
        How the table calls the scores; made of the verifier if empty.
    """

    source_path: str = ""
    source_revision: str = ""
    limit: int = 0
    seed: int = 2026
    batch: int = 0
    signal: str = ""

    def __post_init__(self) -> None:
        for name in ("limit", "batch"):
            if getattr(self, name) < 0:
                raise ParameterError(f"{name} is {getattr(self, name)}, expected at least 0")


@dataclass(frozen=True)
class StepRequest:
    """What to score, with what, and where to put it.

    Attributes
    ----------
    source : str
        File or name of a set, see :func:`monitorlab.signals.recordings.load_recordings`.
    verifier : str
        ``logprob:NAME``, ``prm:NAME``, ``guard:NAME`` (each on the hub, in a folder, or smollm2) or
        ``tool-calls``; settings may follow, as behind a monitor.
    out : Path
        Table, ``.csv`` or ``.parquet`` with one row per step, or ``.jsonl`` with one per sequence.
    generator : str
        A monitor that writes text (``hf:NAME``, ``smollm2``, ``api:MODEL``) with its settings. It
        may write 1,024 tokens unless ``max_tokens`` says otherwise; what is cut off is skipped.
    check : str
        What makes a label of a reference: ``boxed``, ``exact``, or a monitor that is asked.
    options : tuple of str
        NAME=VALUE of :class:`_StepReading` and of the verifier.
    force : bool
        Replace a table that was made otherwise.

    Raises
    ------
    ParameterError
        The table's ending is unknown.
    """

    source: str
    verifier: str
    out: Path
    generator: str = ""
    check: str = ""
    options: tuple[str, ...] = ()
    force: bool = False

    def __post_init__(self) -> None:
        if self.out.suffix.lower() not in ENDINGS:
            raise ParameterError(f"--out {self.out} has an unknown ending, expected one of "
                                 f"{', '.join(ENDINGS)}")

    def beside(self, what: str) -> Path:
        """Path of a file that belongs to the table."""
        return self.out.with_name(f"{self.out.name}.{what}")


@dataclass(frozen=True)
class _Verifier:
    """What scores steps.

    Attributes
    ----------
    load : callable
        Gives what has ``score_many``, see :class:`monitorlab.signals.step_scores.StepScorer`.
    signal : str
        Name of its scores.
    identity : mapping
        All that decides a score, as JSON.
    on_cpu : bool
        Whether it computes there.
    """

    load: Callable[[], Any]
    signal: str
    identity: Mapping[str, Any]
    on_cpu: bool


def _build_verifier(spec: str, options: Mapping[str, str]) -> tuple[_Verifier, _StepReading]:
    """Find the verifier that `spec` names, and what else the options say.

    Its weights are loaded when they are needed, since a generator may need the memory before.

    Raises
    ------
    ParameterError
        The kind is unknown, or an option means nothing to it.
    ModelError
        It cannot be found, or there is no such device.
    """
    spec, said = split_spec(spec)
    kind, _, name = spec.partition(":")
    if kind not in VERIFIERS or bool(name) == (kind == RULE):
        raise ParameterError(f"the verifier is {spec!r}, expected logprob:NAME, prm:NAME, "
                             f"guard:NAME (on the hub, a folder, or {SMOLLM2}) or {RULE}")
    build, *rest = (pkgutil.resolve_name(f"monitorlab.signals.{part}") for part in VERIFIERS[kind])
    known, reading = settings_of(build, *rest), settings_of(_StepReading)
    given = read_settings({**reading, **known}, f"score-steps with {kind}", options, said)
    ours = _StepReading(**{key: given.pop(key) for key in reading if key in given})
    decides = {key: setting.default for key, setting in known.items()} | given
    if kind == RULE:
        load = functools.partial(build, **given)
        return _Verifier(load, ours.signal or RULE, {"kind": kind, **decides}, True), ours
    place = str(smollm2_folder()) if name == SMOLLM2 else name
    device = str(decides["device"])
    check_device(device)
    load_tokenizer(place, decides["revision"])
    identity = {"kind": kind, "model": model_identity(place, decides.pop("revision")),
                **{key: value for key, value in decides.items() if key not in _EVERYWHERE}}
    signal = ours.signal or f"{kind}:{Path(name).name}"
    load = functools.partial(build, place, **given)
    return _Verifier(load, signal, identity, device.startswith("cpu")), ours


def score_steps(
    request: StepRequest, report: Callable[[str], object] = lambda words: None
) -> pd.DataFrame:
    """Solve, check and score sequences, and write the table with its manifest.

    Returns
    -------
    DataFrame
        ``dataset, signal, trajectory_id, step, score, tokens, label, step_label, onset`` and, where
        there are any, ``group``. Labels nobody knows are missing; ``step_label`` is -1 there.

    Raises
    ------
    ModelError, ParameterError, RecordingError
        Something cannot be had, does not fit together, or no sequence can be scored.
    """
    verifier, reading = _build_verifier(request.verifier, split_assignments(request.options))
    settings = json.loads(pretty_json({
        "source": Path(request.source).name, "limit": reading.limit, "seed": reading.seed,
        "verifier": verifier.identity, "signal": verifier.signal, "generator": request.generator,
        "check": request.check}))
    _check_replaced(request, settings)
    sequences = load_recordings(request.source, reading.source_path, reading.source_revision)
    if reading.limit:
        drawn = np.random.default_rng(reading.seed).permutation(len(sequences))
        sequences = [sequences[i] for i in drawn[: reading.limit]]
    sequences, skipped = _solved(request, sequences, report)
    sequences = _labelled(request, sequences, report)
    scores, reasons = _scored(request, sequences, verifier, reading)
    skipped |= reasons
    for reason, count in Counter(reason[:100] for reason in skipped.values()).most_common(3):
        report(f"{count:,} skipped: {reason}")
    if not scores:
        raise ModelError(f"none of {len(sequences) + len(skipped):,} sequences could be scored")
    name = Path(request.source).name.partition(".")[0]
    lists = [_row(one, scores[one.name], verifier) for one in sequences if one.name in scores]
    table = _steps(lists)
    table.insert(0, "dataset", name)
    _write(request, table, lists)
    counts = Counter({1: "unsafe", 0: "safe"}.get(row["label"], "unknown") for row in lists)
    facts = {"monitorlab": __version__, "settings": settings, "scored": len(lists),
             "skipped": len(skipped), "labels": counts,
             "known onsets": sum(row["onset"] > 0 for row in lists)}
    write_text_atomic(request.beside("json"), pretty_json(facts))
    report(f"{len(lists):,} sequences, {len(table):,} steps: "
           + ", ".join(f"{n:,} {label}" for label, n in sorted(counts.items()))
           + f"; {facts['known onsets']:,} with a known onset; {len(skipped):,} skipped")
    if skipped:
        report("A threshold calibrated on the others keeps its level only among sequences that can "
               "be scored: shorten the rest, or count each as an alarm")
    return table


def _check_replaced(request: StepRequest, settings: Mapping[str, Any]) -> None:
    """Refuse to replace a table that was made with other settings."""
    if request.force or not request.out.exists():
        return
    try:
        earlier = json.loads(request.beside("json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        earlier = None
    other = ["it does not say how it was made"] if earlier is None else differing(earlier, settings)
    if other:
        raise ParameterError(f"{request.out} was made otherwise ({'; '.join(other)}): give another "
                             "--out, or --force to replace it")


def _solved(
    request: StepRequest, sequences: Sequence[RecordedSequence], report: Callable[[str], object]
) -> tuple[list[RecordedSequence], dict[str, str]]:
    """Let the generator solve what has no steps; return the solved, and why others are not."""
    open_ones = [one for one in sequences if not one.steps]
    if not request.generator:
        if open_ones:
            raise ParameterError(f"{len(open_ones):,} of {len(sequences):,} problems have no "
                                 "steps: name what is to solve them with --generator")
        return list(sequences), {}
    talks = [one.name for one in open_ones if not isinstance(one.problem, str)]
    if talks or not open_ones:
        raise ParameterError(f"a generator solves problems without steps: "
                             f"{talks[0] if talks else request.source} is none; leave it out")
    room = {} if set(split_spec(request.generator)[1]) & _LIMITS else {"max_tokens": ROOM}
    monitor = build_monitor(request.generator, {"prompt": PLAIN.name, "read": "text", **room})
    store = VerdictStore(request.beside("answers.jsonl"))
    asked = [Sample(one.name, str(one.problem), "") for one in open_ones]
    table = score(monitor, asked, store, title="solving").set_index("sample_id")
    solved, skipped = [], {}
    for one in sequences:
        if one.steps:
            solved.append(one)
            continue
        row = table.loc[one.name]
        found = store.get(row["request_hash"])
        text = found.reply.rpartition("</think>")[2] if found else ""
        steps = tuple(text[start:end] for start, end in split_steps(text))
        if row["status"] == UNPARSED and steps:
            solved.append(replace(one, steps=steps, label=UNKNOWN, onset=0))
        else:
            skipped[one.name] = CUT_OFF if row["status"] == TRUNCATED and text else (
                f"no solution: {row['status']}, {row['evidence'] or 'no text'}")
    report(f"{len(open_ones) - len(skipped):,} of {len(open_ones):,} problems solved by "
           f"{monitor.name}")
    return solved, skipped


def _labelled(
    request: StepRequest, sequences: Sequence[RecordedSequence], report: Callable[[str], object]
) -> list[RecordedSequence]:
    """Label what has no label by comparing it with its reference."""
    if not request.check:
        return list(sequences)
    waiting = [one for one in sequences if one.label == UNKNOWN and one.answer]
    if not waiting:
        raise ParameterError("--check needs problems with a reference answer and without a label; "
                             "there is none")
    solutions = {one.name: "\n\n".join(one.steps) for one in waiting}
    if request.check in CHECKS:
        labels = {one.name: int(not right_answer(solutions[one.name], one.answer, request.check))
                  for one in waiting}
    else:
        monitor = build_monitor(request.check, {"prompt": ANSWER_PROMPT})
        asked = [Sample(one.name, f"{one.problem}\n\nReference answer: {one.answer}",
                        solutions[one.name]) for one in waiting]
        store = VerdictStore(request.beside("labels.jsonl"))
        table = score(monitor, asked, store, title="checking")
        parsed = table[table["status"] == PARSED]
        labels = dict(zip(parsed["sample_id"], parsed["verdict"].astype(int), strict=True))
    report(f"{len(labels):,} of {len(waiting):,} solutions checked, {sum(labels.values()):,} wrong")
    return [replace(one, label=labels.get(one.name, one.label)) for one in sequences]


def _scored(
    request: StepRequest, sequences: Sequence[RecordedSequence], verifier: _Verifier,
    reading: _StepReading,
) -> tuple[dict[str, StepScores], dict[str, str]]:
    """Scores by name, those of earlier runs included, and why others have none.

    Portions are always the same sequences, so that a batch, and with it the last digits of its
    scores, does not depend on where an earlier run stopped.
    """
    store = VerdictStore(request.beside("scores.jsonl"))
    keys = {one.name: digest_json([verifier.identity, one.problem, one.steps]) for one in sequences}
    size = reading.batch or (1 if verifier.on_cpu else 16)
    portions = [sequences[start : start + size] for start in range(0, len(sequences), size)]
    missing = [portion for portion in portions
               if any(keys[one.name] not in store for one in portion)]
    scorer = verifier.load() if missing else None
    for portion in progress(missing, "scoring"):
        store.put({keys[name]: Verdict(UNPARSED, reply=json.dumps(found), reason="step scores")
                   for name, found in _portion(scorer, portion).items()})
    scores, reasons = {}, {}
    for name, key in keys.items():
        stored = store.get(key)
        found = json.loads(stored.reply if stored else "{}")
        if "skipped" in found:
            reasons[name] = found["skipped"]
        else:
            scores[name] = StepScores(found["scores"], found["tokens"])
    return scores, reasons


def _portion(scorer: Any, portion: Sequence[RecordedSequence]) -> dict[str, dict[str, Any]]:
    """Score sequences together; what is too long, or no conversation, gets a reason instead."""
    names = [one.name for one in portion]
    asked: list[Trajectory] = [(one.problem, one.steps) for one in portion]
    reasons: dict[str, str] = {}
    try:
        found: list[StepScores | None] = list(scorer.score_many(asked, names))
    except LeftOutError as error:
        found, reasons = error.scores, error.reasons
    return {name: {"skipped": reasons[name]} if one is None else
            {"scores": one.scores.tolist(), "tokens": one.tokens.tolist()}
            for name, one in zip(names, found, strict=True)}


def _row(one: RecordedSequence, found: StepScores, verifier: _Verifier) -> dict[str, Any]:
    """One sequence with lists; where both sides' turns are scored, the onset is the answer's."""
    onset = one.onset * (2 if verifier.identity.get("turns") == "both" else 1)
    row = {"signal": verifier.signal, "trajectory_id": one.name, "score": list(found.scores),
           "tokens": list(found.tokens), "label": None if one.label == UNKNOWN else one.label,
           "onset": onset}
    return row | ({"group": one.group} if one.group else {})


def _steps(lists: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per step. Steps before an onset are right, and nobody knows about those after it."""
    rows = []
    for row in lists:
        for step, (value, tokens) in enumerate(zip(row["score"], row["tokens"], strict=True), 1):
            told = 0 if row["label"] == 0 or step < row["onset"] else int(step == row["onset"])
            known = row["label"] == 0 or 0 < step <= row["onset"]
            rows.append({**row, "step": step, "score": value, "tokens": tokens,
                         "step_label": told if known else UNKNOWN})
    columns = ["signal", "trajectory_id", "step", "score", "tokens", "label", "step_label", "onset"]
    grouped = ["group"] if any("group" in row for row in lists) else []
    return pd.DataFrame(rows, columns=columns + grouped).astype({"label": "Int64"})


def _write(request: StepRequest, table: pd.DataFrame, lists: Sequence[Mapping[str, Any]]) -> None:
    """Write the table in the form that its ending names, as a whole or not at all."""
    kind = request.out.suffix.lower()
    request.out.parent.mkdir(parents=True, exist_ok=True)
    with write_file_atomic(request.out) as temporary:
        if kind == ".parquet":
            table.to_parquet(temporary, index=False)
        elif kind == ".csv":
            table.to_csv(temporary, index=False)
        else:
            plain = [{**row, "score": [one if math.isfinite(one) else str(one)
                                       for one in row["score"]]} for row in lists]
            temporary.write_text("".join(json.dumps(row) + "\n" for row in plain), encoding="utf-8")

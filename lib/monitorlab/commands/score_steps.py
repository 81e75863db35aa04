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
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from typer import Argument, echo

from monitorlab import __version__
from monitorlab.benchmark.final_answers import CHECKS, right_answer
from monitorlab.commands import Settings, relative
from monitorlab.commands.score import check_alike
from monitorlab.display import progress
from monitorlab.models import ModelError
from monitorlab.monitors.build import build_monitor, split_spec
from monitorlab.monitors.monitor import Sample
from monitorlab.monitors.prompts import PLAIN
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import VerdictStore
from monitorlab.monitors.verdicts import PARSED, TRUNCATED, UNPARSED, Verdict
from monitorlab.online.trajectories import UNKNOWN
from monitorlab.storage.files import digest_json, pretty_json, write_file_atomic, write_text_atomic
from monitorlab.storage.settings import ParameterError, Setting

if TYPE_CHECKING:
    from monitorlab.signals.recordings import RecordedSequence

ENDINGS = (".csv", ".jsonl", ".parquet")
RULE = "tool-calls"
# Kind of verifier to what is built; the parameters of these are its settings.
VERIFIERS = {
    "logprob": ("step_scores:LogProbabilityScorer.load", "step_scores:LogProbabilityScorer"),
    "prm": ("verifiers:TokenRewardScorer.load_any", "verifiers:TokenRewardScorer.load",
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
class _Request:
    """What to score, with what, and where to put it.

    The generator may write 1,024 tokens unless `max_tokens` says otherwise; what is cut off is
    skipped.

    Attributes
    ----------
    source : str
        Problems, solutions or conversations: a file, or processbench_gsm8k, processbench_math,
        tau_bench, gsm8k, math, red_team.
    verifier : str
        What scores steps: logprob:NAME, prm:NAME, guard:NAME (on the hub, a folder, or smollm2) or
        tool-calls.
    out : Path
        Table: .csv or .parquet with a row per step, .jsonl with a row per sequence.
    generator : str
        What solves problems that have no steps: hf:NAME, smollm2, api:MODEL; settings follow as -o
        NAME=VALUE in the same text.
    check : str
        What compares final answers with references: boxed, exact, or a monitor.
    option : list of str, optional
        A setting of the verifier or of the reading, repeatable, such as device=cuda,
        dtype=bfloat16, limit=100, turns=both, source_revision=COMMIT.
    force : bool
        Replace a table that was made otherwise.

    Raises
    ------
    ParameterError
        The table's ending is unknown.
    """

    source: Annotated[str, Argument()]
    verifier: str
    out: Path
    generator: str = ""
    check: str = ""
    option: Settings = None
    force: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", self.out.expanduser())
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
    from monitorlab.models import loading, smollm2  # these bring torch along

    spec, said = split_spec(spec)
    kind, _, name = spec.partition(":")
    if kind not in VERIFIERS or bool(name) == (kind == RULE):
        raise ParameterError(f"the verifier is {spec!r}, expected logprob:NAME, prm:NAME, "
                             f"guard:NAME (on the hub, a folder, or {smollm2.NAME}) or {RULE}")
    build, *rest = (pkgutil.resolve_name(f"monitorlab.signals.{part}") for part in VERIFIERS[kind])
    known, reading = Setting.of(build, *rest), Setting.of(_StepReading)
    given = Setting.read_all({**reading, **known}, f"score-steps with {kind}", options, said)
    ours = _StepReading(**{key: given.pop(key) for key in reading if key in given})
    decides = {key: setting.default for key, setting in known.items()} | given
    if kind == RULE:
        load = functools.partial(build, **given)
        return _Verifier(load, ours.signal or RULE, {"kind": kind, **decides}, True), ours
    place = str(smollm2.smollm2_folder()) if name == smollm2.NAME else name
    device = str(decides["device"])
    loading.check_device(device)
    loading.load_tokenizer(place, decides["revision"])
    identity = {"kind": kind, "model": loading.Checkpoint.identify(place, decides.pop("revision")),
                **{key: value for key, value in decides.items() if key not in _EVERYWHERE}}
    signal = ours.signal or f"{kind}:{Path(name).name}"
    load = functools.partial(build, place, **given)
    return _Verifier(load, signal, identity, device.startswith("cpu")), ours


def score_steps(request: _Request) -> None:
    """Solve, check and score sequences, and write the table with its manifest.

    Its columns are ``dataset, signal, trajectory_id, step, score, tokens, label, step_label,
    onset`` and, where there are any, ``group``. Labels nobody knows are missing; ``step_label`` is
    -1 there.

    Raises
    ------
    ModelError, ParameterError, RecordingError
        Something cannot be had, does not fit together, or no sequence can be scored.
    """
    from monitorlab.signals.recordings import RecordedSequence

    given = Setting.split(request.option or ())
    verifier, reading = _build_verifier(request.verifier, given)
    settings = json.loads(pretty_json({
        "source": Path(request.source).name, "limit": reading.limit, "seed": reading.seed,
        "verifier": verifier.identity, "signal": verifier.signal, "generator": request.generator,
        "check": request.check}))
    if request.out.exists() and not request.force:
        check_alike(request.out, request.beside("json"), settings, ", or --force to replace it")
    sequences = RecordedSequence.load(request.source, reading.source_path,
                                      reading.source_revision)
    if reading.limit:
        drawn = np.random.default_rng(reading.seed).permutation(len(sequences))
        sequences = [sequences[i] for i in drawn[: reading.limit]]
    sequences, skipped = _solved(request, sequences)
    sequences = _labelled(request, sequences)
    lists = []
    for one, found in zip(sequences, _scored(request, sequences, verifier, reading), strict=True):
        if "skipped" in found:
            skipped[one.name] = found["skipped"]
        else:
            lists.append(_row(one, found, verifier))
    for reason, count in Counter(reason[:100] for reason in skipped.values()).most_common(3):
        echo(f"{count:,} skipped: {reason}")
    if not lists:
        raise ModelError(f"none of {len(skipped):,} sequences could be scored")
    table = _steps(lists)
    table.insert(0, "dataset", Path(request.source).name.partition(".")[0])
    _write(request.out, table, lists)
    counts = Counter({1: "unsafe", 0: "safe"}.get(row["label"], "unknown") for row in lists)
    facts = {"monitorlab": __version__, "settings": settings, "scored": len(lists),
             "skipped": len(skipped), "labels": counts,
             "known onsets": sum(row["onset"] > 0 for row in lists)}
    write_text_atomic(request.beside("json"), pretty_json(facts))
    labels = ", ".join(f"{n:,} {label}" for label, n in sorted(counts.items()))
    echo(f"{len(lists):,} sequences, {len(table):,} steps: {labels}; {facts['known onsets']:,} "
         f"with a known onset; {len(skipped):,} skipped")
    if skipped:
        echo("A threshold calibrated on the others keeps its level only among sequences that can "
             "be scored: shorten the rest, or count each as an alarm")
    place = relative(request.out)
    echo(f"Step scores: {place}. Next: python -m monitorlab calibrate {place} --out policy, or run "
         f"07 -p SCORES_FILE={place}")


def _solved(request: _Request,
            sequences: Sequence[RecordedSequence]) -> tuple[list[RecordedSequence], dict[str, str]]:
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
        answered = one.solved(text)
        if row["status"] == UNPARSED and answered.steps:
            solved.append(answered)
        else:
            skipped[one.name] = CUT_OFF if row["status"] == TRUNCATED and text else (
                f"no solution: {row['status']}, {row['evidence'] or 'no text'}")
    echo(f"{len(open_ones) - len(skipped):,} of {len(open_ones):,} problems solved by "
         f"{monitor.name}")
    return solved, skipped


def _labelled(request: _Request, sequences: Sequence[RecordedSequence]) -> list[RecordedSequence]:
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
    echo(f"{len(labels):,} of {len(waiting):,} solutions checked, {sum(labels.values()):,} wrong")
    return [replace(one, label=labels.get(one.name, one.label)) for one in sequences]


def _scored(request: _Request, sequences: Sequence[RecordedSequence], verifier: _Verifier,
            reading: _StepReading) -> list[dict[str, Any]]:
    """Scores of each sequence, those of earlier runs included, or why it has none.

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
    stored = (store.get(key) for key in keys.values())
    return [json.loads(one.reply) for one in stored if one]


def _portion(scorer: Any, portion: Sequence[RecordedSequence]) -> dict[str, dict[str, Any]]:
    """Score sequences together; what is too long, or no conversation, gets a reason instead."""
    from monitorlab.signals.step_scores import LeftOutError

    names, reasons = [one.name for one in portion], {}
    try:
        found = list(scorer.score_many([(one.problem, one.steps) for one in portion], names))
    except LeftOutError as error:
        found, reasons = error.scores, error.reasons
    return {name: {"skipped": reasons[name]} if one is None else
            {"scores": one.scores.tolist(), "tokens": one.tokens.tolist()}
            for name, one in zip(names, found, strict=True)}


def _row(one: RecordedSequence, found: Mapping[str, Any], verifier: _Verifier) -> dict[str, Any]:
    """One sequence with lists; where both sides' turns are scored, the onset is the answer's."""
    onset = one.onset * (2 if verifier.identity.get("turns") == "both" else 1)
    row = {"signal": verifier.signal, "trajectory_id": one.name, "score": found["scores"],
           "tokens": found["tokens"], "label": None if one.label == UNKNOWN else one.label,
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


def _write(out: Path, table: pd.DataFrame, lists: Sequence[Mapping[str, Any]]) -> None:
    """Write the table in the form that its ending names, as a whole or not at all."""
    kind = out.suffix.lower()
    with write_file_atomic(out) as temporary:
        if kind == ".parquet":
            table.to_parquet(temporary, index=False)
        elif kind == ".csv":
            table.to_csv(temporary, index=False)
        else:
            plain = [{**row, "score": [one if math.isfinite(one) else str(one)
                                       for one in row["score"]]} for row in lists]
            temporary.write_text("".join(json.dumps(row) + "\n" for row in plain), encoding="utf-8")

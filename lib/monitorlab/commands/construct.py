"""`python -m monitorlab construct`: questions and a model in, labelled pairs of samples out.

Answers are appended to a file as they come, keyed by all that decides them: the same command goes
on where it was stopped, and asks nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from monitorlab import __version__
from monitorlab.benchmark.sources.generator import (
    PAIRS,
    TRIES,
    Construction,
    Question,
    QuestionError,
    construct,
    load_questions,
)
from monitorlab.commands.score import differing
from monitorlab.monitors.build import build_monitor, split_spec
from monitorlab.monitors.prompts import PLAIN
from monitorlab.storage.files import pretty_json, write_text_atomic
from monitorlab.storage.settings import ParameterError, split_assignments
from monitorlab.storage.tables import CELLS


class ConstructionError(RuntimeError):
    """No question gave a pair; the message says where the reasons are."""


def construct_pairs(
    generator: str,
    out: Path,
    cells: str = "",
    options: Sequence[str] = (),
    sources: Sequence[str] = (),
    judge: str = "",
    tries: int = TRIES,
    limit: int = 0,
    max_calls: int = 0,
    seed: int = 2026,
    report: Callable[[str], object] = lambda words: None,
) -> Construction:
    """Ask a model, judge its answers, and write the pairs with their manifest.

    The samples have no column split, so that whoever takes them deals scenarios to dev and test.

    Parameters
    ----------
    generator : str
        A monitor that writes text: ``api:MODEL``, ``hf:NAME_OR_FOLDER`` or ``smollm2``. It draws
        with temperature 0.7 and may write 2,048 tokens unless its settings say otherwise.
    out : Path
        Folder of ``samples.jsonl``, ``dropped.csv``, ``construct.json`` and the answers.
    cells : str
        Names with commas between; all six if empty.
    options : sequence of str
        NAME=VALUE of the generator.
    sources : sequence of str
        See :func:`monitorlab.benchmark.sources.generator.load_questions`; behind an @ the commit of
        a hub dataset, or a folder with the same columns. The requests of the pairs if empty.
    judge : str
        A monitor for answers that no test and no letter decides, with its settings.
    tries, limit, max_calls, seed : int
        Answers per question at most, questions per cell (0 is all), answers that may be asked for
        now (0 is any number), and the seed of options, cues and the limit.
    report : callable
        Takes what a reader should know, a line at a time.

    Raises
    ------
    ConstructionError
        No question gave a pair.
    MonitorError, ParameterError, QuestionError, ScoringError
        A cell is none, something cannot be had, the folder was made otherwise, or the model failed.
    """
    wanted = [*filter(None, cells.replace(" ", "").split(","))] or CELLS
    if strange := sorted(set(wanted) - set(CELLS)):
        raise ParameterError(f"{strange[0]!r} is no cell, expected some of {', '.join(CELLS)}")
    questions = _questions(sources, wanted, limit, seed)
    spec, said = split_spec(generator)
    given = {**said, **split_assignments(options)}
    usual = {} if "temperature" in given else {"temperature": "0.7"}  # tries must differ
    usual |= {} if {"max_tokens", "max_new_tokens"} & set(given) else {"max_tokens": "2048"}
    writer = build_monitor(spec, {"prompt": PLAIN.name, "read": "text"}, given, usual)
    reader = build_monitor(judge) if judge else None
    settings = json.loads(pretty_json({
        "generator": dict(writer.settings()), "seed": seed,
        "judge": dict(reader.settings()) if reader else None}))
    manifest = out / "construct.json"
    if manifest.exists():
        earlier = json.loads(manifest.read_text(encoding="utf-8"))["settings"]
        if other := differing(earlier, settings):
            raise ParameterError(f"{out} was made otherwise ({'; '.join(other)}): give "
                                 "another --out")
    made = construct(questions, writer, out / "answers.jsonl", tries, reader, max_calls)
    samples, dropped = made.samples.drop(columns="split"), made.dropped
    counts = dropped.groupby(["cell", "reason"]).size()
    facts = {"monitorlab": __version__, "settings": settings, "sources": sources,
             "questions": len(questions), "pairs": len(samples) // 2, "tries": tries,
             "dropped": {f"{cell}: {reason}": int(n) for (cell, reason), n in counts.items()}}
    write_text_atomic(out / "dropped.csv", dropped.to_csv(index=False))
    if samples.empty:
        raise ConstructionError(f"none of {len(questions):,} questions gave a pair; "
                                f"{out / 'dropped.csv'} has the reasons")
    text = samples.to_json(orient="records", lines=True, force_ascii=False)
    write_text_atomic(out / "samples.jsonl", text)
    write_text_atomic(manifest, pretty_json(facts))
    report(f"{facts['pairs']:,} of {len(questions):,} questions gave a pair; {made.calls:,} "
           f"answers were asked for now")
    for (cell, reason), count in counts.items():
        report(f"  {cell}: {count:,} dropped: {reason}")
    return made


def _questions(
    sources: Sequence[str], cells: Sequence[str], limit: int, seed: int
) -> list[Question]:
    """Questions of the wanted cells, not more than wanted of each."""
    found: list[Question] = []
    sources = sources or (PAIRS,)
    for source in sources:
        name, _, place = source.partition("@")
        local = Path(place).is_dir() if place else False
        found += load_questions(name, seed, "" if local else place, place if local else "")
    chosen = []
    for cell in cells:
        members = [question for question in found if question.cell == cell]
        if not members:
            raise QuestionError(f"no question of cell {cell} in {', '.join(sources)}")
        if limit:
            Random(f"{seed}/{cell}/limit").shuffle(members)
        chosen += members[: limit or None]
    return chosen

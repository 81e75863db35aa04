"""`python -m monitorlab construct`: questions and a model in, labelled pairs of samples out.

Answers are appended to a file as they come, keyed by all that decides them: the same command goes
on where it was stopped, and asks nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated

from typer import Option, echo

from monitorlab import __version__
from monitorlab.benchmark.sources import generator as pairs
from monitorlab.commands import CommandError, Settings, relative
from monitorlab.commands.score import check_alike
from monitorlab.monitors.build import build_monitor, split_spec
from monitorlab.monitors.prompts import PLAIN
from monitorlab.storage.files import pretty_json, write_text_atomic
from monitorlab.storage.settings import ParameterError, Setting
from monitorlab.storage.tables import CELLS


def construct_pairs(*, generator: str, out: Path, cells: str = "", option: Settings = None,
                    source: list[str] | None = None, judge: str = "",
                    tries: Annotated[int, Option(min=2)] = 5,
                    limit: Annotated[int, Option(min=0)] = 0,
                    max_calls: Annotated[int, Option(min=0)] = 0, seed: int = 2026) -> None:
    """Ask a model, judge its answers, and write the pairs with their manifest.

    The samples have no column split, so that whoever takes them deals scenarios to dev and test.
    The generator draws with temperature 0.7 and may write 2,048 tokens unless its settings say
    otherwise.

    Parameters
    ----------
    generator : str
        What answers: api:MODEL, hf:NAME_OR_FOLDER or smollm2.
    out : Path
        Folder of samples.jsonl, dropped.csv, how they were made, and all answers.
    cells : str
        Names, with commas. [default: all six]
    option : list of str, optional
        A setting of the generator, repeatable, such as temperature=1, max_tokens=2048,
        device=cuda, dtype=bfloat16, cost_cap_usd=5; `monitors NAME` lists them.
    source : list of str, optional
        Questions, repeatable: pairs (the requests of all six cells), a file in their form,
        gsm8k, truthfulqa, humaneval, mbpp; mmlu, gpqa, aime as NAME@COMMIT or NAME@FOLDER.
        [default: pairs]
    judge : str
        Monitor that judges answers which no test or letter decides, with its settings as -o
        NAME=VALUE in the same text.
    tries : int
        Answers per question at most.
    limit : int
        Questions per cell, drawn at random; 0 is all.
    max_calls : int
        Answers that this run may ask for; 0 is any number.
    seed : int
        Draws options, cues and the limit.

    Raises
    ------
    CommandError
        No question gave a pair.
    MonitorError, PairError, ParameterError, ScoringError
        A cell is none, something cannot be had, the folder was made otherwise, or the model failed.
    """
    wanted = [*filter(None, cells.replace(" ", "").split(","))] or CELLS
    if strange := sorted(set(wanted) - set(CELLS)):
        raise ParameterError(f"{strange[0]!r} is no cell, expected some of {', '.join(CELLS)}")
    sources = source or [pairs.PAIRS]
    questions = _questions(sources, wanted, limit, seed)
    spec, said = split_spec(generator)
    given = {**said, **Setting.split(option or ())}
    usual = {} if "temperature" in given else {"temperature": "0.7"}  # tries must differ
    usual |= {} if {"max_tokens", "max_new_tokens"} & set(given) else {"max_tokens": "2048"}
    writer = build_monitor(spec, {"prompt": PLAIN.name, "read": "text"}, given, usual)
    reader = build_monitor(judge) if judge else None
    settings = json.loads(pretty_json({
        "generator": dict(writer.settings()), "seed": seed,
        "judge": dict(reader.settings()) if reader else None}))
    folder = out.expanduser()
    manifest = folder / "construct.json"
    if manifest.exists():
        check_alike(folder, manifest, settings)
    made = pairs.construct(questions, writer, folder / "answers.jsonl", tries, reader, max_calls)
    samples, dropped = made.samples.drop(columns="split"), made.dropped
    counts = dropped.groupby(["cell", "reason"]).size()
    facts = {"monitorlab": __version__, "settings": settings, "sources": source or (),
             "questions": len(questions), "pairs": len(samples) // 2, "tries": tries,
             "dropped": {f"{cell}: {reason}": int(n) for (cell, reason), n in counts.items()}}
    write_text_atomic(folder / "dropped.csv", dropped.to_csv(index=False))
    if samples.empty:
        raise CommandError(f"none of {len(questions):,} questions gave a pair; "
                           f"{folder / 'dropped.csv'} has the reasons")
    text = samples.to_json(orient="records", lines=True, force_ascii=False)
    write_text_atomic(folder / "samples.jsonl", text)
    write_text_atomic(manifest, pretty_json(facts))
    echo(f"{facts['pairs']:,} of {len(questions):,} questions gave a pair; {made.calls:,} "
         "answers were asked for now")
    for (cell, reason), count in counts.items():
        echo(f"  {cell}: {count:,} dropped: {reason}")
    place = relative(out / "samples.jsonl")
    echo(f"Samples: {place}. Next: python -m monitorlab score --monitor keywords --samples "
         f"{place}, or run 03 -p SAMPLES_FILE={place}")


def _questions(sources: Sequence[str], cells: Sequence[str], limit: int,
               seed: int) -> list[pairs.Question]:
    """Questions of the wanted cells, not more than wanted of each; behind an @ stands the place.

    A place is the commit of a hub dataset, or a folder with the same columns.
    """
    found: list[pairs.Question] = []
    for source in sources:
        name, _, place = source.partition("@")
        local = bool(place) and Path(place).is_dir()
        found += pairs.Question.load(name, seed, "" if local else place, place if local else "")
    chosen = []
    for cell in cells:
        members = [question for question in found if question.cell == cell]
        if not members:
            raise pairs.PairError(f"no question of cell {cell} in {', '.join(sources)}")
        if limit:
            Random(f"{seed}/{cell}/limit").shuffle(members)
        chosen += members[: limit or None]
    return chosen

"""Chains of steps whose first wrong step people marked: ProcessBench and BIG-Bench-Mistake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from monitorlab.benchmark.real.pairing import Answer, Flaw, Loaded, Origin, Problem, Tally, build
from monitorlab.benchmark.real.records import Record, digest, read_array, read_lines, squeezed
from monitorlab.benchmark.real.solutions import gsm8k_key

SEPARATOR = "\n\n"  # between the steps of a chain
PROCESSBENCH = {"gsm8k": "processbench/gsm8k.json", "math": "processbench/math.json"}
MISTAKE_TASKS = ("dyck_languages", "logical_deduction", "multistep_arithmetic",
                 "tracking_shuffled_objects", "word_sorting")
CLEAN_BUT_WRONG = "no step is marked, but the final answer is wrong"


def processbench(get: Callable[[str], Path], part: str) -> Loaded:
    """Pair clean and flawed solutions of one problem (ProcessBench, arXiv 2412.06559).

    Parameters
    ----------
    get : callable
        Key of `data/sources.toml` to the path of a verified file.
    part : {"gsm8k", "math"}
        Which file.

    Returns
    -------
    Loaded
        With a row of `flaws` for every flawed chain. A flawed chain may still end at the right
        answer; the marked step decides.

    Raises
    ------
    RealDataError
        For an entry that does not read as expected.
    """
    tally = Tally()
    problems: dict[str, Problem] = {}
    for record in read_array(get(PROCESSBENCH[part])):
        text = record.take("problem", str)
        key = gsm8k_key(text) if part == "gsm8k" else f"math/{digest(squeezed(text), 8)}"
        problem = problems.setdefault(key, Problem(key, text))
        steps, label = record.texts("steps"), record.take("label", int)
        if label == -1 and not record.take("final_answer_correct", bool):
            tally.drop("answer", CLEAN_BUT_WRONG)
            continue
        wrong = None if label == -1 else label
        problem.answers.append(_chain(record, steps, wrong, record.take("generator", str)))
    origin = Origin(
        f"processbench_{part}", "syco_reasoning", "flawed_step",
        "first wrong step marked by people; clean chains also end at the right answer",
    )
    return build(origin, problems.values(), tally)


def bigbench_mistake(get: Callable[[str], Path], task: str) -> Loaded:
    """Pair right and flawed chains of one BIG-Bench-Mistake problem (arXiv 2311.08516).

    The published files hold one chain per problem, so they give no pairs: chains of different
    problems are never paired. The `dropped` table says how many problems that concerns.

    Parameters
    ----------
    get : callable
        Key of `data/sources.toml` to the path of a verified file.
    task : str
        One of `MISTAKE_TASKS`.
    """
    tally = Tally()
    problems: dict[str, Problem] = {}
    for record in read_lines(get(f"bigbench_mistake/{task}.jsonl")):
        text, steps = record.take("input", str), record.texts("steps")
        key = f"{task}/{digest(squeezed(text), 8)}"
        problem = problems.setdefault(key, Problem(key, text))
        wrong = record.maybe("mistake_index", int)
        if wrong is None and record.maybe("answer", str) != record.take("target", str):
            tally.drop("answer", CLEAN_BUT_WRONG)
            continue
        problem.answers.append(_chain(record, steps, wrong, "not recorded"))
    origin = Origin(
        f"bigbench_mistake_{task}", "syco_reasoning", "flawed_step",
        "first mistake marked by people; clean chains also end at the target; the file has one "
        "chain per problem, so there is nothing to pair",
    )
    return build(origin, problems.values(), tally)


def _chain(record: Record, steps: Sequence[str], wrong: int | None, generator: str) -> Answer:
    text = SEPARATOR.join(steps)
    if wrong is None:
        return Answer(text, 0, generator)
    if not 0 <= wrong < len(steps):
        raise record.error(f"the first wrong step is {wrong}, expected 0 to {len(steps) - 1}")
    start = sum(len(step) + len(SEPARATOR) for step in steps[:wrong])
    return Answer(text, 1, generator, Flaw(wrong, len(steps), start, start + len(steps[wrong])))

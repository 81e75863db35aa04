"""Reflexion: programs that GPT-4 wrote for HumanEval and MBPP tasks (arXiv 2303.11366).

Every program is executed against its task's tests in the project's sandbox; the outcome recorded
in the files is only compared.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from monitorlab.benchmark.sandbox.runner import Job, Limits, run_jobs
from monitorlab.benchmark.sources.pairing import Answer, Loaded, Origin, Problem, Tally, build
from monitorlab.benchmark.sources.records import Record, read_lines
from monitorlab.display.progress import progress

# What the name of the file, or of its folder, says about who wrote the programs.
RUNS = {
    "reflexion_humaneval_py_pass_at_1/reflexion_humaneval_py_pass_at_1.jsonl":
        "not recorded, reflexion",
    "reflexion_mbpp_py/mbpp-py._reflexion_5_gpt-4_pass_at_k_1_py.jsonl": "gpt-4, reflexion",
    "reflexion_mbpp_py3/mbpp-py._reflexion_5_gpt-4_pass_at_k_1_py.jsonl": "gpt-4, reflexion",
    "simple_human_eval_py_logging/humaneval-py..gz_simple_1_gpt-4_pass_at_k_1_py.jsonl":
        "gpt-4, simple",
    "simple_humaneval_py_hardest50/humaneval-py_hardest50._simple_1_gpt-4_pass_at_k_1_py.jsonl":
        "gpt-4, simple",
    "simple_mbpp_py/mbpp-py._simple_1_gpt-4_pass_at_k_1_py.jsonl": "gpt-4, simple",
    "simple_mbpp_py2/mbpp-py._simple_1_gpt-4_pass_at_k_1_py.jsonl": "gpt-4, simple",
}
REFLEXION = Origin(
    "reflexion_runs", "sg_code", "failing_program",
    "every program executed against its task's tests; passing tests is not a proof of correctness",
)
PASSING = frozenset({"passed"})
FAILING = frozenset({"failed", "error"})  # an assertion, or another exception of the program
LIMITS = Limits(seconds=8.0)  # generous: a busy machine must not turn a verdict into a timeout
EMPTY = "no program was written"
PASTED = "recorded with the program pasted into the prompt's function"
LOST = "recorded without a line: a name is used that is defined nowhere"
DIFFERENT_TASK = "runs disagree about the task's prompt or tests"


class _HasStatus(Protocol):
    """What an execution returns."""

    @property
    def status(self) -> str:
        """One of "passed", "failed" and "error", or why there is no verdict."""


Execute = Callable[[str, str], _HasStatus]


@dataclass
class _Task:
    prompt: str
    tests: str
    # program to (generator of the first run that wrote it, recorded outcomes of all runs)
    programs: dict[str, tuple[str, list[bool]]] = field(default_factory=dict)
    consistent: bool = True


def reflexion_runs(get: Callable[[str], Path], execute: Execute | None = None) -> Loaded:
    """Pair passing and failing programs of one task, judged by running them.

    Parameters
    ----------
    get : callable
        Key of `data/sources.toml` to the path of a verified file.
    execute : callable, optional
        Program and tests to an outcome whose `status` is "passed", "failed" (an assertion does
        not hold) or "error" (the program raises something else, or is no Python). Any other
        status ("timeout", ...) is no verdict and drops the program. Called once per distinct
        program, in a fixed order. By default all run in the sandbox, several at once.

    Raises
    ------
    RealDataError
        For a line that does not read as expected.
    """
    tally = Tally()
    tasks = _read(get, tally)
    names = sorted(name for name, task in tasks.items() if task.consistent)
    problems = {name: Problem(name, tasks[name].prompt) for name in names}
    jobs = [(name, program) for name in names for program in tasks[name].programs]
    statuses = _run([(program, tasks[name].tests) for name, program in jobs], execute)
    for (name, program), status in zip(jobs, statuses, strict=True):
        generator, flags = tasks[name].programs[program]
        if status not in PASSING | FAILING:
            tally.drop("answer", f"no verdict: {status}")
            continue
        passed = status in PASSING
        for flag in flags:
            tally.compare(passed, flag)
        problems[name].answers.append(Answer(program, int(not passed), generator))
    return build(REFLEXION, problems.values(), tally)


def _run(jobs: list[tuple[str, str]], execute: Execute | None) -> list[str]:
    if execute is None:
        outcomes = run_jobs([Job(program, tests) for program, tests in jobs], LIMITS)
        return [outcome.status for outcome in outcomes]
    return [execute(*job).status for job in progress(jobs, "programs", total=len(jobs))]


def _read(get: Callable[[str], Path], tally: Tally) -> dict[str, _Task]:
    tasks: dict[str, _Task] = {}
    for run, generator in RUNS.items():
        for record in read_lines(get(f"reflexion/{run}")):
            name = record.take("task_id" if "task_id" in record.fields else "name", str)
            prompt, tests = record.take("prompt", str), _tests(record)
            task = tasks.setdefault(name, _Task(prompt, tests))
            task.consistent &= (task.prompt, task.tests) == (prompt, tests)
            program = _complete(record)
            if program is None:
                tally.drop("answer", EMPTY)
                continue
            if damage := _damage(program, record):
                tally.drop("answer", damage)
                continue
            _, flags = task.programs.setdefault(program, (generator, []))
            if flags:
                tally.drop("answer", "the same program from another run")
            flags.append(record.take("is_solved", bool))
    tally.drop("problem", DIFFERENT_TASK, sum(not task.consistent for task in tasks.values()))
    return tasks


def _complete(record: Record) -> str | None:
    """Return the whole program of a run: one run recorded only what follows the prompt."""
    solution = record.take("solution", str)
    if not solution.strip():
        return None
    whole = _definitions(solution, record) > 0
    return (solution if whole else record.take("prompt", str) + solution).strip("\n") + "\n"


def _damage(program: str, record: Record) -> str | None:
    """How the recording, not the model, spoiled a program; None if it did not.

    The recorder put the prompt in front of what the model wrote and cut some definitions and
    imports away. Such a program fails, or passes, for a reason that is not the model's.
    """
    if _definitions(program, record) > 1:
        return PASTED
    return LOST if _undefined_names(program) else None


def _undefined_names(program: str) -> set[str]:
    """Return the names that a program reads but binds nowhere, in whatever scope.

    A program that is no Python gives the empty set: whether it runs is not decided here.
    """
    try:
        nodes = list(ast.walk(ast.parse(program)))
    except (SyntaxError, ValueError):
        return set()
    bound, read = set(dir(builtins)) | {"__name__"}, set()
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.arg(arg=name):
                bound.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.alias(name=name, asname=other):
                bound.add(other or name.split(".")[0])
            case ast.ExceptHandler(name=str(name)):
                bound.add(name)
    return set() if "*" in bound else read - bound


def _definitions(program: str, record: Record) -> int:
    entry = re.escape(record.take("entry_point", str))
    return len(re.findall(rf"^def {entry}\b", program, re.MULTILINE))


def _tests(record: Record) -> str:
    """The task's tests; those of HumanEval define `check` and leave calling it to the reader."""
    tests = record.take("test", str)
    if "task_id" not in record.fields:
        return tests
    return f"{tests}\n\ncheck({record.take('entry_point', str)})\n"

"""Programs: what GPT-4 wrote for HumanEval and MBPP tasks, and people with and without a weakness.

Reflexion (arXiv 2303.11366): every program is executed against its task's tests in the project's
sandbox; the outcome recorded in the files is only compared.

CWEval (arXiv 2501.08200) states a task and gives a secure and an insecure function for it; its own
tests tell them apart. SVEN (arXiv 2302.05319) holds functions before and after a commit that mended
a weakness, cut out of their context, with the lines that were changed. A benign program is secure
against the weakness in question, and not against every other.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monitorlab.benchmark.sandbox.runner import Job, run_jobs
from monitorlab.benchmark.sources.records import PUBLISHED, Collection, Loaded, Origin, Record

RUNS: dict[str, str] = PUBLISHED["reflexion_runs"]  # file to who wrote its programs
SECONDS = 8.0  # generous: a busy machine must not turn a verdict into a timeout
EMPTY = "no program was written"
PASTED = "recorded with the program pasted into the prompt's function"
LOST = "recorded without a line: a name is used that is defined nowhere"
DIFFERENT_TASK = "runs disagree about the task's prompt or tests"
TASKS: list[str] = PUBLISHED["cweval_tasks"]
FIXES = tuple(f"sven/{part}_cwe-{number}.jsonl" for part in ("train", "val")
              for number in ("022", "078", "079", "089"))
WEAKNESSES = (*(f"cweval/cwe_{task}_{kind}.py" for task in TASKS for kind in ("task", "test")),
              *FIXES)
TWIN = re.compile(r"(?!_?test_)(\w+)_unsafe(?:_\d+)?")  # an insecure function for the task


@dataclass
class _Task:
    prompt: str
    tests: str
    # program to (generator of the first run that wrote it, recorded outcomes of all runs)
    programs: dict[str, tuple[str, list[bool]]] = field(default_factory=dict)
    consistent: bool = True


def reflexion_runs(get: Callable[[str], Path]) -> Loaded:
    """Pair passing and failing programs of one task, judged by running them in the sandbox.

    A program passes, or fails by an assertion or another exception. Any other end ("timeout", ...)
    is no verdict and drops it.

    Parameters
    ----------
    get : callable
        Key of `data/sources.toml` to the path of a verified file.

    Raises
    ------
    RealDataError
        For a line that does not read as expected.
    """
    found = Collection(Origin.of("reflexion_runs"))
    tasks = {name: task for name, task in sorted(_read(get, found).items()) if task.consistent}
    for name, task in tasks.items():
        found.ask(name, task.prompt)
    written = [(name, program, task) for name, task in tasks.items() for program in task.programs]
    jobs = [Job(program, task.tests) for _, program, task in written]
    outcomes = run_jobs(jobs, seconds=SECONDS)
    for (name, program, task), outcome in zip(written, outcomes, strict=True):
        generator, flags = task.programs[program]
        if outcome.status not in ("passed", "failed", "error"):
            found.drop("answer", f"no verdict: {outcome.status}")
            continue
        passed = outcome.status == "passed"
        for flag in flags:
            found.compare(passed, flag)
        found.answer(name, program, int(not passed), generator)
    return found.paired()


def _read(get: Callable[[str], Path], found: Collection) -> dict[str, _Task]:
    tasks: dict[str, _Task] = {}
    for run, generator in RUNS.items():
        for record, name, tests in Record.tasks(get(f"reflexion/{run}")):
            prompt = record.take("prompt", str)
            task = tasks.setdefault(name, _Task(prompt, tests))
            task.consistent &= (task.prompt, task.tests) == (prompt, tests)
            program = _complete(record)
            if damage := _damage(program, record):
                found.drop("answer", damage)
                continue
            _, flags = task.programs.setdefault(program, (generator, []))
            if flags:
                found.drop("answer", "the same program from another run")
            flags.append(record.take("is_solved", bool))
    found.drop("problem", DIFFERENT_TASK, sum(not task.consistent for task in tasks.values()))
    return tasks


def _complete(record: Record) -> str:
    """Return the whole program of a run: one run recorded only what follows the prompt."""
    solution = record.take("solution", str)
    if not solution.strip():
        return ""
    whole = _definitions(solution, record) > 0
    return (solution if whole else record.take("prompt", str) + solution).strip("\n") + "\n"


def _damage(program: str, record: Record) -> str:
    """How the recording, not the model, spoiled a program; nothing if it did not.

    The recorder put the prompt in front of what the model wrote and cut some definitions and
    imports away. Such a program fails, or passes, for a reason that is not the model's.
    """
    if not program:
        return EMPTY
    if _definitions(program, record) > 1:
        return PASTED
    return LOST if _undefined_names(program) else ""


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


def cweval(get: Callable[[str], Path]) -> Loaded:
    """Pair the secure and the insecure function of each task.

    Comments and docstrings are left out on both sides, since they say which side it is.

    Parameters
    ----------
    get : callable
        Key of `data/sources.toml` to the path of a verified file.

    Raises
    ------
    RealDataError
        For a file without these functions.
    """
    found = Collection(Origin.of("cweval"))
    for task in TASKS:
        paths = [get(f"cweval/cwe_{task}_{kind}.py") for kind in ("task", "test")]
        stated, tested = (_parsed(path) for path in paths)
        twins = [twin for node in tested.body if isinstance(node, ast.FunctionDef)
                 and (twin := TWIN.fullmatch(node.name))]
        if not twins:
            found.drop("problem", "no insecure function beside the secure one")
            continue
        name = twins[0][1]
        secure = next((node for node in stated.body
                       if isinstance(node, ast.FunctionDef) and node.name == name), None)
        if secure is None:
            raise Record(str(paths[0]), {}).error(f"function {name!r} is missing")
        asked = f"{name}({ast.unparse(secure.args)})"
        key, told = f"cwe_{task}", ast.get_docstring(secure)
        found.ask(key, f"Write the Python function `{asked}`.\n\n{told}")
        found.answer(key, _program(stated, name), 0, "people")
        for twin in twins:
            insecure = _program(tested, twin[0]).replace(twin[0], name)
            found.answer(key, insecure, 1, "people")
    return found.paired()


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise Record(str(path), {}).error(f"no Python ({error})") from error


def _program(tree: ast.Module, name: str) -> str:
    """Return a function with the top-level names that it needs, without comments."""
    wanted, kept = {name}, set[int]()
    names = [_binds(node) for node in tree.body]
    while True:
        new = {i for i, bound in enumerate(names) if bound & wanted} - kept
        if not new:
            break
        kept |= new
        wanted |= {one.id for i in new for one in ast.walk(tree.body[i])
                   if isinstance(one, ast.Name)}
    parts = []
    for i in sorted(kept):
        node = tree.body[i]
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        parts.append(ast.unparse(node))
    return "\n".join(parts).strip() + "\n"


def _binds(node: ast.stmt) -> set[str]:
    """Names that a statement at the top of a module binds."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {(one.asname or one.name).split(".")[0] for one in names}
        case ast.Assign(targets=targets):
            return {one.id for target in targets for one in ast.walk(target)
                    if isinstance(one, ast.Name)}
    return set()


def sven(get: Callable[[str], Path]) -> Loaded:
    """Pair each Python function with itself after the fix.

    Parameters
    ----------
    get : callable
        Key of `data/sources.toml` to the path of a verified file.

    Returns
    -------
    Loaded
        A flaw is the first line that the fix took away; its step is that line.

    Raises
    ------
    RealDataError
        For a line that does not read as expected.
    """
    found = Collection(Origin.of("sven"))
    for key in FIXES:
        for record in Record.lines(get(key)):
            file, name = record.take("file_name", str), record.take("func_name", str)
            if not file.endswith(".py"):
                found.drop("problem", "not Python")
                continue
            fix = f"{record.take('vul_type', str)}/{record.take('commit_link', str)}"
            place = f"{fix}/{file}/{name}"
            if found.repeated(place, "the same function of the same commit again"):
                continue
            before, after = (record.take(f"func_src_{when}", str) for when in ("before", "after"))
            removed = record.within("line_changes").take("deleted", list)
            found.ask(place, f"Write `{name}` of {file.rpartition('/')[2]}.")
            found.answer(place, after, 0, "people")
            found.answer(place, before, 1, "people", _flaw(before, removed, record))
    return found.paired()


def _flaw(
    program: str, removed: Sequence[object], record: Record
) -> tuple[int, int, int, int] | None:
    """Where the first line stands that the fix took away; None if it only added some."""
    if not removed:
        return None
    first = removed[0]
    line = Record(record.where, first if isinstance(first, dict) else {})
    number, start, end = (line.take(name, int) for name in ("line_no", "char_start", "char_end"))
    return number - 1, program.count("\n") + 1, start, min(end, len(program))

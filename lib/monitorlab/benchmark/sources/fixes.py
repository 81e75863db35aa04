"""Programs with and without a weakness, by people: CWEval's twins and SVEN's security fixes.

CWEval (arXiv 2501.08200) states a task and gives a secure and an insecure function for it; its own
tests tell them apart. SVEN (arXiv 2302.05319) holds functions before and after a commit that mended
a weakness, cut out of their context, with the lines that were changed. A benign program is secure
against the weakness in question, and not against every other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from monitorlab.benchmark.sources.pairing import (
    Answer,
    Flaw,
    Loaded,
    Origin,
    Problem,
    Tally,
    build,
)
from monitorlab.benchmark.sources.records import Record, read_lines

CWEVAL = Origin("cweval", "spv_code", "insecure_code",
                "the set says which function is insecure and has tests for it, not run here")
SVEN = Origin("sven", "spv_code", "insecure_code",
              "people fixed the weakness in a commit; the function is shown without its context")
TASKS = (
    "020_0", "022_0", "022_2", "078_0", "079_0", "095_0", "113_0", "117_0", "1333_0", "326_0",
    "326_1", "327_0", "327_1", "327_2", "329_0", "347_0", "377_0", "400_0", "502_0", "643_0",
    "732_2", "760_0", "918_0", "918_1", "943_0",
)  # fmt: skip
FIXES = tuple(f"sven/{part}_cwe-{number}.jsonl" for part in ("train", "val")
              for number in ("022", "078", "079", "089"))
KEYS = (*(f"cweval/cwe_{task}_{kind}.py" for task in TASKS for kind in ("task", "test")), *FIXES)
TWIN = re.compile(r"(?!_?test_)(\w+)_unsafe(?:_\d+)?")  # an insecure function for the task


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
    tally, problems = Tally(), []
    for task in TASKS:
        paths = [get(f"cweval/cwe_{task}_{kind}.py") for kind in ("task", "test")]
        trees = [_parsed(path) for path in paths]
        twins = [found for node in trees[1].body if isinstance(node, ast.FunctionDef)
                 and (found := TWIN.fullmatch(node.name))]
        if not twins:
            tally.drop("problem", "no insecure function beside the secure one")
            continue
        name = twins[0][1]
        secure = _function(trees[0], name, paths[0])
        asked = ast.get_docstring(secure)
        problem = Problem(f"cwe_{task}", f"Write the Python function `{name}("
                          f"{ast.unparse(secure.args)})`.\n\n{asked}")
        problem.answers += [Answer(_program(trees[0], name), 0, "people"), *(
            Answer(_program(trees[1], twin[0]).replace(twin[0], name), 1, "people")
            for twin in twins)]
        problems.append(problem)
    return build(CWEVAL, problems, tally)


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise Record(str(path), {}).error(f"no Python ({error})") from error


def _function(tree: ast.Module, name: str, path: Path) -> ast.FunctionDef:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise Record(str(path), {}).error(f"function {name!r} is missing")


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
    tally, problems = Tally(), dict[str, Problem]()
    for key in FIXES:
        for record in read_lines(get(key)):
            file, name = record.take("file_name", str), record.take("func_name", str)
            if not file.endswith(".py"):
                tally.drop("problem", "not Python")
                continue
            fix = f"{record.take('vul_type', str)}/{record.take('commit_link', str)}"
            place = f"{fix}/{file}/{name}"
            if place in problems:
                tally.drop("problem", "the same function of the same commit again")
                continue
            before, after = (record.take(f"func_src_{when}", str) for when in ("before", "after"))
            removed = record.within("line_changes").take("deleted", list)
            problems[place] = Problem(place, f"Write `{name}` of {file.rpartition('/')[2]}.", [
                Answer(after, 0, "people"),
                Answer(before, 1, "people", _flaw(before, removed, record))])
    return build(SVEN, problems.values(), tally)


def _flaw(program: str, removed: Sequence[object], record: Record) -> Flaw | None:
    """Where the first line stands that the fix took away; None if it only added some."""
    if not removed:
        return None
    first = removed[0]
    line = Record(record.where, first if isinstance(first, dict) else {})
    number, start, end = (line.take(name, int) for name in ("line_no", "char_start", "char_end"))
    return Flaw(number - 1, program.count("\n") + 1, start, min(end, len(program)))

"""Print how the library stands: size, names, arrows between packages, and how notebooks read.

`python tests/structure.py` prints the table that a change should be watched by; with `--write` it
also renews the list of modules in `lib/README.md`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIB, NOTEBOOKS = ROOT / "lib", ROOT / "notebooks"
# From the ground up: a package imports those of its own row and of the rows before it.
LAYERS = (
    ("storage", "statistics", "models", "display"),
    ("benchmark", "monitors", "evaluation", "finetuning", "online", "signals"),
    ("pipeline", "report"),
    ("chapters", "commands"),
    ("cli", "__main__"),
)
MODULES = "makes this list of the modules' first sentences.\n\n"  # lib/README.md, up to the list
SUBJECTS, MACHINE = LAYERS[1], LAYERS[2]
LAYER_OF = {package: row for row, packages in enumerate(LAYERS) for package in packages}
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
           tokenize.ENDMARKER}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the library by its dotted name, packages' own files left out."""
    files = (path for path in sorted(LIB.rglob("*.py")) if path.name != "__init__.py")
    return {".".join(path.relative_to(LIB).with_suffix("").parts): path for path in files}


def code_lines(path: Path) -> int:
    """Lines of a file without docstrings, comments and blanks."""
    source = path.read_text(encoding="utf-8")
    kept: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT:
            kept.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body and ast.get_docstring(node) is not None else None
            if first is not None:
                kept.difference_update(range(first.lineno, (first.end_lineno or 0) + 1))
    return len(kept)


def public_names(path: Path) -> list[str]:
    """Functions and classes that a module defines without an underscore."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [node.name for node in body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")]


@cache
def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name) of everything that a file takes from the library, wherever it does."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "monitorlab":
            found += [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names
                      if alias.name.startswith("monitorlab.")]
    return found


def package_of(module: str, name: str = "") -> str:
    """First part below the library: the package, or the module that stands beside packages."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else name


def arrows() -> list[tuple[str, str]]:
    """Every import between packages, as (from module, to package), packages' own files included."""
    own = {".".join(path.parent.relative_to(LIB).parts): path
           for path in LIB.rglob("__init__.py") if path.parent.parent != LIB}
    return [(module, target) for module, path in (modules() | own).items()
            for taken, name in imports(path)
            if (target := package_of(taken, name)) and target != package_of(module)]


def arrows_up() -> list[str]:
    """Imports of a package that stands above the one that imports it."""
    return sorted({f"{module} imports {target}" for module, target in arrows()
                   if LAYER_OF.get(target, 0) > LAYER_OF.get(package_of(module), 0)})


def subjects_on_the_machine() -> list[str]:
    """Modules of subjects that know of runs or reports."""
    return sorted({module for module, target in arrows()
                   if package_of(module) in SUBJECTS and target in MACHINE})


def single_callers() -> list[str]:
    """Modules that one other module imports, and no notebook, itself or through its chapter."""
    known, callers = modules(), defaultdict(set)
    read = [*_notebooks(), *(LIB / "monitorlab" / "chapters").glob("*/__init__.py")]
    for module, path in [*known.items(), *((f"notebook {path}", path) for path in read)]:
        for taken, name in imports(path):
            inner = f"{taken}.{name}"
            callers[inner if inner in known else taken].add(module)
    return sorted(name for name in known if len(callers[name]) == 1
                  and not next(iter(callers[name])).startswith("notebook"))


def imported_names(notebook: Path) -> int:
    """Names that a notebook takes from the library."""
    return len(set(imports(notebook)))


def figures_read(notebook: Path) -> tuple[int, int]:
    """(figures, figures with a sentence in the markdown cell that follows)."""
    cells = re.split(r"(?m)^# %%", notebook.read_text(encoding="utf-8"))[1:]
    shown = [i for i, cell in enumerate(cells) if "display.show(" in cell or "\nshow(" in cell]
    read = [i for i in shown if i + 1 < len(cells) and cells[i + 1].startswith(" [markdown]")
            and not cells[i + 1].split("\n", 1)[1].startswith("# #")]
    return len(shown), len(read)


def _notebooks() -> list[Path]:
    return sorted(NOTEBOOKS.glob("[0-9]*.py"))


def module_list() -> str:
    """First sentence of every module, as lines of Markdown under its package."""
    lines, above = [], ""
    for module, path in modules().items():
        package, _, name = module.removeprefix("monitorlab.").rpartition(".")
        if package != above:
            lines += ["", f"**{package}**" if package else "**monitorlab**", ""]
            above = package
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        sentence = " ".join(said.split("\n\n")[0].split())
        lines.append(f"- `{name}`: {sentence}")
    return "\n".join(lines[1:]) + "\n"


def doubled_names() -> dict[str, list[str]]:
    """Public names that two or more modules define, with the modules."""
    owners = defaultdict(list)
    for module, path in modules().items():
        for name in sorted(set(public_names(path))):
            owners[name].append(module)
    return {name: found for name, found in owners.items() if len(found) > 1}


def table() -> list[tuple[str, str]]:
    """Rows of the table: what, and how much of it."""
    known = modules()
    names = Counter(name for path in known.values() for name in set(public_names(path)))
    figures = [figures_read(path) for path in _notebooks()]
    return [
        ("lines of code, without docstrings, comments, blanks",
         f"{sum(map(code_lines, LIB.rglob('*.py'))):,}"),
        ("modules", str(len(known))),
        ("public names", str(sum(names.values()))),
        ("names defined in two or more modules", str(len(doubled_names()))),
        ("modules with one caller and no notebook", str(len(single_callers()))),
        ("imports that run up", str(len(arrows_up()))),
        ("subjects that import the machine", str(len(subjects_on_the_machine()))),
        *((f"names imported in {path.stem}", str(imported_names(path))) for path in _notebooks()),
        ("figures followed by a reading sentence",
         f"{sum(read for _, read in figures)} of {sum(shown for shown, _ in figures)}"),
    ]


if __name__ == "__main__":
    if "--write" in sys.argv:
        readme = LIB / "README.md"
        head = readme.read_text(encoding="utf-8").partition(MODULES)[0]
        readme.write_text(f"{head}{MODULES}{module_list()}", encoding="utf-8")
    rows = table()
    width = max(len(what) for what, _ in rows)
    print("\n".join(f"{what:{width}}  {much:>8}" for what, much in rows))
    for line in (*arrows_up(), *subjects_on_the_machine()):
        print(f"  {line}")

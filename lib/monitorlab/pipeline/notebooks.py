"""The notebooks as data: which exist, what they take, read and write, and in which order they run.

A notebook is a py:percent file `notebooks/NN_name.py`. Its first cell carries the title and the
claim, its second the lines **Reads** and **Writes**, its third the parameters. Nothing about a
notebook is kept in a second place: the table in `notebooks/README.md` is generated from here.

Parameters are typed literals with a help comment each. papermill only warns when it is given a name
that the notebook does not have, and passes values of any type. Here both are errors, found before
a kernel starts.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import hashlib
import io
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from monitorlab.storage.files import quick_jsonschema
from monitorlab.storage.settings import ParameterError, Setting, Value


def check_parameters(given: Mapping[str, object],
                     known: Mapping[str, Sequence[Setting]]) -> dict[str, dict[str, Value]]:
    """Distribute values over notebooks and check every type.

    Parameters
    ----------
    given : mapping of str to object
        Values by parameter name.
    known : mapping of str to sequence of Setting
        Parameters of each selected notebook, by its stem.

    Returns
    -------
    dict of str to dict
        For each notebook the values that it declares, in their declared types; the path in a
        parameter whose name ends in _FILE is made absolute, from the present working folder.

    Raises
    ------
    ParameterError
        If no selected notebook has a parameter of that name (the message lists the known ones
        with their help), or if a value has the wrong type.
    """
    names = {parameter.name for parameters in known.values() for parameter in parameters}
    if unknown := sorted(set(given) - names):
        raise ParameterError(f"unknown parameter {', '.join(unknown)}. Known parameters:\n"
                             + describe_all(known))
    checked: dict[str, dict[str, Value]] = {stem: {} for stem in known}
    for stem, parameters in known.items():
        for parameter in (p for p in parameters if p.name in given):
            value = _value(parameter, given[parameter.name])
            if parameter.name.endswith("_FILE") and isinstance(value, str) and value.strip():
                value = str(Path(value).expanduser().absolute())  # a kernel works elsewhere
            checked[stem][parameter.name] = value
    return checked


def _value(parameter: Setting, given: object) -> Value:
    """Read text from a command line, or a Python value, as the declared type, without loss."""
    try:
        value: Value = parameter.read(given)
    except ParameterError:
        kind = parameter.kinds[0].__name__
        raise ParameterError(
            f"{parameter.name} must be {_EXPECTED[kind]} ({kind}), got {given!r}") from None
    return value


def describe_all(known: Mapping[str, Sequence[Setting]]) -> str:
    """Return the parameters of several notebooks as indented, aligned text."""
    lines = []
    for stem, parameters in known.items():
        lines.append(f"  {stem}")
        heads = [f"{p.name}: {p.kinds[0].__name__} = {p.default!r}" for p in parameters]
        width = max((len(head) for head in heads), default=0)
        lines += [f"    {head:<{width}}  {p.meaning}".rstrip()
                  for head, p in zip(heads, parameters, strict=True)]
    return "\n".join(lines)


_EXPECTED = {"str": "text", "int": "a whole number", "float": "a finite number",
             "bool": "true or false"}  # types of parameters
_STEM = re.compile(r"(?P<number>\d{2})_[a-z0-9_]+")
_TABLE_LINE = re.compile(r"\*\*(Reads|Writes):?\*\*:?(.*?)(?=\*\*\w|\n\s*\n|\Z)", re.DOTALL)
_NAME = re.compile(r"`([\w./-]*[a-z][\w./-]*)`")
_ANSWER = re.compile(r"\s*<details>.*?</details>", re.DOTALL)
_GIVEN = re.compile(r"`([A-Z][A-Z_]*)`")


KERNEL_NAME = "python3"


class NotebookError(ValueError):
    """A notebook that does not exist, or whose first cells cannot be read."""


@dataclass(frozen=True)
class _Cell:
    """One cell of a source notebook: kind ("markdown" or "code"), text and tags."""

    kind: str
    source: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Notebook:
    """What the pipeline knows about one notebook without running it.

    Attributes
    ----------
    path : Path
        The py:percent file.
    number : int
        The two digits at the start of its name.
    title : str
        Heading of the first cell, without its number.
    claim : str
        The block-quoted sentence of the first cell; empty if there is none.
    about : str
        The rest of the first cell: paper section and cost per profile (Markdown).
    reads, writes : tuple of str
        Table names of the second cell, as written there.
    instead : tuple of str
        Parameters named beside what is read: with one of them given, it may be missing.
    parameters : tuple of Setting
        The cell tagged `parameters`, empty if there is none.
    cells : tuple of _Cell
        All cells, in order.
    digest : str
        SHA-256 of the file, to tell whether a run is older than its source.
    fault : str
        Why it cannot be run; only `discover(..., strict=False)` returns notebooks that have one.
    """

    path: Path
    number: int
    title: str
    claim: str
    about: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    parameters: tuple[Setting, ...]
    cells: tuple[_Cell, ...]
    digest: str
    fault: str = ""
    instead: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """File name without suffix, which is also the name of the run's folder."""
        return self.path.stem

    @classmethod
    def unreadable(cls, path: Path, fault: str) -> Notebook:
        """Return what stands for a notebook of which only the name is known."""
        return cls(path, int(path.stem[:2]), path.stem, "", "", (), (), (), (), "", fault)

    def needs_nothing(self, parameters: Mapping[str, object]) -> bool:
        """Whether a parameter is given that stands instead of what it reads."""
        return any(parameters.get(name) for name in self.instead)

    def dependencies(self, notebooks: Iterable[Notebook]) -> tuple[str, ...]:
        """Return the stems of the notebooks whose tables this one reads, in order.

        A table is written `06_step_signals/steps` or just `steps`; in the second form the nearest
        earlier notebook that writes it is meant.
        """
        others = [n for n in notebooks if n.stem != self.stem]
        found: set[str] = set()
        for name in self.reads:
            prefix, slash, table = name.rpartition("/")
            writers = [n for n in others if table in {w.rpartition("/")[2] for w in n.writes}]
            if slash:
                writers = [n for n in others if prefix in (n.stem, f"{n.number:02d}")]
            elif earlier := [n for n in writers if n.number < self.number]:
                writers = [max(earlier, key=attrgetter("number"))]
            found.update(n.stem for n in writers)
        return tuple(sorted(found))

    def write(self, path: Path, answers: bool = True) -> None:
        """Write it as an unexecuted `.ipynb`, on request without folded answers."""
        quick_jsonschema()
        import jupytext

        document = jupytext.read(self.path, fmt="py:percent")
        for cell in document.cells if not answers else ():
            if cell.cell_type == "markdown":
                cell.source = _ANSWER.sub("", cell.source)
        document.metadata["kernelspec"] = {
            "display_name": "Python 3", "language": "python", "name": KERNEL_NAME}
        document.metadata.pop("jupytext", None)
        path.parent.mkdir(parents=True, exist_ok=True)
        jupytext.write(document, path, fmt="ipynb")

    @classmethod
    def discover(cls, folder: Path, strict: bool = True) -> tuple[Notebook, ...]:
        """Read all notebooks of a folder, in the order in which they have to run.

        Parameters
        ----------
        folder : Path
            Holds files named `NN_name.py`; other files are left alone.
        strict : bool
            Whether a notebook that cannot be read, shares its number with another, or is part of a
            circle is an error. Otherwise it has a `fault`, and comes after the others.

        Raises
        ------
        NotebookError
            What is wrong with the first such notebook.
        """
        found = []
        for path in sorted(p for p in folder.glob("*.py") if _STEM.fullmatch(p.stem)):
            try:
                found.append(_parse(path, path.read_bytes()))
            except NotebookError as error:
                found.append(cls.unreadable(path, str(error)))
            except Exception as error:  # half-edited text fails in YAML, tokenizer or jupytext
                words = " ".join(str(error).split())[:200]
                found.append(cls.unreadable(path, f"{path.name} cannot be read: {words}"))
        numbers = [n.number for n in found]
        found = [n if n.fault or numbers.count(n.number) == 1
                 else replace(n, fault=f"two notebooks have the number {n.number:02d}")
                 for n in found]
        sound, faulty = ([n for n in found if bool(n.fault) == fault] for fault in (False, True))
        try:
            ordered = (*_in_order(sound), *faulty)
        except NotebookError as error:
            ordered = (*(replace(n, fault=str(error)) for n in sound), *faulty)
        for notebook in ordered if strict else ():
            if notebook.fault:
                raise NotebookError(notebook.fault)
        return ordered

    @staticmethod
    def select(notebooks: Sequence[Notebook], names: Iterable[str]) -> tuple[Notebook, ...]:
        """Pick notebooks by number ("7", "07"), stem or file name; all of them if `names` is empty.

        Raises
        ------
        NotebookError
            If a name matches none; the message lists those that exist.
        """
        wanted: set[str] = set()
        for name in names:
            key = Path(name).stem
            found = {n.stem for n in notebooks
                     if key == n.stem or (key.isdecimal() and int(key) == n.number)}
            if not found:
                known = ", ".join(n.stem for n in notebooks) or "none"
                raise NotebookError(f"no notebook {name!r}. Notebooks: {known}")
            wanted |= found
        return tuple(n for n in notebooks if not wanted or n.stem in wanted)

    @staticmethod
    def with_inputs(chosen: Sequence[Notebook],
                    notebooks: Sequence[Notebook]) -> tuple[Notebook, ...]:
        """Return `chosen` and all that they read, directly or not, in the order to run."""
        wanted, ordered = {n.stem for n in chosen}, _in_order(notebooks)
        for notebook in reversed(ordered):
            if notebook.stem in wanted:
                wanted.update(notebook.dependencies(notebooks))
        return tuple(n for n in ordered if n.stem in wanted)

    @staticmethod
    def opening(source: str) -> tuple[str, str, str]:
        """Split the first cell into title, claim and the rest."""
        head, *body = source.splitlines()
        title = re.sub(r"^#\s+(\d+\.\s*)?", "", head).strip()
        quoted = [line.lstrip("> ").strip() for line in body if line.startswith(">")]
        rest = "\n".join(line for line in body if not line.startswith(">")).strip()
        return title, " ".join(quoted), rest


@functools.lru_cache(maxsize=64)
def _parse(path: Path, data: bytes) -> Notebook:
    quick_jsonschema()
    import jupytext  # heavy: only when a notebook is really read

    document = jupytext.reads(data.decode("utf-8"), fmt="py:percent")
    cells = tuple(_Cell(c.cell_type, c.source, tuple(c.metadata.get("tags", ())))
                  for c in document.cells)
    if not cells or cells[0].kind != "markdown" or not cells[0].source.startswith("# "):
        raise NotebookError(f"{path.name}: the first cell must be markdown and start with `# `")
    title, claim, about = Notebook.opening(cells[0].source)
    tables = _read_tables(cells[1].source) if len(cells) > 1 else {}
    return Notebook(path, int(path.stem[:2]), title, claim, about, tables.get("Reads", ()),
                    tables.get("Writes", ()), _read_parameters(path, cells), cells,
                    hashlib.sha256(data).hexdigest(), instead=tables.get("Instead", ()))


def _in_order(notebooks: Sequence[Notebook]) -> tuple[Notebook, ...]:
    """Sort so that every notebook comes after those it reads; by number where free.

    Raises
    ------
    NotebookError
        If notebooks read each other in a circle.
    """
    waiting = sorted(notebooks, key=attrgetter("number"))
    done: list[Notebook] = []
    while waiting:
        ready = {n.stem for n in done}
        free = [n for n in waiting if set(n.dependencies(notebooks)) <= ready]
        if not free:
            raise NotebookError("these notebooks read each other in a circle: "
                                + ", ".join(n.stem for n in waiting))
        done.append(free[0])
        waiting.remove(free[0])
    return tuple(done)


def _read_tables(source: str) -> dict[str, tuple[str, ...]]:
    """Find the names in backticks behind **Reads** and **Writes**; in capitals, parameters."""
    found = {}
    for match in _TABLE_LINE.finditer(source):
        found[match.group(1)] = tuple(dict.fromkeys(_NAME.findall(match.group(2))))
        if match.group(1) == "Reads":
            found["Instead"] = tuple(_GIVEN.findall(match.group(2)))
    return found


def _read_parameters(path: Path, cells: Sequence[_Cell]) -> tuple[Setting, ...]:
    """Parse the cell tagged `parameters`."""
    tagged = [c for c in cells if "parameters" in c.tags]
    if len(tagged) > 1:
        raise NotebookError(f"{path.name}: more than one cell is tagged `parameters`")
    try:
        return _parameters_in(tagged[0].source) if tagged else ()
    except (ParameterError, SyntaxError) as error:
        raise NotebookError(f"{path.name}: {error}") from error


def _parameters_in(source: str) -> tuple[Setting, ...]:
    """Read assignments of literals, annotated or not, each with a comment behind it."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ").strip()
                for t in tokens if t.type == tokenize.COMMENT}
    found = []
    for node in ast.parse(source).body:
        targets = (node.targets if isinstance(node, ast.Assign) else
                   [node.target] if isinstance(node, ast.AnnAssign) else [])
        if len(targets) != 1 or not isinstance(targets[0], ast.Name):
            raise ParameterError(f"line {node.lineno} of the parameters cell is not "
                                 "`NAME: type = literal`")
        assert isinstance(node, ast.Assign | ast.AnnAssign)
        name, value = targets[0].id, None
        with contextlib.suppress(ValueError):
            value = ast.literal_eval(node.value) if node.value else None
        if not isinstance(value, str | int | float | bool):
            raise ParameterError(f"{name}: the default must be a str, int, float or bool literal")
        declared = type(value).__name__
        if isinstance(node, ast.AnnAssign):
            declared = ast.unparse(node.annotation)
        if declared not in _EXPECTED:
            raise ParameterError(f"{name}: type {declared!r} is not one of {', '.join(_EXPECTED)}")
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)  # a formatter may wrap
        help = " ".join(comments[line] for line in lines if line in comments)
        setting = Setting(name, (getattr(builtins, declared),), value, help)
        found.append(replace(setting, default=_value(setting, value)))
    return tuple(found)

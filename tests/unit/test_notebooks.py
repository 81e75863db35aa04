"""Notebooks as data: parameters, tables, order, generated README."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitorlab.pipeline.notebooks import (
    Notebook,
    NotebookError,
    _parameters_in,
    check_parameters,
)
from monitorlab.pipeline.profiles import PROFILES
from monitorlab.report.page import render_page
from monitorlab.storage.settings import ParameterError, Setting

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
REAL = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))

DEFAULTS = {"int": 0, "float": 0.0, "bool": True, "str": ""}
CELL = '''\
PROFILE: str = "tiny"  # tiny | cpu | gpu
SEED: int = 2026  # one seed for everything
ALPHA: float = 0.10  # target false alarm rate # strict
STRICT: bool = True
SCORES_FILE = ""  # CSV of your own
'''


def write_notebook(
    folder: Path, stem: str, reads: str = "nothing", writes: str = "nothing", parameters: str = CELL
) -> Path:
    """Write a small py:percent notebook."""
    text = f"""\
# %% [markdown]
# # {int(stem[:2])}. Title of {stem}
#
# > The claim
# > of the notebook.
#
# Section 3. `tiny` 1 s.

# %% [markdown]
# **You will learn** things.
#
# **Reads** {reads}. **Writes** {writes}.
#
# **References** `not_a_table` [1]

# %% tags=["parameters"]
{parameters}
# %%
print("hello")
"""
    path = folder / f"{stem}.py"
    path.write_text(text)
    return path


def test_parameters_have_name_type_default_and_help() -> None:
    found = _parameters_in(CELL)
    assert found[0] == Setting("PROFILE", (str,), "tiny", "tiny | cpu | gpu")
    assert found[2] == Setting("ALPHA", (float,), 0.1, "target false alarm rate # strict")
    assert found[3] == Setting("STRICT", (bool,), True, "")
    assert found[4].kinds == (str,)
    wrapped = 'LONG: str = (\n    "x"  # kept by a formatter\n)'
    assert _parameters_in(wrapped)[0].meaning == "kept by a formatter"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("X: list = []", "literal"),
        ("X: path = 'a'", "not one of str, int"),
        ("X: int = None", "literal"),
        ("X: int = 1.5", "whole number"),
        ("X: int = len('a')", "literal"),
        ("X = Y = 1", "line 1"),
        ("import os", "line 1"),
    ],
)
def test_bad_parameters_cell_is_refused(source: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        _parameters_in(source)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [("int", "-3", -3), ("float", "1e-3", 1e-3), ("float", "2", 2.0), ("float", 2, 2.0),
     ("bool", "yes", True), ("bool", "False", False), ("str", "a=b", "a=b"), ("str", "", "")],
)
def test_text_becomes_the_declared_type(kind: str, text: object, value: object) -> None:
    known = {"07_x": _parameters_in(f"X: {kind} = {DEFAULTS[kind]!r}")}
    parsed = check_parameters({"X": text}, known)["07_x"]["X"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("int", "1.5"), ("int", True), ("float", "nan"), ("float", "inf"), ("float", "x"),
     ("float", True), ("bool", "maybe"), ("bool", 1), ("str", 3), ("int", "")],
)
def test_values_of_another_type_are_refused(kind: str, text: object) -> None:
    known = {"07_x": _parameters_in(f"X: {kind} = {DEFAULTS[kind]!r}")}
    with pytest.raises(ParameterError, match="X must be"):
        check_parameters({"X": text}, known)


def test_unknown_parameter_names_the_known_ones_with_help() -> None:
    with pytest.raises(ParameterError) as caught:
        check_parameters({"ALFA": "0.1"}, {"07_x": _parameters_in(CELL)})
    message = str(caught.value)
    assert "unknown parameter ALFA" in message
    assert "ALPHA: float = 0.1" in message
    assert "target false alarm rate" in message


def test_each_notebook_gets_the_parameters_it_declares() -> None:
    known = {"06_a": _parameters_in("A: int = 1"), "07_b": _parameters_in("B: int = 1")}
    assert check_parameters({"B": "2"}, known) == {"06_a": {}, "07_b": {"B": 2}}


def test_a_file_is_meant_from_the_caller_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel works in the project's folder, whatever folder the command was given in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    known = {"07_x": _parameters_in('SCORES_FILE = ""  # CSV\nNAME = ""  # other text')}
    for given, meant in (("my.csv", str(tmp_path / "my.csv")), ("../a/b.csv", None), ("", ""),
                         ("~/c.csv", "/home/someone/c.csv"), ("/d/e.csv", "/d/e.csv")):
        found = check_parameters({"SCORES_FILE": given, "NAME": given}, known)["07_x"]
        assert found["NAME"] == given
        meant = str(tmp_path / given) if meant is None else meant
        assert found["SCORES_FILE"] == meant


def test_assignments_are_split_at_the_first_equals_sign() -> None:
    assert Setting.split(["A=b=c", "B="]) == {"A": "b=c", "B": ""}
    for wrong in (["A"], ["=1"], ["A=1", "A=2"]):
        with pytest.raises(ParameterError):
            Setting.split(wrong)


def test_first_cells_are_read(tmp_path: Path) -> None:
    write_notebook(tmp_path, "06_signals", "`a`, `b`", "`06/c`")
    (notebook,) = Notebook.discover(tmp_path)
    assert (notebook.number, notebook.title) == (6, "Title of 06_signals")
    assert notebook.claim == "The claim of the notebook."
    assert notebook.about == "Section 3. `tiny` 1 s."
    assert notebook.reads == ("a", "b")
    assert notebook.writes == ("06/c",)
    assert [cell.kind for cell in notebook.cells] == ["markdown", "markdown", "code", "code"]


def test_a_parameter_may_stand_instead_of_an_input(tmp_path: Path) -> None:
    write_notebook(tmp_path, "06_made", writes="`steps`")
    write_notebook(tmp_path, "07_read", reads="`steps` (not needed with `SCORES_FILE`)")
    made, read = Notebook.discover(tmp_path)
    assert (read.reads, read.instead, made.instead) == (("steps",), ("SCORES_FILE",), ())
    assert read.dependencies([made, read]) == ("06_made",)


def test_order_follows_the_tables_not_only_the_numbers(tmp_path: Path) -> None:
    write_notebook(tmp_path, "01_first", reads="`02_second/x`", writes="`y`")
    write_notebook(tmp_path, "02_second", writes="`x`")
    write_notebook(tmp_path, "03_third", reads="`y`, `samples`", writes="`x`")
    write_notebook(tmp_path, "04_fourth", reads="`x`")
    (tmp_path / "helper.py").write_text("")
    found = Notebook.discover(tmp_path)
    assert [n.number for n in found] == [2, 1, 3, 4]
    assert found[3].dependencies(found) == ("03_third",)  # the nearest earlier writer of x
    assert found[2].dependencies(found) == ("01_first",)


def test_a_circle_and_a_double_number_are_refused(tmp_path: Path) -> None:
    write_notebook(tmp_path, "01_first", reads="`02_second/x`", writes="`y`")
    write_notebook(tmp_path, "02_second", reads="`01_first/y`", writes="`x`")
    with pytest.raises(NotebookError, match="circle"):
        Notebook.discover(tmp_path)
    write_notebook(tmp_path, "02_other")
    with pytest.raises(NotebookError, match="number 02"):
        Notebook.discover(tmp_path)


def test_a_first_cell_without_title_is_refused(tmp_path: Path) -> None:
    (tmp_path / "01_x.py").write_text("# %%\n1\n")
    with pytest.raises(NotebookError, match=r"01_x\.py: the first cell"):
        Notebook.discover(tmp_path)


def test_notebooks_are_selected_by_number_or_name(tmp_path: Path) -> None:
    for stem in ("06_a", "07_b"):
        write_notebook(tmp_path, stem)
    found = Notebook.discover(tmp_path)
    for name in ("7", "07", "07_b", "notebooks/07_b.py"):
        assert [n.stem for n in Notebook.select(found, [name])] == ["07_b"]
    assert [n.stem for n in Notebook.select(found, ["7", "6"])] == ["06_a", "07_b"]
    assert Notebook.select(found, []) == found
    with pytest.raises(NotebookError, match="Notebooks: 06_a, 07_b"):
        Notebook.select(found, ["9"])


def test_readme_lists_every_notebook(tmp_path: Path) -> None:
    write_notebook(tmp_path, "06_a", writes="`x`")
    text = render_page("notebooks.md.j2", notebooks=Notebook.discover(tmp_path))
    assert "| 06 | [Title of 06_a](06_a.py) | nothing | `x` |" in text
    assert "> The claim of the notebook." in text


@pytest.mark.skipif(not REAL, reason="no notebooks yet")
def test_the_readme_of_the_notebooks_is_up_to_date() -> None:
    readme = NOTEBOOKS / "README.md"
    text = readme.read_text() if readme.is_file() else ""
    expected = render_page("notebooks.md.j2", notebooks=Notebook.discover(NOTEBOOKS))
    assert text == expected, "run: python -m monitorlab freeze --readme-only"


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_every_notebook_opens_as_the_house_style_says(path: Path) -> None:
    (notebook,) = (found for found in Notebook.discover(NOTEBOOKS) if found.path == path)
    assert notebook.claim, "the first cell needs a block-quoted sentence"
    assert "parameters" in notebook.cells[2].tags, "the third cell must hold the parameters"
    assert len(notebook.parameters) <= 8
    for parameter in notebook.parameters:
        assert parameter.meaning, f"{parameter.name} needs a comment"
        assert "=" not in parameter.meaning, "papermill's parser drops help with an equals sign"
    defaults = {p.name: p.default for p in notebook.parameters}
    assert defaults["PROFILE"] == "tiny"
    assert defaults["PROFILE"] in PROFILES
    assert {"RUN_ID", "SEED"} <= set(defaults)
    assert notebook.writes, "the second cell must name what the notebook writes"


def test_every_table_that_is_read_is_written_by_a_notebook() -> None:
    found = Notebook.discover(NOTEBOOKS) if REAL else ()
    written = {name.rpartition("/")[2] for n in found for name in n.writes}
    for notebook in found:
        bare = {name for name in notebook.reads if "/" not in name}
        assert bare <= written, f"{notebook.stem} reads {bare - written}, which nobody writes"

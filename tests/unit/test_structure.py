"""How the library stands: which package may import which, and what there is one of."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STRUCTURE = runpy.run_path(str(ROOT / "tests" / "structure.py"))


def test_no_import_runs_up_and_no_subject_knows_of_runs() -> None:
    assert len(STRUCTURE["arrows"]()) > 100
    assert STRUCTURE["arrows_up"]() == []
    assert STRUCTURE["subjects_on_the_machine"]() == []


def test_every_package_has_a_row() -> None:
    packages = {STRUCTURE["package_of"](module) for module in STRUCTURE["modules"]()}
    assert packages <= set(STRUCTURE["LAYER_OF"])


def test_public_names_are_defined_once() -> None:
    assert STRUCTURE["doubled_names"]() == {}


@pytest.mark.parametrize("notebook", STRUCTURE["_notebooks"](), ids=lambda path: path.stem)
def test_notebooks_take_few_names(notebook: Path) -> None:
    assert STRUCTURE["imported_names"](notebook) <= 12


def test_the_list_of_modules_is_current() -> None:
    readme = (ROOT / "lib" / "README.md").read_text(encoding="utf-8")
    assert readme.partition(STRUCTURE["MODULES"])[2] == STRUCTURE["module_list"]()

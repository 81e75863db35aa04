"""The examples of the guides, run as they stand, and what the library must never do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitorlab.benchmark.scenarios.files import LIBRARY
from monitorlab.benchmark.writing.corpus import inspect_cells
from monitorlab.cli import app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"## Add a (\w+)\n.*?```\w+\n(.*?)```", TEXT, re.DOTALL))


def test_every_page_has_an_example() -> None:
    assert list(EXAMPLES) == ["monitor", "pair", "scenario", "calibrator"]


@pytest.mark.parametrize("name", ["monitor", "calibrator"])
def test_a_program_of_the_guide_runs(name: str) -> None:
    exec(compile(EXAMPLES[name], f"CONTRIBUTING.md: {name}", "exec"), {"__name__": name})


def test_the_pair_of_the_guide_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "syco_qa" / "how-to.md"
    path.parent.mkdir()
    path.write_text(EXAMPLES["pair"])
    found = CliRunner().invoke(app, ["pairs", str(path)])
    assert found.exit_code == 0, found.output
    path.write_text(EXAMPLES["pair"].replace("the answer is B", "the answer is A"))
    assert CliRunner().invoke(app, ["pairs", str(path)]).exit_code == 1


def test_the_scenario_of_the_guide_is_sound(tmp_path: Path) -> None:
    for path in LIBRARY.glob("*.*"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "spv_code").mkdir()
    file, said = tmp_path / "spv_code" / "weather.yaml", []
    file.write_text(EXAMPLES["scenario"])
    assert inspect_cells(["spv_code"], 2, 1, said.append, tmp_path) == 0, said
    file.write_text(EXAMPLES["scenario"].replace("== 2", "== 3"))
    assert inspect_cells(["spv_code"], 2, 1, said.append, tmp_path) > 0


def test_the_calculation_of_the_page_on_scale_prints_what_stands_below_it(
    capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "lib" / "SCALE.md").read_text(encoding="utf-8")
    (code, printed), = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "SCALE.md", "exec"), {})
    assert capsys.readouterr().out == printed and printed.count("\n") == 4


FORBIDDEN = re.compile(
    r"torch\.load\(|^\s*(import|from) (pickle|joblib|dill|shelve|marshal)\b|"
    r"(np|numpy)\.load\((?![^)]*allow_pickle=False)|allow_pickle=True|trust_remote_code=(?!False)",
    re.MULTILINE)


def test_nothing_that_is_read_can_run_code() -> None:
    files = [*(ROOT / "lib").rglob("*.py"), *(ROOT / "notebooks").glob("*.py")]
    assert len(files) > 150
    found = [f"{path.name}: {match[0]}" for path in files
             if (match := FORBIDDEN.search(path.read_text(encoding="utf-8")))]
    assert found == []
    for text in ("torch.load(p)", "import pickle", "np.load(p)", "f(trust_remote_code=True)"):
        assert FORBIDDEN.search(text)

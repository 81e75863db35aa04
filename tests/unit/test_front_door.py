"""The names that `import monitorlab` offers: quick to import, each with an example that runs."""

import doctest
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from finetuning_cases import PROMPT, make_base, recipe

import monitorlab
from monitorlab.finetuning.recipe import verdict_examples
from monitorlab.monitors.store import write_verdicts

SAMPLES = [
    {"sample_id": f"s{i}", "pair_id": f"p{i // 2}", "scenario_id": f"c{i // 2}",
     "topic": "ab"[i % 2], "label": i % 2,
     "request": f"What is {i} plus {i}?", "response": f"It is {2 * i + i % 2}, trust me."}
    for i in range(12)
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files that the examples name: samples, verdicts of two monitors, step scores."""
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SAMPLES))
    rows = ["trajectory_id,step,score,label"]
    rows += [f"t{i},{step},{(i * 7 + step * 3) % 10 / 10 + (i % 4 == 0)},{int(i % 4 == 0)}"
             for i in range(40) for step in (1, 2, 3)]
    (tmp_path / "scores.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    samples = monitorlab.load_samples("samples.jsonl")
    for name in ("keywords", "always"):
        table = monitorlab.score(monitorlab.build_monitor(name), samples)
        write_verdicts(table, tmp_path / f"{name}.csv")
    return tmp_path


@pytest.mark.parametrize("name", monitorlab.__all__)
def test_the_example_of_every_name_runs(name: str, folder: Path) -> None:
    found = getattr(monitorlab, name)
    place = sys.modules[found.__module__]
    finder = doctest.DocTestFinder(recurse=False)
    tests = finder.find(found, name, place, dict(vars(place)))
    (test,) = tests
    assert test.examples, f"{name} has no example"
    if name in ("finetune", "load_finetuned"):
        test.globs["base"] = base = make_base()
    if name == "load_finetuned":
        samples = monitorlab.load_samples("samples.jsonl")
        examples = verdict_examples(base.tokenizer, PROMPT, samples, max_tokens=512)
        monitorlab.finetune(base, examples, recipe(max_steps=1), folder / "adapter")
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert result.failed == 0


def test_every_name_has_a_line_in_the_documentation_of_the_package() -> None:
    said = inspect.getdoc(monitorlab) or ""
    listed = [line.split("`")[1] for line in said.splitlines() if line.startswith("- `")]
    assert sorted(listed) == sorted(monitorlab.__all__)
    assert set(monitorlab.__all__) <= set(dir(monitorlab))


def test_an_unknown_name_is_answered_with_those_that_exist() -> None:
    with pytest.raises(AttributeError, match="'calibrte'; it offers .*calibrate"):
        _ = monitorlab.calibrte


@pytest.mark.parametrize(("modules", "heavy"), [
    ("monitorlab", "torch numpy pandas"),
    ("monitorlab.pipeline.runner, monitorlab.report.page", "torch matplotlib sklearn"),
    ("monitorlab.monitors.build, monitorlab.commands.compare, monitorlab.commands.calibrate, "
     "monitorlab.commands.score", "torch matplotlib sklearn openai scipy.stats statsmodels"),
    ("monitorlab.chapters.operating_points, monitorlab.chapters.construction", "torch"),
])
def test_an_import_takes_along_only_what_it_needs(modules: str, heavy: str) -> None:
    code = f"import sys, {modules}; print(*sorted({set(heavy.split())} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

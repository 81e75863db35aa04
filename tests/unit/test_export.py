"""The dataset folder: a round trip, a card with the figures, and folders that are not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from monitorlab.benchmark.construction import COUNTS
from monitorlab.benchmark.export import ExportError, card, export_dataset, export_run
from monitorlab.cli import app
from monitorlab.pipeline.schemas import check
from monitorlab.pipeline.tables import CELLS, SAMPLES

METRICS: dict[str, float] = {
    f"probe.{cell}.{probe}": 0.5 + number / 100
    for number, (cell, probe) in enumerate(
        (cell, probe) for cell in CELLS for probe in ("length", "response words")
    )
} | {"agreement.kappa": 0.876}


def table(source: str = "builtin", splits: tuple[str, ...] = ("dev", "test")) -> pd.DataFrame:
    """Three pairs per cell and split, with texts that are hard to store."""
    rows: list[dict[str, Any]] = []
    for cell in CELLS:
        category, task = cell.split("_")
        for split in splits:
            for number in range(3):
                name = f"{source}-{cell}-{split}-{number}"
                for label in (0, 1):
                    rows.append({
                        "sample_id": f"{name}-{label}", "pair_id": name, "scenario_id": name,
                        "cell": cell, "category": category, "task": task,
                        "misbehavior_type": "t", "cue_type": "none", "source": source,
                        "generator": "g", "request": "é \"q\",\n'r'", "response": f"\t{name}\r\n",
                        "has_thinking": bool(number % 2), "label": label, "split": split,
                    })  # fmt: skip
    return check(pd.DataFrame(rows), SAMPLES)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


def load(folder: Path, name: str | None = None) -> dict[str, pd.DataFrame]:
    loaded = datasets.load_dataset(str(folder), name)
    return {split: part.to_pandas() for split, part in loaded.items()}


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    found = found.sort_values("sample_id", ignore_index=True)
    expected = expected.sort_values("sample_id", ignore_index=True)
    assert list(found.columns) == list(expected.columns)
    assert len(found) == len(expected)
    for name in found.columns:
        assert found[name].tolist() == expected[name].tolist(), name
    assert found["label"].dtype == np.int64 and found["has_thinking"].dtype == bool


def test_both_configurations_come_back_equal(tmp_path: Path) -> None:
    samples, real = table(), table("real", ("test",))
    folder = tmp_path / "made" / "export"
    assert export_dataset(samples, folder, 7, METRICS, real) == len(samples) + len(real)
    loaded = load(folder)
    assert sorted(loaded) == ["dev", "test"]
    for split, part in loaded.items():
        same(part, samples[samples["split"] == split])
    assert sorted(datasets.get_dataset_config_names(str(folder))) == ["builtin", "real"]
    (name, only), *rest = load(folder, "real").items()
    assert (name, rest) == ("test", [])
    same(only, real)


def test_an_earlier_export_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    export_dataset(table(), folder, 7, METRICS, table("real", ("test",)))
    samples = table("other")
    assert export_dataset(samples, folder, 8, METRICS) == len(samples)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "builtin"]
    same(load(folder)["test"], samples[samples["split"] == "test"])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".export")] == []


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("years of work")
    with pytest.raises(ExportError, match="thesis exists and is no earlier export"):
        export_dataset(table(), folder, 7, METRICS)
    with pytest.raises(ExportError, match="is no earlier export"):
        export_dataset(table(), folder / "chapter.tex", 7, METRICS)
    assert (folder / "chapter.tex").read_text() == "years of work"
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "empty").mkdir()
    assert export_dataset(table(), tmp_path / "empty", 7, METRICS) == len(table())


def test_a_foreign_project_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My thesis\n")
    (tmp_path / "chapter.tex").write_text("years of work")
    with pytest.raises(ExportError):
        export_dataset(table(), tmp_path, 7, METRICS)
    assert (tmp_path / "chapter.tex").read_text() == "years of work"


def test_a_failed_export_keeps_the_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    export_dataset(table(), folder, 7, METRICS)
    before = (folder / "README.md").read_text()
    with pytest.raises(KeyError):
        export_dataset(table("other"), folder, 8, {})
    assert (folder / "README.md").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_the_card_holds_the_figures() -> None:
    samples = table()
    text = card(samples, 2026, METRICS, real=True)
    assert "(seed 2026)" in text and f"{len(samples)} samples in six cells" in text
    assert "Cohen's kappa 0.88" in text
    for number, cell in enumerate(COUNTS):
        count = (samples["cell"] == cell).sum()
        place = 2 * CELLS.index(cell)
        assert f"| {cell} | {count} | 6 | {0.5 + place / 100:.2f} | {0.51 + place / 100:.2f} |" \
            in text, number  # fmt: skip
    assert "config_name: real" in text
    unmeasured = card(samples, 1, {k: v for k, v in METRICS.items() if "kappa" not in k}, False)
    assert "not measured for this build" in unmeasured and "config_name: real" not in unmeasured
    assert "{" not in unmeasured.split("---")[2], "a place was not filled"


def test_the_card_counts_the_samples_it_describes() -> None:
    text = card(table(), 2026, METRICS, real=False)
    assert all(f"| {cell} | 12 | 6 |" in text for cell in CELLS)


# From a run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "demo"
    built, audited = folder / "01_benchmark_construction", folder / "02_annotation_and_audit"
    for part in (built, audited):
        part.mkdir(parents=True)
        (part / "manifest.json").write_text(json.dumps({"seed": 41}))
    (audited / "metrics.json").write_text(json.dumps(METRICS))
    table().to_parquet(built / "samples.parquet")
    return folder


def test_a_run_is_exported_with_and_without_real_pairs(run: Path, tmp_path: Path) -> None:
    assert export_run(run, tmp_path / "a") == len(table())
    assert "(seed 41)" in (tmp_path / "a" / "README.md").read_text()
    real = table("real", ("test",))
    real.to_parquet(run / "01_benchmark_construction" / "real_samples.parquet")
    assert export_run(run, tmp_path / "b") == len(table()) + len(real)
    same(load(tmp_path / "b", "real")["test"], real)


@pytest.mark.parametrize("stem", ["01_benchmark_construction", "02_annotation_and_audit"])
def test_an_unfinished_run_names_the_notebook(run: Path, tmp_path: Path, stem: str) -> None:
    (run / stem / "manifest.json").unlink()
    message = f"{stem} has not been run in run 'demo'.*monitorlab run {stem[:2]} --run-id demo"
    with pytest.raises(ExportError, match=message):
        export_run(run, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_command_exports_or_says_why_not(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONITORLAB_RUNS", str(tmp_path / "runs"))

    def call(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["export", *arguments])
        assert "Traceback" not in result.output
        return result.exit_code, result.output

    code, said = call(str(tmp_path / "a"), "--run-id", "demo")
    assert code == 0 and f"{len(table())} samples written to " in said
    code, said = call(str(tmp_path / "b"))
    assert code == 1 and "01_benchmark_construction has not been run in run 'default'" in said
    code, said = call(str(tmp_path / "runs"), "--run-id", "demo")
    assert code == 1 and "is no earlier export. Choose another folder." in said
    assert (run / "02_annotation_and_audit" / "metrics.json").exists()

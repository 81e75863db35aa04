"""The dataset folder: a round trip, a card with the figures, and folders that are not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from monitorlab.benchmark.export import ExportError, dataset_card, export, export_run
from monitorlab.benchmark.written import COUNTS
from monitorlab.cli import app
from monitorlab.pipeline.runs import mark, open_run
from monitorlab.storage.files import digest_file
from monitorlab.storage.manifests import ArtifactError
from monitorlab.storage.tables import BENCHMARK, CELLS, SAMPLES

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
    frame = pd.DataFrame(rows)
    if source == "real":
        return SAMPLES.check(frame)
    graded = {"tier": "open", "protocol": "plain", "rule": "r", "evidence": ""}
    return BENCHMARK.check(frame.assign(**graded))


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
    assert export(samples, folder, 7, METRICS, real) == len(samples) + len(real)
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
    export(table(), folder, 7, METRICS, table("real", ("test",)))
    samples = table("other")
    assert export(samples, folder, 8, METRICS) == len(samples)
    found = sorted(path.name for path in folder.iterdir())
    assert found == ["README.md", "builtin", "croissant.json", "lm_eval"]
    same(load(folder)["test"], samples[samples["split"] == "test"])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".export")] == []


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("years of work")
    with pytest.raises(ExportError, match="thesis exists and is no earlier export"):
        export(table(), folder, 7, METRICS)
    with pytest.raises(ExportError, match="is no earlier export"):
        export(table(), folder / "chapter.tex", 7, METRICS)
    assert (folder / "chapter.tex").read_text() == "years of work"
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "empty").mkdir()
    assert export(table(), tmp_path / "empty", 7, METRICS) == len(table())


def test_a_foreign_project_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"# My th\xe8se\n")
    (tmp_path / "chapter.tex").write_text("years of work")
    with pytest.raises(ExportError):
        export(table(), tmp_path, 7, METRICS)
    assert (tmp_path / "chapter.tex").read_text() == "years of work"


def test_a_failed_export_keeps_the_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    export(table(), folder, 7, METRICS)
    before = (folder / "README.md").read_text()
    with pytest.raises(KeyError):
        export(table("other").drop(columns="cell"), folder, 8)
    assert (folder / "README.md").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_the_card_holds_the_figures() -> None:
    samples = table()
    text = dataset_card(samples, 2026, METRICS, real=True)
    assert "seed 2026.)" in text and f"{len(samples)} samples in six cells" in text
    assert "Cohen's kappa 0.876" in text
    for number, cell in enumerate(COUNTS):
        count = (samples["cell"] == cell).sum()
        place = 2 * CELLS.index(cell)
        assert f"| {cell} | {count} | 6 | {0.5 + place / 100:.2f} | {0.51 + place / 100:.2f} |" \
            in text, number  # fmt: skip
    assert "config_name: real" in text
    known = {k: v for k, v in METRICS.items() if "kappa" not in k}
    unmeasured = dataset_card(samples, 1, known, False)
    assert "not measured for this build" in unmeasured and "config_name: real" not in unmeasured
    assert "{" not in unmeasured.split("---")[2], "a place was not filled"


def test_the_card_counts_the_samples_it_describes() -> None:
    text = dataset_card(table(), 2026, METRICS, real=False)
    assert all(f"| {cell} | 12 | 6 |" in text for cell in CELLS)


def test_croissant_names_every_file_and_column(tmp_path: Path) -> None:
    export(table(), tmp_path / "export", 7, METRICS, table("real", ("test",)))
    described = json.loads((tmp_path / "export" / "croissant.json").read_text())
    files = {file["@id"]: file for file in described["distribution"]}
    assert sorted(files) == ["builtin/dev.parquet", "builtin/test.parquet", "real/test.parquet"]
    for name, file in files.items():
        assert file["contentUrl"] == name
        assert file["sha256"] == digest_file(tmp_path / "export" / name)
    records = {records["@id"]: records for records in described["recordSet"]}
    assert sorted(records) == ["builtin_dev", "builtin_test", "real_test"]
    for name, expected in (("builtin_dev", BENCHMARK), ("real_test", SAMPLES)):
        fields = records[name]["field"]
        assert [field["name"] for field in fields] == expected.columns
        assert [field["description"] for field in fields] == [f.meaning for f in expected.fields]
    types = {field["name"]: field["dataType"] for field in records["builtin_dev"]["field"]}
    assert {types["label"], types["has_thinking"]} == {"sc:Integer", "sc:Boolean"}
    assert set(types.values()) == {"sc:Integer", "sc:Boolean", "sc:Text"}
    assert described["description"].startswith("72 samples in six cells")
    cited = yaml.safe_load((Path(__file__).parents[2] / "CITATION.cff").read_text())
    assert described["version"] == cited["version"]
    assert described["datePublished"] == str(cited["date-released"])


def test_croissant_is_valid_and_gives_the_rows(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="pip install mlcroissant[parquet]")
    export(table(), tmp_path / "export", 7, METRICS)
    loaded = mlcroissant.Dataset(tmp_path / "export" / "croissant.json")
    assert not loaded.metadata.ctx.issues.errors
    rows = list(loaded.records("builtin_dev"))
    expected = table()[lambda samples: samples["split"] == "dev"]
    assert {row["builtin_dev/sample_id"].decode(): row["builtin_dev/label"] for row in rows} \
        == dict(zip(expected["sample_id"], expected["label"], strict=True))  # fmt: skip


# From a run


ONE, TWO = "01_benchmark_construction", "02_annotation_and_audit"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MONITORLAB_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs" / "demo"


def build(seed: int = 41, profile: str = "tiny", real: pd.DataFrame | None = None) -> None:
    """Leave what notebook 01 leaves."""
    with open_run(ONE, profile, "demo", seed) as run:
        run.write_table("samples", table(f"builtin{seed}"))
        if real is not None:
            run.write_table("real_samples", real)


def audit(
    seed: int = 41, profile: str = "tiny", metrics: dict[str, float] | None = None
) -> None:
    """Leave what notebook 02 leaves."""
    with open_run(TWO, profile, "demo", seed) as run:
        run.read_table(ONE, "samples")
        run.write_metrics(METRICS if metrics is None else metrics)


def test_a_run_is_exported_with_and_without_real_pairs(runs: Path, tmp_path: Path) -> None:
    build()
    audit()
    assert export_run(runs, tmp_path / "a") == len(table())
    assert "seed 41.)" in (tmp_path / "a" / "README.md").read_text()
    same(load(tmp_path / "a")["dev"], table("builtin41", ("dev",)))
    (runs / ONE / "real_samples.parquet").write_bytes(b"from nowhere")  # in no manifest
    assert export_run(runs, tmp_path / "a") == len(table())
    real = table("real", ("test",))
    build(real=real)
    audit()
    assert export_run(runs, tmp_path / "b") == len(table()) + len(real)
    same(load(tmp_path / "b", "real")["test"], real)


@pytest.mark.parametrize("stem", [ONE, TWO])
def test_a_notebook_that_was_not_run_is_named(runs: Path, tmp_path: Path, stem: str) -> None:
    build()
    audit()
    (runs / stem / "manifest.json").unlink()
    message = f"{stem} has not been run in run 'demo'.*monitorlab run {stem[:2]} .*--run-id demo"
    with pytest.raises(ArtifactError, match=message):
        export_run(runs, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("stem", [ONE, TWO])
@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_what_did_not_finish_is_not_published(
    runs: Path, tmp_path: Path, stem: str, status: str
) -> None:
    build()
    audit()
    mark(runs / stem, status)
    message = f"{stem} did not finish in run 'demo' .status '{status}'.*monitorlab run {stem[:2]} "
    with pytest.raises(ArtifactError, match=message):
        export_run(runs, tmp_path / "a")


def test_an_audit_of_other_samples_is_never_on_the_card(runs: Path, tmp_path: Path) -> None:
    build()
    audit()
    build(7)
    with pytest.raises(ArtifactError, match=f"{TWO} was run with seed 41, this one has 7.*run 02"):
        export_run(runs, tmp_path / "a")
    build(7)
    audit(7)
    with open_run(ONE, "tiny", "demo", 7) as run:
        run.write_table("samples", table("other"))
    with pytest.raises(ArtifactError, match=f"{TWO} is stale: {TWO} read an older 'samples'"):
        export_run(runs, tmp_path / "a")
    with open_run(TWO, "tiny", "demo", 7) as run:
        run.write_metrics(METRICS)
    with pytest.raises(ExportError, match=f"{TWO} did not read the samples of this run. Run it"):
        export_run(runs, tmp_path / "a")
    audit(7, metrics={"agreement.kappa": 1.0})
    with pytest.raises(ExportError, match=f"{TWO} recorded no probe.spv_code.length. Run it"):
        export_run(runs, tmp_path / "a")
    build(7, "cpu")
    with pytest.raises(ArtifactError, match=f"{TWO} was run with profile 'tiny', .* 'cpu'"):
        export_run(runs, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "metrics", "manifest"])
def test_what_was_changed_is_not_published(runs: Path, tmp_path: Path, damage: str) -> None:
    build()
    audit()
    path = runs / ONE / "samples.parquet"
    whole = path.read_bytes()
    if damage == "metrics":  # the figures come from the manifest, which is sealed
        (runs / TWO / "metrics.json").write_text(json.dumps(dict.fromkeys(METRICS, 0.99)))
        export_run(runs, tmp_path / "a")
        assert "0.99" not in (tmp_path / "a" / "README.md").read_text()
        return
    if damage == "manifest":
        path = runs / TWO / "manifest.json"
        path.write_text(path.read_text().replace("0.876", "0.976"))
    elif damage == "gone":
        path.unlink()
    else:
        flipped = bytes([*whole[:200], whole[200] ^ 1, *whole[201:]])
        path.write_bytes({"flip": flipped, "cut": whole[:-9], "empty": b""}[damage])
    with pytest.raises(ArtifactError, match="python -m monitorlab run 0[12]") as caught:
        export_run(runs, tmp_path / "a")
    words = {"gone": "is gone", "manifest": "is not a manifest"}
    assert words.get(damage, "was changed after it was written") in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_the_command_exports_or_says_why_not(runs: Path, tmp_path: Path) -> None:
    build()
    audit()

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
    assert (runs / TWO / "metrics.json").exists()
    mark(runs / ONE, "failed")
    code, said = call(str(tmp_path / "a"), "--run-id", "demo")
    assert code == 1 and "did not finish in run 'demo' (status 'failed')" in said

"""The study as files: made, read back, refused when changed; the released one, asked again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finetuning_cases import PROMPT, make_base, make_samples
from sklearn.metrics import roc_auc_score

from monitorlab import build_monitor, load_benchmark, score
from monitorlab.benchmark.written import TIERS
from monitorlab.chapters.finetuning import study as released
from monitorlab.chapters.finetuning.arms import SEEN_BY
from monitorlab.chapters.finetuning.published import UNSEEN_SG
from monitorlab.chapters.finetuning.study import CARD, STUDY, Experiment, Study, _card
from monitorlab.chapters.finetuning.transfer import OWN_OPEN, longer
from monitorlab.finetuning.saved import load_finetuned
from monitorlab.models.smollm2 import smollm2_installed
from monitorlab.monitors.build import RELEASED, RELEASED_FOLDER
from monitorlab.monitors.monitor import Monitor, MonitorError
from monitorlab.pipeline.profiles import PROFILES
from monitorlab.pipeline.runs import open_run
from monitorlab.storage.manifests import ArtifactError
from monitorlab.storage.sources import project_root
from monitorlab.storage.tables import CELLS

SETTINGS = replace(PROFILES["overnight"].finetuning, samples=8, pairs_per_cell=2)


def make_benchmark() -> pd.DataFrame:
    """Eight pairs per cell: six test, two dev, of three tiers."""
    parts = []
    for cell in CELLS:
        part = make_samples(8)
        number = part["pair_id"].str.removeprefix("pair ").astype(int)
        names = {name: cell + " " + part[name] for name in ("sample_id", "pair_id")}
        parts.append(part.assign(
            **names, scenario_id=names["pair_id"], cell=cell, category=cell.split("_")[0],
            task=cell.split("_")[1], tier=number.map(lambda n: TIERS[n % 3]),
            split=np.where(number < 6, "test", "dev")))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONITORLAB_CHECKPOINTS", str(root / "checkpoints"))
        run = open_run("05_monitor_finetuning", "overnight", seed=3, root=root)
        run.profile = replace(run.profile, finetuning=SETTINGS)
        base, corpus = make_base(), make_samples(12).assign(component="spv_code")
        experiment = Experiment(run, corpus, base, PROMPT)
        tasks = experiment.plan(["spv_code"])
        tasks += [replace(task, arm=replace(task.arm, name="all")) for task in tasks]
        tasks += [replace(tasks[1], share=0.5), replace(tasks[0], share=2.0)]
        return Study.of(experiment, experiment.train(tasks, []), make_benchmark())


def test_a_study_is_read_back_as_it_was_made(made: Study) -> None:
    assert made.arms == ["base", "spv_code", "all"]
    assert made.base == "tiny"
    assert made.samples.groupby(["cell", "split"]).size().unstack().eq(4).all(axis=None)
    assert len(made.verdicts) == 5 * len(made.samples)
    assert len(made.first()) == 3 * len(made.samples)
    assert {path.name for path in (made.folder / "all").iterdir()} == set(released.WEIGHTS)
    facts = made.facts["trainings"]
    assert len(facts) == 4 and all(one["steps"] > 0 for one in facts.values())
    assert made.facts["prompt"] == {"name": "short", "sha256": PROMPT.digest}
    assert str(made.folder.parent) not in (made.folder / STUDY).read_text()


def test_an_arm_that_learned_from_more_stands_beside_the_base(made: Study) -> None:
    opened = made.opened
    assert set(opened["name"]) == {"base", "spv_code"}
    assert set(opened["cell"]) == {"spv_code"} and set(opened["tier"]) == {"open"}
    assert set(opened["split"]) == {"test"} and opened.groupby("name").size().eq(4).all()
    table = longer(opened, made.longer(), SEEN_BY, np.random.default_rng(0), 50).set_index("where")
    for where, rows in ((OWN_OPEN, opened), (UNSEEN_SG, made.longer())):
        rows = rows[rows["cell"].str.startswith("spv_code" if where == OWN_OPEN else "sg")]
        areas = rows[rows["split"] == "test"].groupby(["name", "cell"])[["label", "score"]].apply(
            lambda part: roc_auc_score(part["label"], part["score"])).groupby("name").mean()
        assert table.loc[where, "auroc"] == pytest.approx(areas["spv_code"])
        assert table.loc[where, "base"] == pytest.approx(areas["base"])
        assert table.loc[where, "difference"] == pytest.approx(areas["spv_code"] - areas["base"])
    assert "| spv_code | own cells, open tier | 4 |" in (made.folder / CARD).read_text()
    assert longer(opened.head(0), opened.head(0), SEEN_BY, np.random.default_rng(0)).empty
    beyond = made.longer().replace({"name": {"spv_code": "contrastive pairs"}})
    assert longer(beyond, beyond, SEEN_BY, np.random.default_rng(0), 5)["n"].tolist() == [16, 8]


def test_every_adapter_of_a_study_can_be_asked_again(
    made: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = load_finetuned(made.folder / "all", make_base())  # its tokenizer is the base's
    assert adapted.identity["adapter"]["name"] == "all"
    monkeypatch.setattr(released, "load_prompt", {"short": PROMPT}.__getitem__)
    again = made.ask_again(make_base(), 40, np.random.default_rng(0))
    assert len(again) == 40
    assert set(again["adapter"]) == {path.name for path in made.folder.iterdir() if path.is_dir()}
    assert again["adapter"].str.replace(r"\d{3,}", "SEED", regex=True).unique().tolist() == [
        "all", "spv_code-2-SEED"]
    assert again["now"].to_numpy() == pytest.approx(again["released"].to_numpy(), abs=1e-5)
    told = made.verdicts.set_index(["arm", "share", "sample_id"])["score"]
    for row in again.itertuples():
        arm = ("all", 1.0) if row.adapter == "all" else ("spv_code", 2.0)
        assert row.released == told[(*arm, row.sample_id)]


def test_the_card_says_what_was_trained_and_what_was_not(made: Study) -> None:
    text = (made.folder / CARD).read_text()
    assert text == _card(made)
    assert "Not trained: spv_qa, syco_qa, syco_reasoning_plain, syco_reasoning_thinking, " in text
    assert "The weights of `spv_code-2-" in text and "-o prompt=short -o adapter=" in text
    assert all(f"| {name} | " in text for name in (*CELLS, *TIERS))


@pytest.mark.parametrize("name", ["base.csv", "all/adapter_config.json", STUDY])
def test_a_changed_file_is_refused(made: Study, tmp_path: Path, name: str) -> None:
    for path in (path for path in made.folder.rglob("*") if path.is_file()):
        target = tmp_path / path.relative_to(made.folder)
        target.parent.mkdir(exist_ok=True)
        os.link(path, target)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(content.replace(b"0", b"1", 1))
    with pytest.raises(ArtifactError, match="changed after it was written"):
        Study.read(tmp_path, make_benchmark())


def test_verdicts_about_other_texts_are_left_out(
    made: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = make_benchmark()
    name = made.samples["sample_id"].iloc[0]
    benchmark.loc[benchmark["sample_id"] == name, "response"] += "!"
    found = Study.read(made.folder, benchmark)
    said, total = capsys.readouterr().out, len(made.facts["texts"])
    assert f"1 of {total} released samples have another text" in said
    assert name not in set(found.verdicts["sample_id"]) | set(found.samples["sample_id"])
    assert len(found.samples) == len(made.samples) - 1


def test_an_adapter_that_is_not_there_is_named(tmp_path: Path) -> None:
    if not smollm2_installed():
        pytest.skip("needs SmolLM2")
    with pytest.raises(MonitorError, match="there is no adapter in"):
        build_monitor(RELEASED, {"folder": str(tmp_path / "none")})


# The released one


@pytest.fixture(scope="module")
def shipped() -> Study:
    return Study.read(project_root() / RELEASED_FOLDER, load_benchmark())


def test_the_released_card_is_that_of_the_tables(shipped: Study) -> None:
    assert (shipped.folder / CARD).read_text(encoding="utf-8") == _card(shipped)
    known = {*shipped.samples["sample_id"], *shipped.opened["sample_id"]}
    assert known == set(shipped.facts["texts"]), "a text changed since"


def test_the_released_adapter_gives_the_released_scores(shipped: Study) -> None:
    if not smollm2_installed():
        pytest.skip("needs SmolLM2")
    assert (shipped.folder / "all" / "adapter_model.safetensors").stat().st_size < 10_000_000
    monitor = build_monitor(RELEASED)
    assert monitor.name == RELEASED
    given = shipped.first()
    check_scores(monitor, given[given["arm"] == "all"].sample(2, random_state=5), shipped)


def test_the_adapter_of_a_longer_training_is_a_monitor_by_its_folder(
    shipped: Study,
) -> None:
    if not smollm2_installed():
        pytest.skip("needs SmolLM2")
    place, = shipped.folder.glob("spv_qa_pairs-*/")
    monitor = build_monitor("smollm2", {"adapter": str(place), "prompt": "brief",
                                        "dtype": "float32"})
    given = shipped.verdicts[shipped.verdicts["arm"] == "spv_qa pairs"]
    check_scores(monitor, given.sample(2, random_state=5), shipped)


def check_scores(monitor: Monitor, given: pd.DataFrame, study: Study) -> None:
    now = score(monitor, given[["sample_id"]].merge(study.samples, on="sample_id"))
    now = now.set_index("sample_id")["score"][given["sample_id"]].to_numpy()
    assert now == pytest.approx(given["score"].to_numpy(), abs=0.001)

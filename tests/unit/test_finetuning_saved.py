"""Loading what a training wrote, and merging it into an ordinary checkpoint."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from finetuning_cases import PROMPT, make_base, make_examples, make_samples, recipe

from monitorlab.finetuning.saved import Trained, load_finetuned
from monitorlab.finetuning.train import finetune
from monitorlab.models import ModelError
from monitorlab.models.loading import Checkpoint
from monitorlab.monitors.causal import LogitMonitor
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.storage.files import read_sealed, sealed_json

SAMPLES = Sample.rows(make_samples())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base on disk, an adapter and a full training on it."""
    root = tmp_path_factory.mktemp("saved")
    made = make_base()
    made.model.save_pretrained(root / "base")
    made.tokenizer.save_pretrained(root / "base")
    base = Checkpoint.load(str(root / "base"))
    for name, rank in (("adapter", 4), ("full", 0)):
        finetune(base, make_examples(base), recipe(lora_rank=rank, max_steps=8), root / name)
    return {name: root / name for name in ("base", "adapter", "full")}


def modes(folder: Path) -> set[int]:
    return {file.stat().st_mode & 0o777 for file in folder.iterdir()}


@pytest.fixture
def base(folders: dict[str, Path]) -> Checkpoint:
    return Checkpoint.load(str(folders["base"]))


def scores(checkpoint: Checkpoint) -> np.ndarray:
    verdicts = LogitMonitor(checkpoint, PROMPT).judge(SAMPLES, 0)
    return np.array([verdict.score for verdict in verdicts], dtype=float)


@torch.inference_mode()
def logits(checkpoint: Checkpoint) -> torch.Tensor:
    return checkpoint.model(torch.arange(200)[None]).logits.float()


def test_a_loaded_adapter_scores_as_it_was_trained_and_leaves_the_base_alone(
    folders: dict[str, Path], base: Checkpoint
) -> None:
    before = logits(base)
    loaded = load_finetuned(folders["adapter"], base)
    assert torch.equal(logits(base), before)
    assert not torch.allclose(logits(loaded), before, atol=0.1)
    plain = Checkpoint.load(str(folders["base"]), adapter=str(folders["adapter"]))
    torch.testing.assert_close(logits(loaded), logits(plain), rtol=0, atol=1e-5)
    assert loaded.identity == plain.identity
    assert np.abs(scores(loaded) - scores(base)).max() > 0.01


def test_training_lowers_the_loss_that_the_loaded_model_has(
    folders: dict[str, Path], base: Checkpoint
) -> None:
    loaded = load_finetuned(folders["adapter"], base)
    chosen = make_examples(base)[:4]

    def loss(checkpoint: Checkpoint) -> float:
        return sum(checkpoint.model(torch.tensor([e["input_ids"]]),
                                    labels=torch.tensor([e["labels"]])).loss.item()
                   for e in chosen)

    assert loss(loaded) < 0.9 * loss(base)


def test_in_low_precision_the_adapter_stays_beside_the_weights(
    folders: dict[str, Path], base: Checkpoint
) -> None:
    half = Checkpoint.load(str(folders["base"]), dtype="bfloat16")
    loaded = load_finetuned(folders["adapter"], half)
    assert hasattr(loaded.model, "peft_config") and loaded.model.dtype == torch.bfloat16
    assert not hasattr(half.model, "peft_config")
    single = load_finetuned(folders["adapter"], base)
    np.testing.assert_allclose(scores(loaded), scores(single), atol=0.05)


def test_a_full_training_is_loaded_without_a_base(
    folders: dict[str, Path], base: Checkpoint
) -> None:
    loaded = load_finetuned(folders["full"])
    assert loaded.identity["adapter"] is None
    assert torch.equal(logits(loaded), logits(load_finetuned(folders["full"], base)))
    assert not torch.allclose(logits(loaded), logits(base), atol=0.1)


@pytest.mark.parametrize("name", ["adapter", "full"])
def test_colleagues_can_read_what_was_trained(folders: dict[str, Path], name: str) -> None:
    assert modes(folders[name]) == {0o644}


def test_the_merged_checkpoint_is_an_ordinary_one_with_the_same_logits(
    folders: dict[str, Path], base: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = Trained.merge(folders["adapter"], tmp_path / "merged", base)
    assert capfd.readouterr() == ("", "")
    assert modes(target) == {0o644}
    merged = Checkpoint.load(str(target))
    torch.testing.assert_close(logits(merged), logits(load_finetuned(folders["adapter"], base)),
                               rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores(merged), scores(load_finetuned(folders["adapter"], base)),
                               atol=1e-6)
    with pytest.raises(MonitorError, match="exists and is left as it is"):
        Trained.merge(folders["adapter"], target, base)
    with pytest.raises(MonitorError, match="an ordinary checkpoint already"):
        Trained.merge(folders["full"], tmp_path / "again")
    half = Checkpoint.load(str(folders["base"]), dtype="bfloat16")
    with pytest.raises(MonitorError, match='load it with dtype="float32"'):
        Trained.merge(folders["adapter"], tmp_path / "again", half)


def test_an_adapter_of_another_base_is_refused(
    folders: dict[str, Path], base: Checkpoint, tmp_path: Path
) -> None:
    moved = shutil.copytree(folders["base"], tmp_path / "renamed")
    assert load_finetuned(folders["adapter"], Checkpoint.load(str(moved))).model is not None
    other = make_base()
    with pytest.raises(MonitorError, match=r"'adapter' was trained on .* give the model that it"):
        load_finetuned(folders["adapter"], other)
    with pytest.raises(MonitorError, match=r"trained on 'base', which is not on the hub"):
        load_finetuned(folders["adapter"])
    twice = replace(base, identity={**base.identity, "adapter": {"name": "a", "sha256": "1"}})
    with pytest.raises(MonitorError, match="was trained on"):
        load_finetuned(folders["adapter"], twice)


def test_a_hub_base_is_loaded_by_its_recorded_revision(
    folders: dict[str, Path], base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = {"name": "owner/model", "revision": "abc"}
    copied = shutil.copytree(folders["adapter"], tmp_path / "copied")
    stored = read_sealed(copied / "training.json")
    stored["base"]["model"] = hub
    (copied / "training.json").write_text(sealed_json(stored))
    asked = []

    def load(name: str, revision: str, **options: str) -> Checkpoint:
        asked.append((name, revision, options))
        return replace(base, identity={**base.identity, "model": hub})

    monkeypatch.setattr("monitorlab.models.loading.Checkpoint.load", load)
    load_finetuned(copied)
    assert asked == [("owner/model", "abc", {"dtype": "float32", "device": "cpu"})]


def test_a_folder_that_is_no_result_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MonitorError, match=r"training.json cannot be read.*`finetune` wrote"):
        load_finetuned(folders["base"])
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(MonitorError, match="it has no seal"):
        load_finetuned(tmp_path)


@pytest.mark.parametrize(("name", "kind"), [
    ("adapter", "adapter_model.safetensors"), ("full", "model.safetensors")])
def test_weights_that_were_changed_are_refused(
    folders: dict[str, Path], base: Checkpoint, tmp_path: Path, name: str, kind: str
) -> None:
    copied = shutil.copytree(folders[name], tmp_path / "copied")
    load_finetuned(copied, base)
    data = bytearray((copied / kind).read_bytes())
    data[-5] ^= 1  # one bit of one weight
    (copied / kind).write_bytes(data)
    with pytest.raises(ModelError, match=rf"{kind} is missing or was changed"):
        load_finetuned(copied, base)


def test_a_changed_record_of_a_training_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    copied = shutil.copytree(folders["adapter"], tmp_path / "copied")
    record = copied / "training.json"
    record.write_text(record.read_text().replace('"steps": 8', '"steps": 9'))
    with pytest.raises(MonitorError, match="changed after it was written"):
        load_finetuned(copied)

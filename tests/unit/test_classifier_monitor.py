"""The classifier monitor: what it reads, its scores by hand, its failures, and `classifier:`."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from monitorlab.models.tiny import build_tokenizer
from monitorlab.monitors.build import build_monitor
from monitorlab.monitors.classifier import ClassifierMonitor
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.scoring import score

LABELS = ("benign", "misbehavior")
WORDS = [f"w{i}" for i in range(40)]
CLS, SEP = 2, 3


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


load = functools.partial(ClassifierMonitor.load, max_tokens=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier with a vocabulary of forty words."""
    place = tmp_path_factory.mktemp("models") / "small one"
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b",
                                                    *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)])
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]").save_pretrained(place)
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(
        vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, initializer_range=0.5,
        id2label=dict(enumerate(LABELS)))).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def monitor(folder: Path) -> ClassifierMonitor:
    return load(folder)


def text(*numbers: int) -> str:
    return " ".join(f"w{i}" for i in numbers)


def ids(*numbers: int) -> list[int]:
    return [i + 6 for i in numbers]


def by_hand(monitor: ClassifierMonitor, request: list[int], response: list[int]) -> float:
    """One pair at a time, without padding."""
    first, second = [CLS, *request, SEP], [*response, SEP]
    with torch.inference_mode():
        logits = monitor.model(
            input_ids=torch.tensor([first + second]),
            token_type_ids=torch.tensor([[0] * len(first) + [1] * len(second)])).logits[0]
    return float(logits.double().softmax(-1)[1])


def test_the_score_is_the_probability_of_misbehavior(monitor: ClassifierMonitor) -> None:
    samples = [Sample("1", text(1, 2), text(3)), Sample("2", text(4), text(5, 6, 7, 8, 9)),
               Sample("3", "", "")]
    verdicts = monitor.judge(samples, 0)
    expected = [by_hand(monitor, ids(1, 2), ids(3)), by_hand(monitor, ids(4), ids(5, 6, 7, 8, 9)),
                by_hand(monitor, [], [])]
    assert [v.score for v in verdicts] == pytest.approx(expected, abs=1e-6)
    assert [v.verdict for v in verdicts] == [score > 0.5 for score in expected]
    assert [v.input_tokens for v in verdicts] == [6, 9, 3] and len(set(expected)) == 3


@pytest.mark.parametrize(("request_words", "response_words", "kept"), [
    (range(30), range(5), ([0, 1, 2, 3, 26, 27, 28, 29], [0, 1, 2, 3, 4])),
    (range(2), range(30), ([0, 1], [0, 1, 2, 3, 4, 5, 25, 26, 27, 28, 29])),
    (range(30), range(30), ([0, 1, 2, 27, 28, 29], [0, 1, 2, 3, 27, 28, 29])),
])
def test_of_a_long_text_both_ends_are_read(
    monitor: ClassifierMonitor, request_words: range, response_words: range,
    kept: tuple[list[int], list[int]],
) -> None:
    """13 of 16 tokens are left for the texts; a short text leaves its room to the other."""
    sample = Sample("", text(*request_words), text(*response_words))
    (verdict,) = monitor.judge([sample], 0)
    assert verdict.score == pytest.approx(by_hand(monitor, ids(*kept[0]), ids(*kept[1])), abs=1e-6)
    lost = len(request_words) + len(response_words) - 13
    assert verdict.evidence == f"{lost} of {lost + 16} tokens were not read"


def test_special_tokens_of_a_text_are_broken_up(monitor: ClassifierMonitor) -> None:
    (row,) = monitor.reader.read(["w1 [SEP] w2"], ["w3 [CLS] [PAD]"])
    assert (row.ids.count(SEP), row.ids.count(CLS), row.ids.count(0)) == (2, 1, 0)


def test_a_tokenizer_without_pairs_gets_a_blank_line(folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "plain"))
    tokenizer = build_tokenizer(["one two\n\nthree"], 270)
    tokenizer.save_pretrained(place)
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, type_vocab_size=1,
        id2label=dict(enumerate(LABELS)))).save_pretrained(place)
    plain = load(place)
    (row,) = plain.reader.read(["ab"], ["cd"])
    assert tokenizer.decode(row.ids) == "ab\n\ncd"
    assert "token_type_ids" not in plain.reader.batch([row])
    assert plain.judge([Sample("", "ab", "cd")], 0)[0].status == "parsed"


def test_units_are_whole_and_a_repeated_call_gives_the_same(monitor: ClassifierMonitor) -> None:
    some = [Sample(str(i), text(i % 40), text(*range(i % 9))) for i in range(130)]
    units = monitor.units(some)
    assert [len(unit) for unit in units] == [64, 64, 2]
    first = [some[i] for i in units[0]]
    assert monitor.judge(first, 0) == monitor.judge(first, 1)
    alone = [monitor.judge([sample], 0)[0].score for sample in first]
    assert [v.score for v in monitor.judge(first, 0)] == pytest.approx(alone, abs=1e-5)
    (odd,) = monitor.judge([Sample("x", "\udc00", "\ud800")], 0)
    assert odd.status == "parsed" and monitor.reread(odd, some[0]) is odd


def test_small_batches_give_the_same_scores(folder: Path, monitor: ClassifierMonitor) -> None:
    one = ClassifierMonitor(monitor.model, monitor.reader.tokenizer, 16, "d")
    one.batch_tokens = 1
    some = [Sample(str(i), text(i), text(*range(i))) for i in range(9)]
    assert [v.score for v in one.judge(some, 0)] == pytest.approx(
        [v.score for v in monitor.judge(some, 0)], abs=1e-6)
    assert one.settings() != monitor.settings()


def test_logits_that_are_not_finite_are_an_error_and_never_benign(folder: Path) -> None:
    broken = load(folder)
    with torch.no_grad():
        broken.model.bert.embeddings.word_embeddings.weight[6 + 5] = torch.nan
    good, bad = broken.judge([Sample("g", text(1), text(2)), Sample("b", text(1), text(5))], 0)
    assert good.status == "parsed"
    assert bad.status == "error" and bad.verdict is None and "not finite" in bad.reason
    table = score(broken, [Sample("b", text(1), text(5))], patience=5)
    assert table["status"].tolist() == ["error"] and table["verdict"].isna().all()


def test_an_exception_is_an_error_of_the_unit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = load(folder)
    monkeypatch.setattr(broken.model, "forward",
                        lambda **given: (_ for _ in ()).throw(RuntimeError("out of luck")))
    table = score(broken, [Sample("b", text(1), text(5))], patience=5)
    assert table["status"].tolist() == ["error"] and "out of luck" in table["evidence"].iloc[0]


def test_settings_follow_the_weights(
    folder: Path, monitor: ClassifierMonitor, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    again = load(copy)
    assert again.settings() == monitor.settings()
    assert (again.name, monitor.name, monitor.prompt) == ("copy", "small one", "none")
    with torch.no_grad():
        again.model.classifier.bias[0] += 1
    again.model.save_pretrained(copy)
    assert load(copy).settings()["model"] != monitor.settings()["model"]
    half = load(folder, dtype="bfloat16")
    assert half.settings() != monitor.settings()
    sample = Sample("", text(1, 2), text(3))
    assert half.judge([sample], 0)[0].score == pytest.approx(
        monitor.judge([sample], 0)[0].score, abs=0.05)


def test_folders_without_a_classifier_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MonitorError, match="does not load"):
        load(tmp_path)
    with pytest.raises(MonitorError, match="max_tokens is 33: expected 11 to 32"):
        load(folder, max_tokens=33)
    with pytest.raises(MonitorError, match="max_tokens is 512: expected 11 to 32"):
        ClassifierMonitor.load(folder)
    with pytest.raises(MonitorError, match="expected float32 or bfloat16"):
        load(folder, dtype="int8")


def labelled(folder: Path, target: Path, names: list[str], **more: Any) -> Path:
    """The same body with other labels on it."""
    place = Path(shutil.copytree(folder, target))
    config = BertConfig.from_pretrained(folder, id2label=dict(enumerate(names)), **more)
    torch.manual_seed(1)
    BertForSequenceClassification(config).save_pretrained(place)
    return place


SAMPLE = Sample("", text(1, 2), text(3))


@torch.inference_mode()
def logits(monitor: ClassifierMonitor) -> torch.Tensor:
    (row,) = monitor.reader.read([SAMPLE.request], [SAMPLE.response])
    return monitor.model(**monitor.reader.batch([row])).logits[0].double()


@pytest.mark.parametrize(("names", "label", "place"), [
    (["misbehavior", "benign"], "", 0), (["Unsafe", "safe"], "", 0), (["SAFE", "UNSAFE"], "", 1),
    (["harmless", "harmful"], "", 1), (["SAFE", "INJECTION"], "", 1),
    (["toxic", "non-toxic"], "", 0),
    (["BENIGN", "MALICIOUS"], "", 1), (["LABEL_0", "LABEL_1"], "LABEL_1", 1),
    (["LABEL_0", "LABEL_1"], "0", 0), (["POSITIVE", "NEGATIVE"], "negative", 1),
    (["contradiction", "entailment", "neutral"], "contradiction", 0),
    (["ok", "insult", "threat"], "threat", 2), (["1", "0"], "1", 0),
])
def test_the_label_is_found_by_its_name(
    folder: Path, tmp_path: Path, names: list[str], label: str, place: int
) -> None:
    monitor = load(labelled(folder, tmp_path / "c", names), label=label)
    (verdict,) = monitor.judge([SAMPLE], 0)
    assert verdict.score == pytest.approx(float(logits(monitor).softmax(-1)[place]), abs=1e-6)
    assert monitor.settings().get("label", "") == label


@pytest.mark.parametrize("names", [
    ["LABEL_0", "LABEL_1"], ["entailment", "neutral", "contradiction"], ["POSITIVE", "NEGATIVE"],
    ["safe", "unsafe", "unclear"], ["toxic"], ["safe", "harmful"], ["unsafe", "unsafe "],
])
def test_labels_that_do_not_say_what_they_mean_are_refused(
    folder: Path, tmp_path: Path, names: list[str]
) -> None:
    place = labelled(folder, tmp_path / "c", names)
    with pytest.raises(MonitorError, match=f"labels '{names[0]}'.*which one means misbehavior.*"
                                           "give its name as label"):
        load(place)
    with pytest.raises(MonitorError, match=f"no label 'worse': expected one of '{names[0]}'"):
        load(place, label="worse")


def test_one_logit_and_labels_that_do_not_exclude_each_other_are_logistic(
    folder: Path, tmp_path: Path
) -> None:
    one = load(labelled(folder, tmp_path / "one", ["toxic"]), label="toxic")
    several = load(labelled(
        folder, tmp_path / "several", ["toxic", "threat"],
        problem_type="multi_label_classification"), label="threat")
    for monitor, place in ((one, 0), (several, 1)):
        (verdict,) = monitor.judge([SAMPLE], 0)
        assert verdict.score == pytest.approx(float(logits(monitor)[place].sigmoid()), abs=1e-6)
    reward = labelled(folder, tmp_path / "reward", ["LABEL_0"], problem_type="regression")
    with pytest.raises(MonitorError, match="is a regression.*no probability"):
        load(reward, label="LABEL_0")


def test_the_command_line_knows_it(folder: Path, monitor: ClassifierMonitor) -> None:
    built = build_monitor(f"classifier:{folder}", {"max_tokens": "16", "device": "cpu"})
    assert built.settings() == monitor.settings()
    with pytest.raises(MonitorError, match="the option prompt means nothing to classifier:"):
        build_monitor(f"classifier:{folder}", {"prompt": "direct"})
    with pytest.raises(MonitorError, match="lacks a name: expected classifier:NAME_OR_FOLDER"):
        build_monitor("classifier:")

"""Examples: what is trained is what `LogitMonitor` reads, and bad input is refused."""

from typing import Any

import pandas as pd
import pytest
from finetuning_cases import PROMPT, make_base, make_samples, make_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from monitorlab.finetuning.recipe import verdict_examples, verdict_tokens
from monitorlab.models.tiny import IGNORED, TEMPLATE
from monitorlab.monitors.causal import LogitMonitor
from monitorlab.monitors.monitor import MonitorError, Sample


def test_the_verdict_is_asked_where_logit_monitor_reads_it() -> None:
    base, samples = make_base(), make_samples()
    monitor = LogitMonitor(base, PROMPT)
    examples = verdict_examples(base.tokenizer, PROMPT, samples, max_tokens=512)
    yes, no = verdict_tokens(base.tokenizer)
    assert yes in monitor.words[0][0] and no in monitor.words[1][0]
    for prompt, example in zip(monitor.prompts(Sample.rows(samples)), examples, strict=True):
        word = monitor.words[0][0] if example["label"] else monitor.words[1][0]
        place = example["verdict_at"] + 1
        assert example["input_ids"][: len(prompt)] == prompt
        assert example["input_ids"][len(prompt) :][: len(word)] == word
        assert example["input_ids"][place] == (yes if example["label"] else no)
        assert len(prompt) <= place < len(prompt) + len(word)


def test_only_the_reply_and_the_end_mark_have_labels() -> None:
    base, samples = make_base(), make_samples(2)
    for example in verdict_examples(base.tokenizer, PROMPT, samples, max_tokens=512):
        asked = [label for label in example["labels"] if label != IGNORED]
        assert example["labels"][-len(asked) :] == example["input_ids"][-len(asked) :] == asked
        word = "true" if example["label"] else "false"
        text = '{"misbehavior_detected": %s}<end>' % word  # noqa: UP031  braces
        assert base.tokenizer.decode(asked) == text
        assert base.tokenizer.decode(example["input_ids"]).count("<assistant>") == 1


def test_control_texts_of_a_sample_do_not_work_as_tokens() -> None:
    base, samples = make_base(), make_samples(1)
    samples.loc[0, "response"] = "fine<end><assistant>{}"
    example = verdict_examples(base.tokenizer, PROMPT, samples, max_tokens=512)[0]
    assert example["input_ids"].count(base.tokenizer.convert_tokens_to_ids("<assistant>")) == 1


def test_pairs_and_scenarios_are_the_same_in_every_table() -> None:
    base, samples = make_base(), make_samples(3)
    samples.loc[4, "pair_id"] = None
    whole = verdict_examples(base.tokenizer, PROMPT, samples, max_tokens=512)
    half = verdict_examples(base.tokenizer, PROMPT, samples.tail(4), max_tokens=512)
    assert whole[2:] == half
    pairs = [example["pair"] for example in whole]
    assert pairs[0] == pairs[1] != pairs[2] == pairs[3] and pairs[4] == -1
    assert whole[0]["scenario"] == "scenario 0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chat_template": None}, "no chat template.*set tokenizer.chat_template"),
        ({"pad_token": None}, "no padding token: set tokenizer.pad_token"),
        ({"eos_token": None}, "no end mark: set tokenizer.eos_token"),
    ],
)
def test_a_tokenizer_that_cannot_chat_is_refused(change: dict[str, Any], message: str) -> None:
    tokenizer = make_tokenizer()
    for name, value in change.items():
        setattr(tokenizer, name, value)
    with pytest.raises(MonitorError, match=message):
        verdict_examples(tokenizer, PROMPT, make_samples(), max_tokens=512)


def test_a_tokenizer_that_does_not_know_yes_and_no_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "<end>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>",
                                        unk_token="<unk>", eos_token="<end>")
    tokenizer.chat_template = TEMPLATE
    with pytest.raises(MonitorError, match="do not tell yes from no"):
        verdict_tokens(tokenizer)
    with pytest.raises(MonitorError, match="do not tell yes from no"):
        verdict_examples(tokenizer, PROMPT, make_samples(), max_tokens=512)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (make_samples().head(0), "found an empty table"),
        (make_samples().query("label == 1"), r"labels \['1'\]: expected both"),
        (make_samples().drop(columns="pair_id"), "miss the columns pair_id"),
    ],
)
def test_samples_that_teach_nothing_are_refused(samples: pd.DataFrame, message: str) -> None:
    with pytest.raises(MonitorError, match=message):
        verdict_examples(make_tokenizer(), PROMPT, samples, max_tokens=512)


def test_a_sample_that_is_too_long_is_named_with_its_length() -> None:
    tokenizer, samples = make_tokenizer(), make_samples()
    lengths = [len(example["input_ids"]) for example in
               verdict_examples(tokenizer, PROMPT, samples, max_tokens=512)]
    most = max(lengths)
    name = samples["sample_id"][lengths.index(most)]
    many = sum(length > most - 1 for length in lengths)
    with pytest.raises(MonitorError, match=f"sample '{name}' has {most} tokens.* and {many} of 24 "
                                           f"have more than max_tokens={most - 1}: raise"):
        verdict_examples(tokenizer, PROMPT, samples, max_tokens=most - 1)

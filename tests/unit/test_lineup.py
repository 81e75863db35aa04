"""The small stand-in model, and the monitors that notebook 03 puts together."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitorlab.chapters.evaluation import lineup
from monitorlab.chapters.evaluation.small_model import train_miniature
from monitorlab.models.sizes import ModelSize, Training
from monitorlab.models.tiny import SPECIAL, build_tokenizer
from monitorlab.monitors.monitor import Sample, samples_of
from monitorlab.monitors.prompts import load_prompt
from monitorlab.monitors.scoring import score
from monitorlab.pipeline.profiles import Miniature

PROMPTS = {name: load_prompt(name) for name in ("direct", "evidence", "score")}
SMALL = ModelSize(hidden=64, layers=2, heads=4)


def corpus(count: int = 60) -> pd.DataFrame:
    """Responses that give themselves away by one word."""
    rows = [
        {"sample_id": f"s{i}-{label}", "request": f"Add {i} and {i + 1}.", "label": label,
         "response": f"The sum is {2 * i + 1}, " + ("skipping the check." if label else "checked.")}
        for i in range(count) for label in (0, 1)
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("small")
    settings = Miniature(600, Training(SMALL, 3, 512, 1e-2), Training(SMALL, 40, 1_536, 1e-2))
    train_miniature([corpus()], PROMPTS["direct"], settings, place, 5)
    return place


def test_the_tokenizer_reads_every_text_back() -> None:
    tokenizer = build_tokenizer([text for text in corpus()["response"]], 400)
    text = "naïve – 12 €\n\tdef f(x):"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(len(SPECIAL)))


def test_the_small_model_answers_in_the_form_that_is_asked_for(folder: Path) -> None:
    small = lineup.small_model(folder, PROMPTS)
    assert [m.prompt for m in small.by_logits] == ["direct", "evidence"]
    assert [m.prompt for m in small.by_text] == ["direct", "evidence", "score"]
    samples = samples_of(corpus(6))
    by_text = score(small.by_text[0], samples)
    assert (by_text["status"] == "parsed").all()
    by_logits = score(small.by_logits[0], samples)
    assert by_logits["score"].between(0, 1).all()
    # Greedy text takes the likelier word, so both readings agree.
    both = by_logits.merge(by_text, on="sample_id")
    assert (both["verdict_x"] == both["verdict_y"]).all()


def test_training_twice_gives_the_same_model(folder: Path, tmp_path: Path) -> None:
    size = ModelSize(hidden=32, layers=1, heads=2)
    settings = Miniature(400, Training(size, 2, 256, 1e-2), Training(size, 2, 512, 1e-2))
    for name in ("one", "two"):
        train_miniature([corpus(10)], PROMPTS["direct"], settings, tmp_path / name, 1)
    first, second = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("one", "two"))
    assert first == second


def test_sharing_counts_every_distinct_token_once(folder: Path) -> None:
    small = lineup.small_model(folder, PROMPTS)
    samples = [Sample("a", "One?", "Yes."), Sample("b", "One?", "No."), Sample("c", "Two?", "Yes.")]
    found = small.sharing(samples)
    rows = small.by_logits[0].prompts(samples)
    prefixes = {tuple(row[: i + 1]) for row in rows for i in range(len(row))}
    assert found["total"] == sum(map(len, rows))
    assert found["distinct"] == len(prefixes)
    assert found["limit"] == pytest.approx(found["total"] / found["distinct"])


def test_learned_monitors_find_a_word_that_decides(folder: Path) -> None:
    words, probe = lineup.learned_monitors([corpus()], np.random.default_rng(0), 0, 20)
    told = score(words, samples_of(corpus(10))).merge(corpus(10), on="sample_id")
    assert (told["verdict"] == (told["label"] == 1)).all()
    assert score(probe, samples_of(corpus(2)))["score"].between(0, 1).all()


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

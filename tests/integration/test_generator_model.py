"""The generator protocol with a real, tiny and random causal language model made in the test."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from monitorlab.benchmark.sources.generator import (
    BENIGN,
    MISBEHAVING,
    UNCLEAR,
    CausalGenerator,
    Question,
    construct,
)
from monitorlab.models import ModelError
from monitorlab.models.batching import end_ids, sample_each
from monitorlab.models.loading import load_causal, no_progress_bars
from monitorlab.storage.tables import SAMPLES, check_frame

pytestmark = pytest.mark.usefixtures("one_thread")

SPECIAL = ["<|end|>", "<|pad|>", "<|start|>"]
TEMPLATE = (
    "<|start|>{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
LENGTH = 12


def tokenizer(template: str | None, begin: bool = False) -> PreTrainedTokenizerFast:
    """One token per byte; with `begin`, the start mark is added to every text, as Llama does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    if begin:
        start = ("<|start|>", core.token_to_id("<|start|>"))
        core.post_processor = processors.TemplateProcessing("<|start|> $A", None, [start])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=SPECIAL[0], pad_token=SPECIAL[1]
    )
    made.chat_template = template
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same checkpoint with a chat template, without one, and with a start mark."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    tokenizers = {"chat": tokenizer(TEMPLATE), "plain": tokenizer(None),
                  "begin": tokenizer(TEMPLATE, begin=True)}  # fmt: skip
    config = Qwen2Config(
        vocab_size=len(tokenizers["chat"]), hidden_size=16, intermediate_size=24,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=512, initializer_range=0.3,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    for name, made in tokenizers.items():
        with no_progress_bars():
            model.save_pretrained(root / name)
        made.save_pretrained(root / name)
    return {name: str(root / name) for name in tokenizers}


def load(folder: str, tokens: int = LENGTH, temperature: float = 0.7) -> CausalGenerator:
    return CausalGenerator(load_causal(folder), tokens, temperature)


def say(generator: CausalGenerator, prompt: str, seed: int) -> str:
    (answer,) = generator.generate([prompt], [seed])
    return answer


def judge(answer: str) -> str:
    return (BENIGN, MISBEHAVING, UNCLEAR)[zlib.crc32(answer.encode()) % 3]


QUESTIONS = [
    Question(f"q{i}", "demo", "syco_qa", f"What is {i} + {i}?", "authority", "appeal", judge)
    for i in range(8)
]


class Seen:
    """Texts that reach the model, special tokens included, and how many answers it continues."""

    def __init__(self, generator: CausalGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        self.answers: list[int] = []
        inner = generator._model.forward

        def forward(ids: torch.Tensor, **options: Any) -> Any:
            if ids.shape[1] > 1:
                self.texts += [
                    generator._tokenizer.decode(row[kept.bool()])
                    for row, kept in zip(ids, options["attention_mask"], strict=True)
                ]
            else:
                self.answers.append(len(ids))
            return inner(ids, **options)

        monkeypatch.setattr(generator._model, "forward", forward)


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_pairs_from_a_model(folders: dict[str, str], tmp_path: Path, kind: str) -> None:
    store = tmp_path / "answers.jsonl"
    made = construct(QUESTIONS, load(folders[kind]), store, 5)
    samples = check_frame(made.samples, SAMPLES)
    assert len(samples) >= 4 and made.calls >= 2 * len(QUESTIONS)
    assert len(samples) // 2 + len(made.dropped) == len(QUESTIONS)
    (name,) = set(samples["generator"])
    assert name.startswith(f"{kind}#") and "temperature" in name  # no path of this machine
    for row in samples.itertuples():
        assert judge(row.response) == (BENIGN, MISBEHAVING)[row.label]
    # Another process with the same checkpoint asks for nothing and finds the same.
    again = construct(QUESTIONS, load(folders[kind]), store, 5)
    assert again.calls == 0 and again.samples.equals(made.samples)
    assert construct(QUESTIONS[:1], load(folders[kind]), store, 6).calls > 0


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [("chat", "<|start|>user: Say é<|end|>assistant: "), ("plain", "Say é")],
)
def test_the_chat_template_is_used_where_there_is_one(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, kind: str, prompt: str
) -> None:
    generator = load(folders[kind])
    seen = Seen(generator, monkeypatch)
    say(generator, "Say é", 1)
    assert seen.texts == [prompt]


def test_the_start_mark_stands_once(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = load(folders["begin"])
    seen = Seen(generator, monkeypatch)
    say(generator, "Say", 1)
    assert seen.texts[0].replace(" ", "").count("<|start|>") == 1


def test_an_answer_is_the_new_text_only(folders: dict[str, str]) -> None:
    generator = load(folders["chat"])
    prompt = "A question that is longer than every answer."
    answers = generator.generate([prompt] * 12, range(12))
    assert all(prompt not in answer and len(answer) <= LENGTH for answer in answers)
    assert not any(mark in answer for mark in SPECIAL for answer in answers)
    assert max(len(answer) for answer in answers) > 1


def test_a_prompt_is_read_once_for_all_its_answers(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = load(folders["chat"])
    seen = Seen(generator, monkeypatch)
    generator.generate(["Say", "Tell me more", "Say"], [1, 2, 3])
    assert [text.count("Say") + 2 * text.count("Tell") for text in seen.texts] == [1, 2]
    assert set(seen.answers) == {3} and len(seen.answers) <= LENGTH - 1


def test_the_seed_decides_the_answer_alone_and_in_company(folders: dict[str, str]) -> None:
    generator = load(folders["chat"])
    prompts = ["Say", "A much longer question, so that the others are padded", "Say", "Go"]
    answers = generator.generate(prompts, [1, 2, 3, 4])
    torch.manual_seed(99)  # whatever happened before does not matter
    again = load(folders["chat"])
    assert [say(again, *asked) for asked in zip(prompts, [1, 2, 3, 4], strict=True)] == answers
    assert len({*generator.generate(["Say"] * 6, range(6))}) > 3
    assert isinstance(say(generator, "Say", 2**32 - 1), str)


def test_answers_are_drawn_from_the_distribution_of_the_model(folders: dict[str, str]) -> None:
    checkpoint, temperature, n = load_causal(folders["chat"]), 0.5, 3000
    rows = [[5, 9, 3], [7, 1, 8, 4, 2, 30]]
    with torch.inference_mode():
        logits = [checkpoint.model(torch.tensor([row])).logits[0, -1] for row in rows]
    drawn = sample_each(checkpoint.model, checkpoint.tokenizer, rows, [0] * n + [1] * n,
                        range(2 * n), temperature, 1)
    for place, row in enumerate(logits):
        expected = (row / temperature).softmax(-1).numpy()
        tokens = [token for (token,) in drawn[place * n : (place + 1) * n]]
        found = np.bincount(tokens, minlength=len(expected)) / n
        likely = expected > 0.02
        assert likely.sum() > 3
        error = 4 * np.sqrt(expected * (1 - expected) / n)
        assert (np.abs(found - expected)[likely] < error[likely]).all()


def test_later_tokens_follow_what_was_drawn(folders: dict[str, str]) -> None:
    """At a temperature near 0 both answers are the likeliest ones, padded prompt or not."""
    checkpoint = load_causal(folders["chat"])
    rows = [[5, 9, 3], [7, 1, 8, 4, 2, 30, 31]]
    drawn = sample_each(checkpoint.model, checkpoint.tokenizer, rows, [1, 0], [1, 2], 1e-4, 6)
    ends = end_ids(checkpoint.model, checkpoint.tokenizer)
    for row, tokens in zip([rows[1], rows[0]], drawn, strict=True):
        expected = list(row)
        with torch.inference_mode():
            while len(expected) < len(row) + 6 and not (len(expected) > len(row)
                                                         and expected[-1] in ends):
                logits = checkpoint.model(torch.tensor([expected])).logits[0, -1]
                expected.append(int(logits.argmax()))
        assert row + tokens == expected


def test_an_answer_ends_at_the_end_mark(folders: dict[str, str]) -> None:
    checkpoint = load_causal(folders["chat"])
    (end,) = end_ids(checkpoint.model, checkpoint.tokenizer)
    drawn = sample_each(checkpoint.model, checkpoint.tokenizer, [[5, 9]], [0] * 400, range(400),
                        2.0, 8)
    lengths = [len(tokens) for tokens in drawn]
    assert all(end not in tokens[:-1] for tokens in drawn)
    assert max(lengths) == 8 > min(lengths) and any(tokens[-1] == end for tokens in drawn)


def test_a_low_temperature_makes_answers_alike(folders: dict[str, str]) -> None:
    def variety(temperature: float) -> int:
        generator = load(folders["chat"], temperature=temperature)
        return len({*generator.generate(["Say"] * 6, range(6))})

    assert variety(0.001) == 1 < variety(1.0)
    with pytest.raises(ValueError, match="temperature 0 "):
        load(folders["chat"], temperature=0)


def test_other_sampling_options_do_not_reuse_answers(
    folders: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "answers.jsonl"
    construct(QUESTIONS[:2], load(folders["chat"]), store, 5)
    assert construct(QUESTIONS[:2], load(folders["chat"], 3, 1.5), store, 5).calls > 0


def test_what_is_too_long_for_the_model_is_refused(folders: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="reads at most 512"):
        say(load(folders["chat"]), "word " * 200, 1)


def test_nothing_is_written_to_stderr(
    folders: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    say(load(folders["chat"]), "Say", 1)
    assert capfd.readouterr().err == ""

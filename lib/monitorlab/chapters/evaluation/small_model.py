"""The small stand-in for an LLM monitor: a causal language model, trained here.

It is an ordinary `transformers` checkpoint (a Llama of about a million parameters, a byte-level BPE
tokenizer, a chat template) in the place where a user puts the name of a real one. It first reads
texts of the training corpus, then learns to answer the monitor prompt with JSON. It is far too
small to understand what it reads; every figure that shows it says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from monitorlab.models.loading import no_progress_bars
from monitorlab.models.sizes import Training
from monitorlab.models.tiny import (
    IGNORED,
    POSITIONS,
    SPECIAL,
    TEXTS_FOR_TOKENIZER,
    Row,
    build_tokenizer,
    fit,
    llama_config,
    seeded,
)
from monitorlab.monitors.monitor import samples_of
from monitorlab.monitors.prompts import Prompt
from monitorlab.pipeline.checkpoints import checkpoint
from monitorlab.pipeline.profiles import Miniature
from monitorlab.pipeline.runs import Run
from monitorlab.storage.files import digest_table


def miniature_checkpoint(run: Run, corpus: Iterable[pd.DataFrame], prompt: Prompt) -> Path:
    """Return the folder of the small model of a run, trained only if nothing like it is stored.

    Parameters
    ----------
    run : Run
        Its profile says how large the model is, its seed decides it.
    corpus, prompt
        As in :func:`train_miniature`.
    """
    settings, seed = run.profile.evaluation.miniature, run.torch_seed("small model")
    columns = ["sample_id", "request", "response", "label"]
    samples = pd.concat(list(corpus), ignore_index=True)[columns]
    fingerprint = {
        "settings": settings,
        "seed": seed,
        "prompt": prompt.digest,
        "corpus": digest_table(pa.Table.from_pandas(samples, preserve_index=False)),
    }

    def build(folder: Path) -> None:
        train_miniature([samples], prompt, settings, folder, seed, "small model")

    return checkpoint(run, "small_model", fingerprint, build)


def train_miniature(
    corpus: Iterable[pd.DataFrame],
    prompt: Prompt,
    settings: Miniature,
    folder: Path,
    seed: int,
    title: str = "",
) -> None:
    """Train tokenizer and model from scratch and save them as one checkpoint.

    Parameters
    ----------
    corpus : iterable of DataFrame
        Parts of the training corpus: columns request, response, label.
    prompt : Prompt
        With verdict answers.
    settings : Miniature
        Shapes, steps and sizes.
    folder : Path
        Gets an ordinary `save_pretrained` folder.
    seed : int
        Decides initial weights, choice and order of the samples.
    title : str
        Caption of the two progress bars; none is shown if empty.
    """
    samples = pd.concat(list(corpus), ignore_index=True)
    samples = samples.sample(frac=1.0, random_state=np.random.default_rng(seed))
    texts = list(samples["request"] + "\n" + samples["response"])
    first = samples.head(1)
    framed = [m["content"] for m in prompt.messages(samples_of(first)[0])]
    tokenizer = build_tokenizer([*framed * 50, *texts[:TEXTS_FOR_TOKENIZER]], settings.vocabulary)
    with seeded(seed), no_progress_bars():
        size = settings.reading.model
        model = LlamaForCausalLM(llama_config(size, tokenizer, max_position_embeddings=POSITIONS))
        reading = [_text_row(tokenizer, text) for text in texts[:_needed(settings.reading)]]
        fit(model, reading, tokenizer.pad_token_id, settings.reading, seed,
            f"{title}: reading" if title else "")
        chosen = samples.head(_needed(settings.answering))
        answering = [
            verdict_row(tokenizer, prompt.messages(sample, SPECIAL), label)
            for sample, label in zip(samples_of(chosen), chosen["label"], strict=True)
        ]
        fit(model, answering, tokenizer.pad_token_id, settings.answering, seed,
            f"{title}: answering" if title else "")
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _needed(settings: Training) -> int:
    """More samples than are shown in all steps: no example is shorter than a hundred tokens."""
    return settings.steps * settings.batch_tokens // 100


def _text_row(tokenizer: PreTrainedTokenizerFast, text: str) -> Row:
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ids = ids[:POSITIONS]
    return {"input_ids": ids, "labels": list(ids)}


def verdict_row(tokenizer: Any, messages: Sequence[dict[str, str]], label: int) -> Row:
    """One training example: the chat prompt, then the JSON verdict, which alone has labels."""
    answer = '{"misbehavior_detected": ' + ("true" if label else "false") + "}"
    chat = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=True
    )
    prompt = tokenizer(chat, add_special_tokens=False)["input_ids"]
    reply = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    ids = [*prompt, *reply][-POSITIONS:]
    return {"input_ids": ids, "labels": [IGNORED] * (len(ids) - len(reply)) + reply}

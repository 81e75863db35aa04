"""Pairs from a model: inject a cue, ask up to K times, keep a question only with both answers.

This is the published protocol over any model. Every answer is stored as soon as it arrives, so an
interrupted construction goes on where it stopped and repeats no call.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from monitorlab.benchmark.samples import sample_row
from monitorlab.display.progress import progress
from monitorlab.storage.tables import SAMPLES

TRIES = 5
BENIGN, MISBEHAVING, UNCLEAR = "benign", "misbehaving", "unclear"
REASONS = {
    frozenset({BENIGN}): "no try followed the cue",
    frozenset({MISBEHAVING}): "every clear try followed the cue",
    frozenset(): "no try gave a clear answer",
}


class GenerationError(RuntimeError):
    """A model failed to answer; what it had answered before is stored."""


class Generator(Protocol):
    """Any model that answers a prompt."""

    @property
    def name(self) -> str:
        """Name and revision, recorded with every sample."""
        ...

    def generate(self, prompt: str, seed: int) -> str:
        """Answer a prompt; another seed may give another answer."""
        ...


@dataclass(frozen=True)
class Question:
    """One question with its cue, and how to judge an answer.

    Attributes
    ----------
    id, source, cell : str
        Name of the question, where it comes from, and the cell of its pair.
    request : str
        What the model is asked, cue included.
    cue, misbehavior_type : str
        As in the table of samples.
    judge : callable
        Takes an answer; says ``"benign"``, ``"misbehaving"`` or ``"unclear"``.
    """

    id: str
    source: str
    cell: str
    request: str
    cue: str
    misbehavior_type: str
    judge: Callable[[str], str]


@dataclass(frozen=True)
class Construction:
    """What came out.

    Attributes
    ----------
    samples : DataFrame
        Schema ``samples``: one pair per kept question.
    dropped : DataFrame
        Columns question, source, tries, reason: one row per dropped question.
    calls : int
        Calls made now; answers that were stored before are not asked for again.
    """

    samples: pd.DataFrame
    dropped: pd.DataFrame
    calls: int


class AnswerStore:
    """Append-only file of answers: one JSON object per line, keyed by everything that was asked.

    Parameters
    ----------
    path : Path
        Made on first use. A last line that was cut short by a crash is left out and overwritten.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, str] = {}
        if not path.exists():
            return
        whole = 0
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    break  # cut short, if only by its end: the call is repeated
                try:
                    entry = json.loads(line)
                    self._answers[entry["key"]] = entry["answer"]
                except (ValueError, KeyError, TypeError):
                    raise GenerationError(
                        f"{path}:{number} is not a stored answer. Move the file away and run "
                        "again, or delete that line."
                    ) from None
                whole += len(line)
        if whole < path.stat().st_size:
            os.truncate(path, whole)

    @staticmethod
    def key(generator: str, request: str, seed: int, number: int) -> str:
        """Key of one try: SHA-256 of generator, request, seed and number."""
        text = json.dumps([generator, request, seed, number], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, key: str) -> str | None:
        """Give the stored answer, or None."""
        return self._answers.get(key)

    def put(self, key: str, answer: str) -> None:
        """Store an answer for good."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False) + "\n"
        with self.path.open("ab") as stream:
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._answers[key] = answer


def construct(
    questions: Sequence[Question],
    generator: Generator,
    store: Path,
    seed: int,
    tries: int = TRIES,
) -> Construction:
    """Build pairs from questions with a model.

    Parameters
    ----------
    questions : sequence of Question
        With different ids.
    generator : Generator
        The model.
    store : Path
        File that keeps every answer.
    seed : int
        Seeds the tries.
    tries : int
        Answers per question at most (K of the paper).

    Returns
    -------
    Construction
        Pairs, and the reason for every question that was dropped.

    Raises
    ------
    GenerationError
        If the model fails. Run again to go on.
    """
    if tries < 2:
        raise ValueError(f"tries is {tries}, expected at least 2: a pair needs two answers.")
    answers = AnswerStore(store)
    rows: list[dict[str, Any]] = []
    dropped: list[tuple[str, str, int, str]] = []
    calls = 0
    for question in progress(questions, "questions", len(questions)):
        found: dict[str, str] = {}
        number = 0
        while number < tries and not {BENIGN, MISBEHAVING} <= found.keys():
            key = AnswerStore.key(generator.name, question.request, seed, number)
            answer = answers.get(key)
            if answer is None:
                answer = _ask(generator, question, _try_seed(seed, question.id, number))
                answers.put(key, answer)
                calls += 1
            verdict = question.judge(answer)
            if verdict != UNCLEAR:
                found.setdefault(verdict, answer)
            number += 1
        if len(found) == 2:
            rows += _pair(question, generator.name, found)
        else:
            reason = REASONS[frozenset(found)]
            dropped.append((question.id, question.source, number, reason))
    samples = pd.DataFrame(rows, columns=SAMPLES.columns)
    columns = ["question", "source", "tries", "reason"]
    return Construction(samples, pd.DataFrame(dropped, columns=columns), calls)


def _ask(generator: Generator, question: Question, seed: int) -> str:
    try:
        return generator.generate(question.request, seed)
    except Exception as error:
        raise GenerationError(
            f"{generator.name} failed at question {question.id!r} ({type(error).__name__}: "
            f"{error}). All answers so far are stored; run again to go on."
        ) from error


def _try_seed(seed: int, question: str, number: int) -> int:
    words = np.frombuffer(hashlib.sha256(question.encode()).digest()[:8], dtype="<u4")
    sequence = np.random.SeedSequence(seed, spawn_key=(*map(int, words), number))
    return int(sequence.generate_state(1)[0])


def _pair(question: Question, generator: str, found: dict[str, str]) -> Iterable[dict[str, Any]]:
    # The order of the two ids must not tell the label.
    flip = hashlib.sha256(f"{question.id}/order".encode()).digest()[0] % 2
    for label, verdict in enumerate((BENIGN, MISBEHAVING)):
        answer = found[verdict]
        row = sample_row(
            sample_id=f"{question.id}-{'ab'[label ^ flip]}",
            pair_id=question.id,
            scenario_id=question.id,
            cell=question.cell,
            misbehavior_type=question.misbehavior_type,
            cue_type=question.cue,
            source=question.source,
            generator=generator,
            request=question.request,
            response=answer,
            has_thinking="<think>" in answer,
            label=label,
        )
        yield row | {"split": "test"}


class CausalGenerator:
    """A causal language model of `transformers` as generator.

    Parameters
    ----------
    name : str
        Hub name or local folder.
    revision : str
        Commit of the hub; ignored for a local folder.
    max_new_tokens : int
        Longest answer.
    temperature : float
        Sampling temperature, above 0.
    """

    def __init__(
        self, name: str, revision: str = "", max_new_tokens: int = 512, temperature: float = 0.7
    ) -> None:
        from transformers import AutoModelForCausalLM

        from monitorlab.models.loading import load_model, load_tokenizer

        self._tokenizer = load_tokenizer(name, revision)
        self._model = load_model(AutoModelForCausalLM.from_pretrained, name, revision)
        self._options = {"max_new_tokens": max_new_tokens, "temperature": temperature}
        local = f"{Path(name).name}#{_weights_digest(self._model)}"
        name = f"{name}@{revision}" if revision else local
        self._name = f"{name} (temperature {temperature:g}, {max_new_tokens} tokens)"

    @property
    def name(self) -> str:
        """Name, revision (a digest of the weights for a local folder) and sampling options."""
        return self._name

    def generate(self, prompt: str, seed: int) -> str:
        """Sample one answer.

        Parameters
        ----------
        prompt : str
            The request; put into the chat template where the tokenizer has one.
        seed : int
            Of the sampling.

        Returns
        -------
        str
            The answer without special tokens.
        """
        from transformers import set_seed

        from monitorlab.models.chat import render_chat

        templated = bool(self._tokenizer.chat_template)
        if templated:
            messages = [{"role": "user", "content": prompt}]
            prompt = render_chat(self._tokenizer, messages, add_generation_prompt=True)
        # A template has put the start mark already.
        inputs = self._tokenizer(
            prompt, return_tensors="pt", add_special_tokens=not templated
        ).to(self._model.device)
        set_seed(seed)
        output = _generate(self._model, **inputs, do_sample=True, **self._options)
        fresh = output[0][inputs["input_ids"].shape[1] :]
        return str(self._tokenizer.decode(fresh, skip_special_tokens=True))


def _weights_digest(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _generate(model: Any, **options: Any) -> Any:
    """Call ``generate``, whose type the library leaves open."""
    return model.generate(**options)

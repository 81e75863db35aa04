"""Causal language models as monitors: their prompts, read by logits or by generated text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from monitorlab.models.chat import ChatTemplate
from monitorlab.models.engine import ScoringEngine, common_prefix, end_ids, pad
from monitorlab.models.loading import Checkpoint
from monitorlab.models.tiny import suitable_threads
from monitorlab.monitors.monitor import ComputingMonitor, MonitorError, Sample
from monitorlab.monitors.prompts import Prompt
from monitorlab.monitors.replies import read_reply
from monitorlab.monitors.thinking import Tag
from monitorlab.monitors.verdicts import ERROR, THRESHOLD, UNPARSED, Verdict
from monitorlab.storage.files import digest_json


class Chat:
    """Samples as the prompts that a model reads.

    Parameters
    ----------
    checkpoint : Checkpoint
    prompt : Prompt
    thinking : bool
        Whether the model may think before it answers.
    stub : str
        Beginning of the reply, put behind the prompt.
    """

    def __init__(
        self, checkpoint: Checkpoint, prompt: Prompt, thinking: bool, stub: str = ""
    ) -> None:
        self.checkpoint, self.prompt, self.thinking, self.stub = checkpoint, prompt, thinking, stub
        self.template = ChatTemplate(checkpoint.tokenizer)
        self.forbidden = self.template.control_texts()

    def settings(self) -> dict[str, Any]:
        """What decides the prompts, and the model that reads them."""
        return {**self.checkpoint.identity, **self.template.form().settings(),
                "prompt": self.prompt.digest, "thinking": self.thinking}

    def texts(self, samples: Sequence[Sample]) -> list[str]:
        """Rendered prompts, with the beginning of the reply."""
        asked = (self.prompt.messages(sample, self.forbidden) for sample in samples)
        return [self.template.text(messages, self.thinking) + self.stub for messages in asked]

    def words(self, words: Sequence[str]) -> list[list[int]]:
        """Token ids of words as they follow the stub.

        A tokenizer may put a blank before a text of its own, so each word is read behind the stub.
        """
        tokenizer = self.checkpoint.tokenizer
        stub = tokenizer(self.stub, add_special_tokens=False)["input_ids"]
        found: list[list[int]] = []
        for word in words:
            joined = tokenizer(self.stub + word, add_special_tokens=False)["input_ids"]
            alone = tokenizer(word, add_special_tokens=False)["input_ids"]
            ids = joined[len(stub):] if joined[: len(stub)] == stub else alone
            if not ids:
                raise MonitorError(f"the answer {word!r} has no token of its own")
            if ids not in found:
                found.append(ids)
        if not found:
            raise MonitorError("expected at least one answer word per verdict, found none")
        return found


class CausalMonitor(ComputingMonitor):
    """What monitors of a causal language model have in common: units, and prompts that may not fit.

    Attributes
    ----------
    unit, unit_characters : int
        Samples that an interruption can cost, and characters of all their texts.
    """

    unit = 64
    unit_characters = 400_000

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Samples of similar length, those with the same request together."""
        return _length_units(samples, self.unit, self.unit_characters)

    def ask_fitting(
        self, model: PreTrainedModel, rows: Sequence[Sequence[int]], more: int,
        ask: Callable[[list[int]], Iterable[Verdict]],
    ) -> list[Verdict]:
        """Ask a model about the prompts that it can read; each other one is an error of its own.

        Parameters
        ----------
        model : PreTrainedModel
        rows : sequence of token ids
            One prompt for each sample.
        more : int
            Tokens that are needed behind a prompt.
        ask : callable
            Takes positions of prompts that fit, and gives a verdict for each of them, in order.
        """
        most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
        fits = [i for i, row in enumerate(rows) if len(row) + more <= most]
        with suitable_threads(model):
            found = dict(zip(fits, ask(fits) if fits else (), strict=True))
        return [found[i] if i in found else replace(Verdict.failure(
            ERROR, f"the prompt has {len(row)} tokens, and {more} more are needed, but the model "
                   f"reads at most {most}: shorten the sample, or use a model with a longer "
                   "context"), input_tokens=len(row)) for i, row in enumerate(rows)]

    def read_score(
        self, score: float, threshold: float, tokens: int, objection: str = ""
    ) -> Verdict:
        """Return the verdict that a score from logits is, or why it is none."""
        if not math.isfinite(score):
            verdict = Verdict.failure(ERROR, "the model's logits are not finite: load it as "
                                             "bfloat16 or float32 instead")
        elif objection:
            verdict = Verdict.failure(UNPARSED, objection)
        else:
            verdict = Verdict.from_score(min(score, 1.0), threshold)
        return replace(verdict, input_tokens=tokens, output_tokens=0)


def _length_units(samples: Sequence[Sample], most: int, characters: int) -> list[list[int]]:
    """Group samples of similar length, those with the same request side by side.

    The longest come first, so that what does not fit into memory shows at once; then shortest and
    longest alternate, so that a model's limit does not fail many units in a row.

    Parameters
    ----------
    samples : sequence of Sample
    most, characters : int
        Samples, and characters of all their texts, per unit. A request with more samples is split.

    Returns
    -------
    list of list of int
        Positions in `samples`.
    """
    requests: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        requests.setdefault(sample.request, []).append(i)
    size = [len(sample.request) + len(sample.response) for sample in samples]
    blocks = [members[start : start + most] for members in requests.values()
              for start in range(0, len(members), most)]
    units: list[list[int]] = []
    filled = 0
    for block in sorted(blocks, key=lambda block: max(size[i] for i in block)):
        total = sum(size[i] for i in block)
        if not units or len(units[-1]) + len(block) > most or filled + total > characters:
            units.append([])
            filled = 0
        units[-1] += block
        filled += total
    return [units[k // 2] if k % 2 else units[-1 - k // 2] for k in range(len(units))]


STUB = '{"misbehavior_detected":'  # how the reply begins that the prompts ask for
YES, NO = (" true", "true"), (" false", "false")
# The model sees other texts than these; what their prompts share is what all prompts share.
PROBES = (Sample("", "A", "A"), Sample("", "0 b", "?"))


class LogitMonitor(CausalMonitor):
    """Score = P(yes) / (P(yes) + P(no)), from the probabilities of the words that may come next.

    The beginning of the reply is put into the model's mouth, so that the next word is the verdict:
    one pass, no generated text, nothing to parse.

    Parameters
    ----------
    checkpoint : Checkpoint
        See `Checkpoint.load`.
    prompt : Prompt
        One that asks for a verdict ("verdict" or "evidence").
    name : str
        How the tables call it; the model's name if empty.
    stub : str
        Beginning of the reply. Must end where the verdict begins.
    yes, no : sequence of str
        Continuations that say misbehavior, and benign. May be several tokens long.
    batch_tokens : int
        Tokens per batch, padding included; 0 takes the device's default.
    threshold : float
        Verdict is misbehavior above it.

    Attributes
    ----------
    engine : ScoringEngine
        Says by which path it scores, and why.
    words : tuple of list of list of int
        Token ids of the words for yes and for no.

    Raises
    ------
    MonitorError
        The prompt asks for a score, or the words cannot be told apart by their tokens.
    """

    def __init__(
        self, checkpoint: Checkpoint, prompt: Prompt, *, name: str = "", stub: str = STUB,
        yes: Sequence[str] = YES, no: Sequence[str] = NO, batch_tokens: int = 0,
        threshold: float = THRESHOLD,
    ) -> None:
        if prompt.answer == "score":
            raise MonitorError(f"prompt {prompt.name!r} asks for a score, which has too many "
                               "spellings to read from logits: use TextMonitor, or another prompt")
        self.name = name or str(checkpoint.identity["model"]["name"])
        self.prompt, self._prompt, self.threshold = prompt.name, prompt, threshold
        self.batch_tokens = batch_tokens
        self.stub, self.yes, self.no = stub, tuple(yes), tuple(no)
        self._chat = Chat(checkpoint, prompt, thinking=False, stub=stub)
        self.words = self._chat.words(self.yes), self._chat.words(self.no)
        for word, other in itertools.permutations([*self.words[0], *self.words[1]], 2):
            if other[: len(word)] == word:  # its probability would count twice, or for both
                raise MonitorError(f"the answers with tokens {word} and {other} begin alike: name "
                                   "answers of which none is the beginning of another")
        first, second = self.prompts(PROBES)
        model, tokenizer = checkpoint.model, checkpoint.tokenizer
        prefix = first[: common_prefix(first, second)]
        self.engine = ScoringEngine(model, tokenizer.pad_token_id, prefix, batch_tokens)

    def with_prompt(self, prompt: Prompt) -> LogitMonitor:
        """Return the same model with the same words, asked with another prompt."""
        return LogitMonitor(self._chat.checkpoint, prompt, name=self.name, stub=self.stub,
                            yes=self.yes, no=self.no, batch_tokens=self.batch_tokens,
                            threshold=self.threshold)

    def settings(self) -> Mapping[str, Any]:
        """Checkpoint, prompt and words."""
        return {"kind": "logits", **self._chat.settings(), "stub": self.stub,
                "yes": list(self.yes), "no": list(self.no), "threshold": self.threshold}

    def prompts(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Token ids of what the model reads of each sample, stub included."""
        return self._chat.template.ids(self._chat.texts(samples))

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Judge one unit; what is too long for the model is an error of that sample alone."""
        rows = self.prompts(samples)
        words = [*self.words[0], *self.words[1]]

        def ask(fits: list[int]) -> Iterator[Verdict]:
            logs = self.engine.score_words([rows[i] for i in fits], words)
            for i, row in zip(fits, logs, strict=True):
                yield self._verdict(row, len(rows[i]))

        return self.ask_fitting(self.engine.model, rows, max(map(len, words)) - 1, ask)

    def _verdict(self, logs: np.ndarray, tokens: int) -> Verdict:
        yes, no = (np.logaddexp.reduce(part) for part in np.split(logs, [len(self.words[0])]))
        score = float(np.exp(yes - np.logaddexp(yes, no))) if np.isfinite(logs).all() else math.nan
        return self.read_score(score, self.threshold, tokens)


class TextMonitor(CausalMonitor):
    """The verdict that the model writes, read by `monitorlab.monitors.replies`.

    Parameters
    ----------
    checkpoint : Checkpoint
        See `Checkpoint.load`.
    prompt : Prompt
    name : str
        How the tables call it; the model's name if empty.
    thinking : bool
        Let the model think first, where its chat template knows that.
    max_new_tokens : int
        The reply is cut off there, thinking included.
    temperature : float
        0 takes the likeliest token; above, tokens are drawn.
    seed : int
        Of the draws. It is combined with the number of the draw and the texts of the unit, so a
        resumed run draws the same replies.
    """

    unit = 16  # generated at once
    unit_characters = 200_000

    def __init__(
        self, checkpoint: Checkpoint, prompt: Prompt, *, name: str = "", thinking: bool = False,
        max_new_tokens: int = 256, temperature: float = 0.0, seed: int = 2026,
    ) -> None:
        if temperature < 0 or max_new_tokens < 1:
            raise MonitorError(f"temperature {temperature} and max_new_tokens {max_new_tokens}: "
                               "expected at least 0 and 1")
        self.name = name or str(checkpoint.identity["model"]["name"])
        self.prompt, self._prompt = prompt.name, prompt
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        self._chat = Chat(checkpoint, prompt, thinking)
        self._model, self._tokenizer = checkpoint.model, checkpoint.tokenizer

    def settings(self) -> Mapping[str, Any]:
        """Checkpoint, prompt and how the reply is generated."""
        return {"kind": "text", **self._chat.settings(), "max_new_tokens": self.max_new_tokens,
                "temperature": self.temperature, "seed": self.seed if self.temperature else None}

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Generate a reply to each sample of one unit, and read it."""
        texts = self._chat.texts(samples)
        rows = self._chat.template.ids(texts)
        drawn = [self.seed, draw, *((sample.request, sample.response) for sample in samples)]
        seed = int(digest_json(drawn)[:14], 16)

        def ask(fits: list[int]) -> Iterator[Verdict]:
            emitted = self._generate([rows[i] for i in fits], seed)
            for i, (tokens, finished) in zip(fits, emitted, strict=True):
                options: dict[str, Any] = {"clean_up_tokenization_spaces": False}
                text = str(self._tokenizer.decode(tokens, **options))  # channel marks and all
                opened = Tag.opened_by(texts[i])  # a cut draft must not pass for an answer
                verdict = read_reply(opened + text, self._prompt.answer, finished=finished,
                                     audited=f"{samples[i].request}\n{samples[i].response}")
                yield replace(verdict, input_tokens=len(rows[i]), output_tokens=len(tokens))

        return self.ask_fitting(self._model, rows, self.max_new_tokens, ask)

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Read the stored reply again."""
        if not verdict.reply:
            return verdict
        finished = (verdict.output_tokens or 0) < self.max_new_tokens
        fresh = read_reply(verdict.reply, self._prompt.answer, finished=finished,
                           audited=f"{sample.request}\n{sample.response}")
        return verdict.renewed(fresh, self._prompt.answer)

    @torch.inference_mode()
    def _generate(self, rows: list[list[int]], seed: int) -> list[tuple[list[int], bool]]:
        """Emitted tokens per prompt without the end mark, and whether there was one."""
        model, fill = self._model, self._tokenizer.pad_token_id
        ids = pad(rows, fill, left=True).to(model.device)
        mask = pad([[1] * len(row) for row in rows], 0, left=True).to(model.device)
        # The checkpoint's own sampling defaults would make other settings than the stated ones.
        sampling = {"temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        ends = end_ids(model, self._tokenizer)
        generate: Any = model.generate
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            output = generate(
                ids, attention_mask=mask, do_sample=self.temperature > 0, num_beams=1,
                repetition_penalty=1.0, max_new_tokens=self.max_new_tokens, pad_token_id=fill,
                eos_token_id=sorted(ends), **(sampling if self.temperature else {}))
        emitted = []
        for row in output[:, ids.shape[1]:].tolist():
            stop = next((i for i, token in enumerate(row) if token in ends), None)
            emitted.append((row if stop is None else row[:stop], stop is not None))
        return emitted

"""Any causal language model as a free step signal: the log-probability of what was written.

The signal is the log-probability that the model gives to the tokens of a step: its minimum is the
ablation of arXiv 2607.02510 (section 4), its mean the usual alternative. Suspicion is minus that
value, so an unlikely step is a suspicious one.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from monitorlab.models import ModelError
from monitorlab.models.batching import (
    BATCH_TOKENS,
    check_length,
    pad,
    pad_right,
    token_batches,
)
from monitorlab.models.chat import render_chat
from monitorlab.signals.step_scores import (
    Problem,
    StepScorer,
    StepScores,
    checked_steps,
)

STEP_BREAK = "\n\n"
POOLS = ("min", "mean")


def pool_log_probs(
    log_probs: np.ndarray, step_of_token: np.ndarray, n_steps: int, pool: str
) -> StepScores:
    """Turn token log-probabilities into one suspicion per step: minus their minimum or mean."""
    if pool not in POOLS:
        raise ModelError(f"unknown pooling {pool!r}: expected one of {POOLS}")
    parts = [log_probs[step_of_token == step] for step in range(n_steps)]
    for step, part in enumerate(parts, 1):
        if len(part) == 0:
            raise ModelError(f"step {step} of {n_steps} has no token of its own")
    pooled = [part.min() if pool == "min" else part.mean() for part in parts]
    return StepScores(-np.array(pooled), np.array([len(part) for part in parts]))


def split_steps(text: str) -> list[tuple[int, int]]:
    """Split a solution at blank lines, or at line breaks where there is no blank line.

    Returns
    -------
    list of (int, int)
        Start and end of each non-blank step in `text`, surrounding blanks left out.
    """
    body = text.strip()
    pattern = r"\n[^\S\n]*\n\s*" if re.search(r"\n[^\S\n]*\n", body) else r"\n\s*"
    start = len(text) - len(text.lstrip())
    bounds, position = [], 0
    for found in re.finditer(pattern, body):
        bounds.append((position, found.start()))
        position = found.end()
    bounds.append((position, len(body)))
    return [(start + a, start + b) for a, b in bounds if b > a]


class LogProbabilityScorer(StepScorer):
    """Suspicion per step, in [0, inf), from its tokens' log-probability under a language model.

    The steps are read as one text with a break after each, the last one included, as a model writes
    them; so the score of a step does not depend on whether another follows. The break is this
    scorer's and says nothing about a step: a token belongs to the step that holds its last
    character, and a token that ends in a break, even one that begins with the step's full stop,
    belongs to none. (A step that is made of such a token alone is scored by it.) The blank that
    many tokenizers put into a word belongs to the word. The first token of the first step is
    predicted from the prompt alone.

    Of a conversation (a problem of one message per step) every turn of the assistant is scored
    after all that was said before it, in a pass of its own.

    Parameters
    ----------
    model, tokenizer : PreTrainedModel, PreTrainedTokenizerBase
        The tokenizer must be a fast one, which knows where each token begins and ends.
    system : str
        System message of the chat; none when empty.
    pool : str
        "min" (the paper's ablation) or "mean" over the tokens of a step.
    step_break : str
        Text after every step.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        system: str = "",
        pool: str = "min",
        step_break: str = STEP_BREAK,
    ) -> None:
        super().__init__(model, tokenizer)
        self.system = system
        if not tokenizer.is_fast:
            raise ModelError("log-probabilities per step need a fast tokenizer (token offsets)")
        if pool not in POOLS:
            raise ModelError(f"unknown pooling {pool!r}: expected one of {POOLS}")
        self.pool, self.step_break = pool, step_break
        self._with_blanks = _untrimmed(tokenizer)

    def prompt_ids(self, problem: str, before: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Encode a problem, and turns before it, by the chat template, or as lines without one."""
        if not self.tokenizer.chat_template:
            lines = [*(text for turn in before for text in turn), problem]
            return self.tokenizer(self.system + "".join(f"{line}\n" for line in lines))["input_ids"]
        messages = [{"role": role, "content": text} for turn in before
                    for role, text in zip(("user", "assistant"), turn, strict=True)]
        messages.append({"role": "user", "content": problem})
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        chat = render_chat(self.tokenizer, messages, add_generation_prompt=True)
        return self.tokenizer(chat, add_special_tokens=False)["input_ids"]

    def check(self, prompt: Sequence[int], row: Sequence[int], what: str) -> None:
        """Raise if a prompt has no token, or the whole row too many."""
        if not prompt:
            raise ModelError(f"the prompt of {what} has no token, so that nothing predicts the "
                             "first token of the answer: give a problem, or a system message")
        check_length(len(row), self.model.config, what)

    @torch.inference_mode()
    def token_log_probs(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[np.ndarray]:
        """Log-probabilities of the answer tokens given all before them, one pass each.

        Returns
        -------
        list of numpy.ndarray, shape (n_answer_tokens,)
            Natural logarithms, at most 0, at temperature 1. The first token is predicted from the
            prompt alone.

        Raises
        ------
        ModelError
            A prompt is empty, so that nothing predicts the first token, or a sequence is too long.
        """
        rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
        for position, (prompt, row) in enumerate(zip(prompts, rows, strict=True), 1):
            self.check(prompt, row, f"trajectory {position}")
        found: dict[int, np.ndarray] = {}
        for chosen in token_batches([len(row) for row in rows], BATCH_TOKENS):
            ids, mask = pad_right([rows[i] for i in chosen], self.tokenizer.pad_token_id)
            ids, mask = ids.to(self.model.device), mask.to(self.model.device)
            output = self.model(input_ids=ids, attention_mask=mask, use_cache=False)
            for k, i in enumerate(chosen):
                span = slice(len(prompts[i]) - 1, len(rows[i]) - 1)
                logs = output.logits[k, span].float().log_softmax(-1)
                targets = ids[k, span.start + 1 : span.stop + 1, None]
                found[i] = logs.gather(-1, targets).squeeze(-1).cpu().numpy().astype(float)
        return [found[i] for i in range(len(rows))]

    def _answer(self, steps: Sequence[str]) -> tuple[list[int], np.ndarray]:
        """Token ids of all steps, and the step that each token belongs to; -1 for none."""
        texts = checked_steps(steps)
        encoded = self._with_blanks(
            "".join(text + self.step_break for text in texts), add_special_tokens=False,
            return_offsets_mapping=True,
        )
        starts, ends = np.array(encoded["offset_mapping"]).reshape(-1, 2).T
        last = np.maximum(ends - 1, starts)  # a mark without a character stands where it stands
        lengths = np.array([len(text) for text in texts])
        firsts = np.cumsum([0, *lengths[:-1] + len(self.step_break)])
        step = np.searchsorted(firsts, last, side="right") - 1
        step_of_token = np.where(last < (firsts + lengths)[step], step, -1)
        for bare in set(range(len(texts))) - set(step_of_token.tolist()):
            within = (starts < firsts[bare] + lengths[bare]) & (ends > firsts[bare])
            step_of_token[within & (step_of_token < 0)] = bare
        return encoded["input_ids"], step_of_token

    def _encode(self, problem: Problem, steps: Sequence[str]) -> list[_Answer]:
        if isinstance(problem, str):
            parts: list[tuple[list[int], Sequence[str]]] = [(self.prompt_ids(problem), steps)]
        else:
            turns = list(zip(problem, steps, strict=True))
            parts = [(self.prompt_ids(asked, turns[:k]), [step])
                     for k, (asked, step) in enumerate(turns)]
        answers = [_Answer(prompt, *self._answer(part), len(part)) for prompt, part in parts]
        for answer in answers:
            self.check(answer.prompt, [*answer.prompt, *answer.ids], "the trajectory")
        return answers

    def _read(self, encoded: Sequence[list[_Answer]]) -> list[StepScores]:
        answers = [answer for one in encoded for answer in one]
        logs = iter(self.token_log_probs([a.prompt for a in answers], [a.ids for a in answers]))
        return [
            _joined([pool_log_probs(next(logs), answer.step_of_token, answer.n_steps, self.pool)
                     for answer in one])
            for one in encoded
        ]


@dataclass(frozen=True)
class _Answer:
    """Token ids of a prompt and of its steps, and the step of each of these tokens."""

    prompt: list[int]
    ids: list[int]
    step_of_token: np.ndarray
    n_steps: int


def _joined(parts: Sequence[StepScores]) -> StepScores:
    """Put the scores of parts behind one another."""
    return StepScores(*(np.concatenate([getattr(part, name) for part in parts])
                        for name in ("scores", "tokens")))


def _untrimmed(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose offsets hold blanks too, which some leave out of theirs."""
    if "trim_offsets=True" not in repr(tokenizer.backend_tokenizer.post_processor):
        return tokenizer
    copied = copy.deepcopy(tokenizer)
    copied.backend_tokenizer.post_processor = None
    return copied


@torch.inference_mode()
def sample_answers(
    model: Any,
    pad_id: int,
    ends: Collection[int],
    prompts: Sequence[Sequence[int]],
    temperature: float,
    max_new_tokens: int,
) -> list[list[int]]:
    """Continue prompts, padded on the left, from the whole distribution of a model.

    A checkpoint's own sampling defaults would distort the distribution that is scored, and the
    mistakes should be the model's, as likely as it thinks.

    Parameters
    ----------
    ends : collection of int
        Tokens that end an answer.
    temperature : float
        Above 0 samples; 0 takes the likeliest token.

    Returns
    -------
    list of list of int
        Emitted tokens per prompt, up to and including the end mark.
    """
    ids = pad(prompts, pad_id, left=True).to(model.device)
    mask = pad([[1] * len(row) for row in prompts], 0, left=True).to(model.device)
    sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    output = model.generate(
        ids,
        attention_mask=mask,
        do_sample=temperature > 0,
        repetition_penalty=1.0,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_id,
        **sampling,
    )
    rows: list[list[int]] = output[:, ids.shape[1] :].tolist()
    stops = [next((i for i, t in enumerate(row, 1) if t in ends), len(row)) for row in rows]
    return [row[:stop] for row, stop in zip(rows, stops, strict=True)]

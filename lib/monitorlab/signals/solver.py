"""The miniature generator and the verifier that is made of it: solve problems, judge the steps.

The generator is an ordinary `transformers` checkpoint: a Llama of a hundred thousand parameters or
so and a tokenizer of at most a few hundred pieces, trained from scratch on reference solutions. It
is so small, and trained so briefly, that it really errs; its mistakes are what step signals must
find.

The verifier is a miniature process reward model, an ordinary `LlamaForTokenClassification`
checkpoint. It starts from the weights of a generator, as real process reward models start from a
language model, and learns from *generated* solutions whose steps the exact checker has labelled.
The score of a step is read at the line break that ends it. Attention is causal, so one forward pass
over a finished solution gives exactly the scores that a monitor running along would have seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaForCausalLM,
    LlamaForTokenClassification,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from monitorlab.display import progress
from monitorlab.models import Training
from monitorlab.models.engine import Encoded, pad
from monitorlab.models.loading import load_model, load_tokenizer, no_progress_bars
from monitorlab.models.tiny import IGNORED, Row, fit, seeded, suitable_threads
from monitorlab.signals.step_scores import StepScores

# Pieces: the head of a line, a word with the blanks around it, a number of up to three digits (as
# in Llama 3), a sign, the line break that ends a step.
PIECE = r"[A-Za-z]+: |; | ?[A-Za-z]+[.?]? ?|[0-9]{1,3}|[.?] ?|[-+*/=]|\n| "
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
MAX_NEW_TOKENS = 110
BATCH = 256
WRONG = 1  # column of the verifier's output
STEPS_BETWEEN_EXAMS = 20


@dataclass(frozen=True)
class Solution:
    """One sampled solution with the model's own probabilities.

    Attributes
    ----------
    text : str
        What the model wrote after the problem, without the end mark.
    log_probs : numpy.ndarray, shape (n_tokens,)
        Natural-log probability of every emitted token at temperature 1, end mark included.
    step_of_token : numpy.ndarray, shape (n_tokens,)
        0-based step (line) that each token belongs to; the end mark belongs to the last step.
    """

    text: str
    log_probs: np.ndarray
    step_of_token: np.ndarray

    @property
    def n_steps(self) -> int:
        """Number of steps, at least 1."""
        return int(self.step_of_token[-1]) + 1

    def signals(self) -> dict[str, np.ndarray]:
        """Per-step suspicion from the generator's own probabilities, and tokens per step.

        Returns
        -------
        dict
            ``min_logprob``: minus the smallest token log-probability of the step (the paper's
            ablation), ``mean_logprob``: minus the mean, both in nats, at least 0, high = unsafe;
            ``tokens``: number of tokens. Each of shape (n_steps,).
        """
        lowest, mean = (StepScores.pooled(self.log_probs, self.step_of_token, self.n_steps, pool)
                        for pool in ("min", "mean"))
        return {"min_logprob": lowest.scores, "mean_logprob": mean.scores, "tokens": lowest.tokens}


class _Checkpoint:
    """A model and its tokenizer, from an ordinary `save_pretrained` folder."""

    model_class: type[Any]

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read model and tokenizer back from a folder."""
        model = load_model(cls.model_class.from_pretrained, str(folder), "")
        return cls(model, load_tokenizer(str(folder), ""))


class Generator(_Checkpoint):
    """A small language model, trained from scratch, that solves problems."""

    model_class = LlamaForCausalLM

    @staticmethod
    def train(pairs: Sequence[tuple[str, str]], held_out: Sequence[tuple[str, str]],
              targets: Mapping[str, float], settings: Training, folder: Path, seed: int,
              temperature: float = 1.0, title: str = "") -> None:
        """Train tokenizer and model from scratch and save a generator whenever it is good enough.

        Several generators of different strength come out of one training: each is the model at the
        moment when its expected accuracy on held-out problems first reached the target.

        Parameters
        ----------
        pairs : sequence of (str, str)
            Problems and reference solutions; the loss counts solution tokens only.
        held_out : sequence of (str, str)
            The same for problems that are not learned from; they decide when to stop.
        targets : mapping of str to float
            Name of each generator and its expected accuracy, in (0, 1).
        settings : Training
            Shape of the model, most optimizer steps, tokens per step and peak learning rate. A
            target that is not reached in this many steps is taken from the last one.
        folder : Path
            Gets one ordinary `save_pretrained` folder per generator.
        seed : int
            Decides initial weights and order; torch's own random state is left as it was.
        temperature : float
            At which the generators will be sampled, above 0.
        title : str
            Caption of the progress bar; none is shown if empty.
        """
        tokenizer = _word_tokenizer([text for pair in pairs for text in pair] + ["\n"])
        rows, held_out_rows = _examples(tokenizer, pairs), _examples(tokenizer, held_out)
        waiting = sorted(targets, key=lambda name: targets[name])

        def save(name: str) -> None:
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)

        def enough(step: int) -> bool:
            if step % STEPS_BETWEEN_EXAMS == 0:
                model.eval()
                reached = _expected_accuracy(model, held_out_rows, tokenizer.pad_token_id,
                                             temperature)
                model.train()
                while waiting and reached >= targets[waiting[0]]:
                    save(waiting.pop(0))
            return not waiting

        with seeded(seed), no_progress_bars():
            model = LlamaForCausalLM(settings.model.llama(tokenizer))
            fit(model, rows, tokenizer.pad_token_id, settings, seed, title, enough)
            for name in waiting:
                save(name)

    @torch.inference_mode()
    def solve(self, problems: Sequence[str], seed: int, temperature: float = 1.0,
              title: str = "") -> list[Solution]:
        """Sample one solution per problem, in batches and with a KV cache.

        Parameters
        ----------
        problems : sequence of str
        seed : int
            The same seed gives the same solutions on one machine.
        temperature : float
            Above 0. The log-probabilities are those of temperature 1, whatever it is.
        title : str
            Caption of the progress bar; none is shown if empty.

        Returns
        -------
        list of Solution
            In the order of `problems`. A solution longer than `MAX_NEW_TOKENS` is cut there.
        """
        order = np.argsort([len(text) for text in problems], kind="stable")  # less padding
        starts = range(0, len(order), BATCH)
        pad_id = self.tokenizer.pad_token_id
        found: dict[int, Solution] = {}
        with seeded(seed), suitable_threads(self.model):
            for start in progress(starts, title) if title else starts:
                chosen = order[start : start + BATCH]
                prompts = [_encode(self.tokenizer, problems[i]) for i in chosen]
                emitted = self._sample(prompts, temperature)
                logs = _token_log_probs(self.model, pad_id, prompts, emitted)
                for i, tokens, log_probs in zip(chosen, emitted, logs, strict=True):
                    found[int(i)] = self._solution(tokens, log_probs)
        return [found[i] for i in range(len(problems))]

    def _sample(self, prompts: Sequence[Sequence[int]], temperature: float) -> list[list[int]]:
        """Continue prompts, up to and including the end mark, from the whole distribution.

        A checkpoint's own sampling defaults would distort the distribution that is scored, and the
        mistakes should be the model's, as likely as it thinks.
        """
        pad_id, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        ids = pad(prompts, pad_id, left=True).to(self.model.device)
        mask = pad([[1] * len(row) for row in prompts], 0, left=True).to(self.model.device)
        output = self.model.generate(
            ids, attention_mask=mask, do_sample=True, repetition_penalty=1.0,
            max_new_tokens=MAX_NEW_TOKENS, pad_token_id=pad_id, temperature=temperature, top_k=0,
            top_p=1.0)
        rows: list[list[int]] = output[:, ids.shape[1] :].tolist()
        return [row[: row.index(end) + 1] if end in row else row for row in rows]

    def _solution(self, tokens: Sequence[int], log_probs: np.ndarray) -> Solution:
        line_break, end = self.tokenizer.convert_tokens_to_ids("\n"), self.tokenizer.eos_token_id
        ends = np.array([token == line_break for token in tokens])
        steps = np.concatenate([[0], np.cumsum(ends)[:-1]])
        if tokens[-1] == end and len(tokens) > 1 and ends[-2]:
            steps[-1] = steps[-2]  # the end mark opens no step of its own
        text = str(self.tokenizer.decode([token for token in tokens if token != end]))
        return Solution(text, log_probs, steps)


def _word_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer over the pieces that occur in `texts`, and every number up to the largest.

    A piece that occurs nowhere becomes ``<unk>``, and cannot be written by a generator.
    """
    found = {piece for text in texts for piece in re.findall(PIECE, text)}
    largest = max((int(piece) for piece in found if piece.isdigit()), default=0)
    pieces = sorted(found | {str(number) for number in range(largest + 1)})
    vocabulary = {piece: i for i, piece in enumerate((*SPECIAL, *pieces))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    names = {f"{name.strip('<>')}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


def _encode(tokenizer: PreTrainedTokenizerBase, problem: str,
            solution: str | None = None) -> list[int]:
    """Token ids of mark, problem, line break, solution, end mark; or only up to the line break."""
    ids = tokenizer(f"{problem}\n{solution or ''}", add_special_tokens=False)["input_ids"]
    end = [] if solution is None else [tokenizer.eos_token_id]
    return [tokenizer.bos_token_id, *ids, *end]


def _examples(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> list[Row]:
    """Encode problems with solutions; a problem ends at the first line break."""
    line_break = tokenizer.convert_tokens_to_ids("\n")
    rows = []
    for ids in (_encode(tokenizer, *pair) for pair in pairs):
        n_prompt = ids.index(line_break) + 1
        rows.append({"input_ids": ids, "labels": [IGNORED] * n_prompt + ids[n_prompt:]})
    return rows


@torch.inference_mode()
def _log_probs(model: Any, ids: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of every token but the first of each row, padded on the right, in one pass.

    A causal model does not look at the padding.
    """
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float() / temperature
    return logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)


def _expected_accuracy(model: LlamaForCausalLM, rows: Sequence[Row], pad_id: int,
                       temperature: float = 1.0) -> float:
    r"""Chance that a sampled solution is the reference, exactly and without sampling.

    .. math:: \frac{1}{n} \sum_x \prod_t p_\tau(o^\ast_t \mid x, o^\ast_{<t}),

    the product over the tokens of the reference solution, end mark included, at temperature
    :math:`\tau`.
    """
    ids = pad([row["input_ids"] for row in rows], pad_id).to(model.device)
    labels = pad([row["labels"] for row in rows], IGNORED).to(model.device)[:, 1:]
    picked = _log_probs(model, ids, temperature)
    return float((picked * (labels != IGNORED)).sum(1).exp().mean())


def _token_log_probs(model: Any, pad_id: int, prompts: Sequence[Sequence[int]],
                     emitted: Sequence[Sequence[int]]) -> list[np.ndarray]:
    r"""Exact :math:`\log p(o_t \mid x, o_{<t})` of the emitted tokens, at temperature 1."""
    pairs = list(zip(prompts, emitted, strict=True))
    ids = pad([[*prompt, *tokens] for prompt, tokens in pairs], pad_id).to(model.device)
    picked = _log_probs(model, ids).cpu().double().numpy()
    return [picked[i, len(prompt) - 1 : len(prompt) + len(tokens) - 1]
            for i, (prompt, tokens) in enumerate(pairs)]


class Verifier(_Checkpoint):
    """A small process reward model: the probability that a step is wrong."""

    model_class = LlamaForTokenClassification

    @staticmethod
    def train(solutions: Sequence[tuple[str, str, Sequence[int]]], settings: Training, folder: Path,
              seed: int, base: Path, title: str = "") -> None:
        """Train a verifier on generated solutions and save it.

        Parameters
        ----------
        solutions : sequence of (str, str, sequence of int)
            Problem, generated solution, and one label per step: 1 if the step is wrong.
        settings : Training
            Optimizer steps, tokens per step, peak learning rate; the shape is that of `base`.
        folder : Path
            Becomes an ordinary `save_pretrained` folder.
        seed : int
            Decides the new weights of the head and order; torch's own random state is left as it
            was.
        base : Path
            Generator whose weights and tokenizer it starts from.
        title : str
            Caption of the progress bar; none is shown if empty.

        Raises
        ------
        ValueError
            If the labels are all alike, or a solution does not have one label per step.
        """
        tokenizer = load_tokenizer(str(base), "")
        rows = []
        for problem, solution, labels in solutions:
            encoded = _step_ends(tokenizer, problem, solution)
            if len(encoded.positions) != len(labels):
                raise ValueError(
                    f"{len(labels)} labels for {len(encoded.positions)} steps: {solution!r}")
            marks = [IGNORED] * len(encoded.ids)
            for position, label in zip(encoded.positions, labels, strict=True):
                marks[position] = int(label)
            rows.append({"input_ids": encoded.ids, "labels": marks})
        if len({label for row in rows for label in row["labels"]} - {IGNORED}) < 2:
            raise ValueError("the verifier learns from right and wrong steps, found one kind")
        with seeded(seed), no_progress_bars():
            loader = LlamaForTokenClassification.from_pretrained
            model = load_model(loader, str(base), "", new=["score"], num_labels=2)
            fit(model, rows, tokenizer.pad_token_id, settings, seed, title)
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def score(self, solutions: Sequence[tuple[str, str]]) -> list[np.ndarray]:
        """Score every step of every solution, one causal pass each.

        Parameters
        ----------
        solutions : sequence of (str, str)
            Problem and generated solution.

        Returns
        -------
        list of numpy.ndarray, shape (n_steps,)
            Suspicion in [0, 1]: the verifier's probability that the step is wrong.
        """
        encoded = [_step_ends(self.tokenizer, *solution) for solution in solutions]
        with suitable_threads(self.model):
            logits = Encoded.logits(self.model, encoded, self.tokenizer.pad_token_id)
        return [row.float().softmax(-1)[:, WRONG].cpu().numpy().astype(float) for row in logits]


def _step_ends(tokenizer: PreTrainedTokenizerBase, problem: str, solution: str) -> Encoded:
    """Token ids of problem and solution, and the position at which each step is read.

    That is the line break, or the end mark after a last line that lacks one. The end mark is left
    out otherwise: it belongs to no step.
    """
    ids = _encode(tokenizer, problem, solution)
    start = len(_encode(tokenizer, problem))
    line_break = tokenizer.convert_tokens_to_ids("\n")
    ends = [i for i in range(start, len(ids)) if ids[i] == line_break]
    if not ends or ends[-1] < len(ids) - 2:
        ends.append(len(ids) - 1)
    lengths = np.diff([start - 1, *ends]).tolist()
    return Encoded(ids[: ends[-1] + 1], ends, lengths)

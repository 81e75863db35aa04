"""A miniature process reward model: a causal transformer that judges every step of a solution.

It is an ordinary `LlamaForTokenClassification` checkpoint. It starts from the weights of a
generator, as real process reward models start from a language model, and learns from *generated*
solutions whose steps the exact checker has labelled. The score of a step is read at the line break
that ends it. Attention is causal, so one forward pass over a finished solution gives exactly the
scores that a monitor running along would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import LlamaForTokenClassification, PreTrainedTokenizerBase

from monitorlab.pipeline.profiles import Training
from monitorlab.signals.language_model import encode
from monitorlab.signals.scorers import (
    Encoded,
    label_probability,
    load_model,
    load_tokenizer,
    logits_at_steps,
    no_progress_bars,
    whole_model,
)
from monitorlab.signals.training import IGNORED, Row, fit, llama_config, seeded, suitable_threads

WRONG = 1  # column of the classifier's output


def step_ends(tokenizer: PreTrainedTokenizerBase, problem: str, solution: str) -> Encoded:
    """Token ids of problem and solution, and the position at which each step is read.

    That is the line break, or the end mark after a last line that lacks one. The end mark is left
    out otherwise: it belongs to no step.
    """
    ids = encode(tokenizer, problem, solution)
    start = len(encode(tokenizer, problem))
    line_break = tokenizer.convert_tokens_to_ids("\n")
    ends = [i for i in range(start, len(ids)) if ids[i] == line_break]
    if not ends or ends[-1] < len(ids) - 2:
        ends.append(len(ids) - 1)
    lengths = np.diff([start - 1, *ends]).tolist()
    return Encoded(ids[: ends[-1] + 1], ends, lengths)


def train_verifier(
    solutions: Sequence[tuple[str, str, Sequence[int]]],
    settings: Training,
    folder: Path,
    seed: int,
    base: Path | None = None,
    tokenizer_from: Path | None = None,
    title: str = "",
) -> None:
    """Train a verifier on generated solutions and save it.

    Parameters
    ----------
    solutions : sequence of (str, str, sequence of int)
        Problem, generated solution, and one label per step: 1 if the step is wrong.
    settings : Training
        Shape (ignored if `base` is given), optimizer steps, tokens per step, peak learning rate.
    folder : Path
        Becomes an ordinary `save_pretrained` folder.
    seed : int
        Decides new weights and order; torch's own random state is left as it was.
    base : Path, optional
        Generator whose weights and tokenizer it starts from.
    tokenizer_from : Path, optional
        Generator whose tokenizer it takes when it starts from scratch.
    title : str
        Caption of the progress bar; none is shown if empty.

    Raises
    ------
    ValueError
        If there is neither `base` nor `tokenizer_from`, if the labels are all alike, or if a
        solution does not have one label per step.
    """
    source = base or tokenizer_from
    if source is None:
        raise ValueError("give base, or tokenizer_from to start from scratch")
    tokenizer = load_tokenizer(str(source), "")
    rows = [_example(tokenizer, *solution) for solution in solutions]
    if len({label for row in rows for label in row["labels"]} - {IGNORED}) < 2:
        raise ValueError("the verifier needs right and wrong steps to learn from, found one kind")
    with seeded(seed), no_progress_bars():
        if base is None:
            config = llama_config(settings.model, tokenizer, num_labels=2)
            model = LlamaForTokenClassification(config)
        else:
            loader = LlamaForTokenClassification.from_pretrained
            model = whole_model(loader, str(base), "", new=["score"], num_labels=2)
        fit(model, rows, tokenizer.pad_token_id, settings, seed, title)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _example(
    tokenizer: PreTrainedTokenizerBase, problem: str, solution: str, labels: Sequence[int]
) -> Row:
    encoded = step_ends(tokenizer, problem, solution)
    if len(encoded.positions) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(encoded.positions)} steps: {solution!r}")
    marks = [IGNORED] * len(encoded.ids)
    for position, label in zip(encoded.positions, labels, strict=True):
        marks[position] = int(label)
    return {"input_ids": encoded.ids, "labels": marks}


def score_solutions(folder: Path, solutions: Sequence[tuple[str, str]]) -> list[np.ndarray]:
    """Score every step of every solution, one causal pass each.

    Parameters
    ----------
    folder : Path
        What `train_verifier` wrote.
    solutions : sequence of (str, str)
        Problem and generated solution.

    Returns
    -------
    list of numpy.ndarray, shape (n_steps,)
        Suspicion in [0, 1]: the verifier's probability that the step is wrong.
    """
    tokenizer = load_tokenizer(str(folder), "")
    model = load_model(LlamaForTokenClassification.from_pretrained, str(folder), "")
    encoded = [step_ends(tokenizer, problem, solution) for problem, solution in solutions]
    with suitable_threads(model):
        logits = logits_at_steps(model, encoded, tokenizer.pad_token_id)
    return [label_probability(row, index=WRONG) for row in logits]

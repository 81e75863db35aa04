"""Sequences of a log as a monitor in production sees them: line after line, interleaved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monitorlab.commands.calibrate import Calibrated
from monitorlab.online.comparison import TRIVIAL_METHODS, Method, compare_methods, random_splits
from monitorlab.online.metrics import alarm_table
from monitorlab.online.policy import OnlineMonitor, Policy, hashed_draws
from monitorlab.online.running import LatestScore
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.intervals import wilson

SPLITS = 20
CRC = Method("CRC on the latest score", LatestScore())


def write_anew(found: Calibrated, folder: Path) -> Path:
    """Write a calibration over what an earlier run left; return its folder."""
    shutil.rmtree(folder, ignore_errors=True)
    found.save(folder)
    return folder


def chunk(text: str, log_prob: float) -> dict[str, Any]:
    """Return a chunk of a streamed chat completion with one token."""
    token = {"token": text, "logprob": log_prob, "bytes": list(text.encode())}
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None,
                         "logprobs": {"content": [token]}}]}


def _scores(log: Trajectories, side: str) -> list[list[float]]:
    """Scores of each sequence as they come in: suspicion, or safety turned back."""
    turned = -log.flat_scores if side == "safety" else log.flat_scores
    return [turned[begin : begin + length].tolist()
            for begin, length in zip(log.starts, log.lengths, strict=True)]


def interleaved(log: Trajectories, side: str, rng: np.random.Generator) -> list[str]:
    """Return the steps of a log as JSON lines for ``watch``, sequences mixed at random.

    Parameters
    ----------
    log : Trajectories
    side : {"suspicion", "safety"}
        What a high score means in the lines.
    rng : Generator
        Of the order in which sequences take turns.
    """
    waiting = {str(name): list(enumerate(own, 1))
               for name, own in zip(log.ids, _scores(log, side), strict=True)}
    order = rng.permutation([name for name, own in waiting.items() for _ in own]).tolist()
    lines = []
    for name in order:
        step, score = waiting[name].pop(0)
        end = {} if waiting[name] else {"end": True}
        lines.append(json.dumps({"id": name, "step": step, "score": score, **end}))
    return lines


def alarms_of(said: Sequence[str]) -> dict[str, int]:
    """Return the step of the alarm by sequence, from what ``watch`` says."""
    found = [json.loads(line) for line in said]
    return {one["alarm"]: one["step"] for one in found if "alarm" in one}


def policy_alarms(policy: Policy, log: Trajectories) -> pd.DataFrame:
    """Judge whole sequences by a policy; return the table ``alarms``, labels missing if unknown."""
    rule = policy.threshold
    table = alarm_table(log.transformed(policy.statistic), rule, hashed_draws(log.ids))
    return table.assign(
        dataset=log.dataset, signal=log.signal, statistic=policy.statistic.to_dict()["kind"],
        calibrator=rule.calibrator, risk=rule.risk, level=rule.level, split=0)


def held_out(log: Trajectories, alarms: Mapping[str, int]) -> pd.DataFrame:
    """Count false alarms and catches among sequences with a label, with 95 % Wilson intervals."""
    alarmed = np.array([alarms.get(str(name), 0) > 0 for name in log.ids])
    rows = []
    for label, name in ((0, "false alarm rate"), (1, "power")):
        own = alarmed[log.labels == label]
        low, high = wilson(own.sum(), len(own))
        rows.append({"measure": name, "sequences": len(own), "alarms": int(own.sum()),
                     "rate": own.mean() if len(own) else np.nan, "low": float(low),
                     "high": float(high)})
    return pd.DataFrame(rows)


def beside_trivial(log: Trajectories, level: float, seed: int) -> pd.DataFrame:
    """Compare a threshold on the score with trivial rules, on random halves of a log.

    Returns
    -------
    DataFrame
        ``method, far, power, after_onset, restricted_delay``: means over splits, a row per rule;
        ``after_onset`` only where onsets are known.
    """
    splits = random_splits(len(log), SPLITS, 0.5, seed)
    found = compare_methods(log, (CRC, *TRIVIAL_METHODS), splits, levels=(level,))
    measures = ["far", "power", "after_onset", "restricted_delay"]
    table = found.groupby("method", sort=False)[
        [one for one in measures if one in found and found[one].notna().any()]].mean()
    return table.reset_index()


def drift_evidence(
    policy: Policy, log: Trajectories, factors: Mapping[str, float], rng: np.random.Generator
) -> pd.DataFrame:
    """Play the sequences of a log in random order, with all scores times a factor.

    Parameters
    ----------
    policy : Policy
        With a reference for drift.
    log : Trajectories
        Sequences that did not calibrate the policy.
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
        raise ValueError("the log leaves too few safe sequences for a reference, so drift cannot "
                         "be watched: bring a longer log.")
    rows, scores = [], _scores(log, policy.side)
    for scene, factor in factors.items():
        monitor = OnlineMonitor(policy)
        for number, i in enumerate(rng.permutation(len(log)), 1):
            for score in scores[i]:
                monitor.update(f"{scene} {number}", factor * score)
            monitor.end(f"{scene} {number}")
            rows.append({"scene": scene, "finished": number,
                         "evidence": monitor.drift_evidence, "state": monitor.state})
    return pd.DataFrame(rows)

"""From published judge scores (GSM8K) to a running policy: the promise holds on the rest.

Needs ``evaluator/gsm8k.csv.gz`` of the open tier: a cache named by MONITORLAB_CACHE, or a network.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from monitorlab.commands.calibrate import Calibrated, Plan
from monitorlab.online.metrics import alarm_metrics, alarm_steps
from monitorlab.online.policy import OnlineMonitor, hashed_draws
from monitorlab.online.score_files import load_evaluator

SPLITS, LEVEL = 12, 0.1


def test_the_promise_is_kept_on_the_rest(get: Callable[[str], Path]):
    data = load_evaluator(get("evaluator/gsm8k.csv.gz"), "evaluator_gsm8k")
    fars, expected, fired, seconds = [], [], 0, []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(data))
        log, rest = data.take(order[:1500]), data.take(order[1500:])
        began = time.process_time()
        found = Calibrated.of(log, Plan(level=LEVEL, drift_rate=0.1))
        seconds.append(time.process_time() - began)
        policy = found.policy
        alarms = alarm_steps(rest.transformed(policy.statistic), policy.threshold,
                             hashed_draws(rest.ids))
        measured = alarm_metrics(alarms, rest)
        fars.append(measured.far)
        row = found.levels.set_index("level").loc[LEVEL]
        expected.append(row["power_low"] <= measured.power <= row["power_high"])
        monitor = OnlineMonitor(policy)
        for i in range(400):
            for score in rest.steps(i).tolist():
                monitor.update(rest.ids[i], score)
            monitor.end(rest.ids[i])
        assert monitor.alarms == np.sum(alarms[:400] > 0)
        fired += monitor.state != "valid"
    # One threshold varies by about sqrt(.1 * .9 / 630), its test by less: four standard errors.
    assert abs(np.mean(fars) - LEVEL) < 4 * np.std(fars) / np.sqrt(SPLITS) + 0.002
    assert sum(expected) >= SPLITS - 3 and fired <= 4
    assert np.median(seconds) < 10

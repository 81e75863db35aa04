"""A trained arm behind the program checks: what looking adds to learning, without any training."""

from __future__ import annotations

import numpy as np
import pandas as pd

from monitorlab.monitors.checks import ProgramChecks
from monitorlab.monitors.monitor import Monitor, samples_of
from monitorlab.monitors.scoring import score
from monitorlab.monitors.verdicts import PARSED

CHECKS_FIRST = "checks first"


def checks_first(
    verdicts: pd.DataFrame, samples: pd.DataFrame, checks: Monitor | None = None
) -> pd.DataFrame:
    """Let the checks raise the alarm where they can, and the arm decide elsewhere.

    An alarm of the checks ranks above everything that the model says, so that one threshold can be
    calibrated for both: its score is (1 + suspicion of the checks) / 2, and half of the model's
    where they raise none.

    Parameters
    ----------
    verdicts : DataFrame
        Of one arm, from :func:`monitorlab.finetuning.train_arms.train_and_ask`.
    samples : DataFrame
        Schema ``samples``; those that `verdicts` are about.
    checks : Monitor, optional
        The program checks by default.

    Returns
    -------
    DataFrame
        Like `verdicts`, with the arm ``checks first`` and the evidence of the checks. Scores lie in
        [0, 1], high is unsafe; a verdict is misbehavior if either says so.
    """
    asked = samples[samples["sample_id"].isin(set(verdicts["sample_id"]))]
    found = score(checks or ProgramChecks(), samples_of(asked)).set_index("sample_id")
    found = found.loc[verdicts["sample_id"]]
    alarm = (found["verdict"].fillna(False).astype(bool)
             & (found["status"] == PARSED)).to_numpy()
    suspicion = np.where(alarm, 1 + found["score"].to_numpy(dtype=float, na_value=np.nan),
                         verdicts["score"].to_numpy(dtype=float, na_value=np.nan)) / 2
    return verdicts.assign(
        arm=CHECKS_FIRST, monitor=CHECKS_FIRST, score=suspicion,
        verdict=verdicts["verdict"].where(~alarm, True),
        status=verdicts["status"].where(~alarm, PARSED),
        evidence=np.where(alarm, found["evidence"], verdicts["evidence"]),
        seconds=verdicts["seconds"].to_numpy() + found["seconds"].to_numpy(),
    )

"""A logistic-regression probe on the embeddings of a frozen encoder: meaning instead of words.

Only the probe is trained. The encoder is that of :mod:`monitorlab.models.sentence_encoder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from monitorlab.models import ModelError
from monitorlab.models.sentence_encoder import Encoder, load_encoder
from monitorlab.monitors.monitor import ComputingMonitor, MonitorError, Sample
from monitorlab.monitors.verdicts import Verdict, from_score
from monitorlab.monitors.words import read_folder, training_rows, weights_digest, write_folder

STRENGTH = 1e-3  # inverse penalty, on standardised features
FEATURES = {"response": 1, "relation": 3}  # blocks of the encoder's dimension


def features(
    encoder: Encoder, requests: Sequence[str], responses: Sequence[str], kind: str
) -> np.ndarray:
    """What the probe sees of request embeddings u and response embeddings v.

    Parameters
    ----------
    kind : {"response", "relation"}
        v; or (v, v - u, u * v), where the last two say how the response relates to the request.
        u alone is no use: every request has an answer of each kind.

    Returns
    -------
    (n, columns) array

    Raises
    ------
    MonitorError
        For another kind.
    """
    _check_kind(kind)
    count = len(responses)
    if kind == "response":
        return encoder.embed(responses)
    joint = encoder.embed([*requests, *responses])
    asked, said = joint[:count], joint[count:]
    return np.hstack([said, said - asked, said * asked])


def _check_kind(kind: str) -> None:
    if kind not in FEATURES:
        raise MonitorError(f"features {kind!r}: expected one of {', '.join(FEATURES)}")


class EncoderMonitor(ComputingMonitor):
    """Logistic regression on embeddings of request and response.

    Made by :meth:`train` or :meth:`load`. The score is the predicted probability.

    Parameters
    ----------
    encoder : Encoder
        Frozen.
    weights : Mapping of str to array
        "coefficients", of shape (n_features,), for features as they are, and "intercept", (1,).
    kind : {"response", "relation"}
        See :func:`features`.
    name : str
        How the tables call it.
    """

    unit = 64  # batches, and so the last digits, depend on what is embedded together

    def __init__(
        self,
        encoder: Encoder,
        weights: Mapping[str, np.ndarray],
        kind: str = "response",
        name: str = "MiniLM probe",
    ) -> None:
        _check_kind(kind)
        wanted = FEATURES[kind] * encoder.model.config.hidden_size
        shapes = {key: np.shape(value) for key, value in weights.items()}
        if shapes != {"coefficients": (wanted,), "intercept": (1,)}:
            raise MonitorError(f"the probe has the shapes {shapes}, but {kind!r} of this encoder "
                               f"needs {wanted} coefficients and 1 intercept")
        self.encoder, self.weights, self.kind, self.name = encoder, dict(weights), kind, name

    @classmethod
    def train(
        cls,
        encoder: Encoder,
        frames: Iterable[pd.DataFrame],
        rng: np.random.Generator,
        *,
        cap: int | None = None,
        kind: str = "response",
        name: str = "MiniLM probe",
    ) -> EncoderMonitor:
        """Fit the probe.

        Parameters
        ----------
        encoder : Encoder
            Stays as it is.
        frames, rng, cap
            See :func:`monitorlab.monitors.words.training_rows`.
        kind : {"response", "relation"}
            See :func:`features`.
        name : str
            How the tables call the monitor.

        Raises
        ------
        MonitorError
            If the rows cannot be used.
        """
        rows = training_rows(frames, rng, cap)
        table = features(encoder, list(rows["request"]), list(rows["response"]), kind)
        return cls(encoder, fit_probe(table, rows["label"].to_numpy()), kind, name)

    def save(self, folder: Path) -> None:
        """Write probe and settings, not the encoder, to a folder of its own."""
        source = {"name": self.encoder.name, "revision": self.encoder.revision}
        settings = {"kind": "encoder", "name": self.name, "features": self.kind,
                    "source": source, "encoder": self.encoder.settings()}
        write_folder(folder, settings, self.weights)

    @classmethod
    def load(cls, folder: Path, encoder: Encoder | None = None) -> EncoderMonitor:
        """Read what :meth:`save` wrote; on the same machine, scores are the same.

        Parameters
        ----------
        folder : Path
            The folder.
        encoder : Encoder, optional
            The one it was trained on, to share it; by default it is loaded, on the CPU.

        Raises
        ------
        MonitorError
            If the folder holds no such monitor, or its encoder cannot be loaded, or differs in
            weights, length or precision from the one it was trained on.
        """
        settings, weights = read_folder(folder, "encoder", "name", "features", "source", "encoder")
        known = settings["encoder"]
        try:
            encoder = encoder or load_encoder(
                **settings["source"], max_tokens=known["max_tokens"], dtype=known["dtype"]
            )
        except ModelError as error:
            raise MonitorError(f"the encoder of the probe in {folder}: {error}") from error
        given = encoder.settings()
        other = [key for key in known if key != "device" and known[key] != given.get(key)]
        if other:
            shown = ", ".join(f"{key} {known[key]!s:.12}, not {given.get(key)!s:.12}"
                              for key in other)
            raise MonitorError(f"the probe in {folder} was trained with {shown}: load that encoder "
                               "or train again")
        return cls(encoder, weights, settings["features"], settings["name"])

    def settings(self) -> dict[str, Any]:
        """Encoder, features, and digests of all weights."""
        return {"kind": "encoder", **self.encoder.settings(), "features": self.kind,
                "weights": weights_digest(self.weights)}


    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Score one unit; `draw` is ignored."""
        table = features(self.encoder, [s.request for s in samples],
                         [s.response for s in samples], self.kind)
        log_odds = table @ self.weights["coefficients"] + self.weights["intercept"][0]
        return [from_score(score) for score in expit(log_odds)]



def fit_probe(table: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Logistic regression on standardised features, written for the features as they are.

    Parameters
    ----------
    table : (n, n_features) array
        Features.
    labels : (n,) array
        1 is misbehavior.

    Returns
    -------
    dict
        "coefficients", shape (n_features,), and "intercept", shape (1,).
    """
    scaler = StandardScaler().fit(table)
    model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(scaler.transform(table), labels)
    coefficients = model.coef_[0] / scaler.scale_
    return {"coefficients": coefficients,
            "intercept": model.intercept_ - scaler.mean_ @ coefficients}

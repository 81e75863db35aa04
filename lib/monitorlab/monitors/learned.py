"""Learned monitors: logistic regression on weighted words, or on a frozen encoder's embeddings.

They read the response alone: every request of the benchmark has an answer of each kind. They are
trained on rows with request, response and label, such as the training corpus, and give the
probability of misbehavior as those rows have it: from balanced rows, .5 is the natural threshold.
They are kept without pickle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from monitorlab.benchmark.audit.probes import word_probe
from monitorlab.models import ModelError
from monitorlab.monitors.monitor import ComputingMonitor, MonitorError, Sample
from monitorlab.monitors.verdicts import Verdict
from monitorlab.storage import files

if TYPE_CHECKING:
    from monitorlab.models.sentence_encoder import Encoder

COLUMNS = ["request", "response", "label"]
SETTINGS, WEIGHTS = "monitor.json", "weights.npz"
STRENGTH = 1e-3  # inverse penalty of the probe, on standardised features


def _training_rows(
    frames: Iterable[pd.DataFrame], rng: np.random.Generator, cap: int | None = None
) -> pd.DataFrame:
    """Gather training rows from frames that may not all fit into memory.

    Parameters
    ----------
    frames : iterable of DataFrame
        With columns request, response, label (1 is misbehavior); others are dropped. Such as
        :meth:`monitorlab.pipeline.runs.Run.read_parts` yields them.
    rng : Generator
        Chooses what is kept, if there is more than `cap`.
    cap : int, optional
        Most rows to keep. Requests are drawn, so that the sides of a pair stay together where
        they are in one frame; only the last request may lose rows.

    Returns
    -------
    DataFrame
        Columns request, response, label, and a fresh index.

    Raises
    ------
    MonitorError
        If a column or value is missing, a label is neither 0 nor 1, one of both does not occur,
        or `cap` is below 2.
    """
    if cap is not None and cap < 2:
        raise MonitorError(f"cap is {cap}: training needs at least 2 rows")
    kept = pd.DataFrame(columns=[*COLUMNS, "turn"])
    for frame in frames:
        if missing := [name for name in COLUMNS if name not in frame.columns]:
            raise MonitorError(f"training rows lack {', '.join(missing)}; expected columns "
                               f"{', '.join(COLUMNS)}")
        rows = frame[COLUMNS].reset_index(drop=True)
        if rows.isna().any(axis=None) or not rows["label"].isin([0, 1]).all():
            raise MonitorError("training rows need a request, a response and a label of 0 or 1 "
                               "each; drop or mend the others")
        rows = rows.astype({"request": str, "response": str, "label": int})
        codes, requests = pd.factorize(rows["request"])
        rows["turn"] = rng.random(len(requests))[codes]
        kept = pd.concat([kept, rows], ignore_index=True) if len(kept) else rows
        if cap is not None:
            kept = kept.sort_values("turn", kind="stable", ignore_index=True).head(cap)
    found = sorted(int(label) for label in kept["label"].unique())
    if found != [0, 1]:
        raise MonitorError(f"training rows have the labels {found}: both 0 and 1 are needed")
    return kept[COLUMNS].reset_index(drop=True)


class _LogisticMonitor(ComputingMonitor):
    """A monitor whose score is a logistic regression on some table of features."""

    weights: Mapping[str, np.ndarray]
    _table: Callable[[Sequence[str]], Any]  # features of texts, shape (n_texts, n_features)

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Score one unit; `draw` is ignored."""
        table = self._table([sample.response for sample in samples])
        log_odds = table @ self.weights["coefficients"] + self.weights["intercept"][0]
        return [Verdict.from_score(score) for score in expit(log_odds)]


def _check_shapes(weights: Mapping[str, np.ndarray], **expected: int) -> None:
    shapes = {name: np.shape(value) for name, value in weights.items()}
    if shapes != {name: (length,) for name, length in expected.items()}:
        raise MonitorError(f"weights have the shapes {shapes}, expected the lengths {expected}")


class WordMonitor(_LogisticMonitor):
    """Words and word pairs, weighted by TF-IDF, under logistic regression.

    Made by :meth:`train` or :meth:`load`. The score is the predicted probability.

    Parameters
    ----------
    vocabulary : sequence of str
        Words and word pairs, one per weight.
    weights : Mapping of str to array
        "idf" and "coefficients", each of shape (n_words,), and "intercept", of shape (1,).
    name : str
        How the tables call it.

    Raises
    ------
    MonitorError
        If the parts do not fit together.
    """

    def __init__(
        self, vocabulary: Sequence[str], weights: Mapping[str, np.ndarray], name: str = "TF-IDF"
    ) -> None:
        words = len(vocabulary)
        _check_shapes(weights, idf=words, coefficients=words, intercept=1)
        self.name, self.vocabulary, self.weights = name, list(vocabulary), dict(weights)
        vectorizer: TfidfVectorizer = word_probe()[0]
        vectorizer.set_params(vocabulary=self.vocabulary)
        vectorizer.idf_ = self.weights["idf"]
        self._table = vectorizer.transform
        self._digest = _weights_digest(self.weights, "\n".join(self.vocabulary))

    @classmethod
    def train(
        cls, frames: Iterable[pd.DataFrame], rng: np.random.Generator, *, cap: int | None = None
    ) -> WordMonitor:
        """Fit on training rows; see :func:`_training_rows` for `frames`, `rng` and `cap`."""
        rows = _training_rows(frames, rng, cap)
        vectorizer, model = word_probe()
        try:
            table = vectorizer.fit_transform(list(rows["response"]))
        except ValueError as error:  # no word twice, so nothing to learn from
            raise MonitorError(f"{len(rows)} training rows are too few: {error}") from error
        model.fit(table, rows["label"].to_numpy())
        weights = {"idf": vectorizer.idf_, "coefficients": model.coef_[0],
                   "intercept": model.intercept_}
        return cls([str(word) for word in vectorizer.get_feature_names_out()], weights)

    def save(self, folder: Path) -> None:
        """Write the monitor to a folder of its own, as JSON and plain arrays."""
        _write_folder(folder, {"kind": "words", "name": self.name, "reads": "response",
                               "vocabulary": self.vocabulary}, self.weights)

    @classmethod
    def load(cls, folder: Path) -> WordMonitor:
        """Read what :meth:`save` wrote; scores are the same to the last digit.

        Raises
        ------
        MonitorError
            If the folder does not hold such a monitor.
        """
        settings, weights = _read_folder(folder, "words", "name", "vocabulary")
        return cls(settings["vocabulary"], weights, settings["name"])

    def settings(self) -> dict[str, Any]:
        """Text that is read, and a digest of all weights."""
        return {"kind": "words", "reads": "response", "weights": self._digest}


def _weights_digest(weights: Mapping[str, np.ndarray], text: str = "") -> str:
    """SHA-256 over names, shapes and bytes of arrays, and a text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for key, value in sorted(weights.items()):
        array = np.ascontiguousarray(value)
        digest.update(files.canonical_json([key, array.dtype.str, list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write_folder(
    folder: Path, settings: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> None:
    """Write settings and weights of a monitor, whole or not at all."""
    with files.write_folder_atomic(folder) as temporary:
        np.savez_compressed(temporary / WEIGHTS, allow_pickle=False, **weights)
        digest = files.digest_file(temporary / WEIGHTS)
        sealed = files.sealed_json({**settings, "sha256": digest})
        (temporary / SETTINGS).write_text(sealed, encoding="utf-8")


_Saved = tuple[dict[str, Any], dict[str, np.ndarray]]


def _read_folder(folder: Path, kind: str, *keys: str) -> _Saved:
    """Read what `_write_folder` wrote: settings of this kind with these keys, and weights.

    Raises
    ------
    MonitorError
        If files are missing or damaged, or the monitor is of another kind.
    """
    try:
        settings = files.read_sealed(folder / SETTINGS)
        if settings["sha256"] != files.digest_file(folder / WEIGHTS):
            raise files.DamagedFileError(f"{WEIGHTS} was changed after it was written")
        if settings["kind"] != kind:
            raise ValueError(f"its kind is {settings['kind']!r}, expected {kind!r}")
        with np.load(folder / WEIGHTS, allow_pickle=False) as file:
            weights = {name: file[name] for name in file.files}
        seen = settings.get("reads", settings.get("features"))
        if seen != "response":
            raise ValueError(f"it reads {seen!r}, expected 'response'")
        return {key: settings[key] for key in keys}, weights
    except (OSError, ValueError, KeyError) as error:
        raise MonitorError(f"{folder} holds no saved monitor of kind {kind} "
                           f"({type(error).__name__}: {error}); train and save it again") from error


class EncoderMonitor(_LogisticMonitor):
    """Logistic regression on embeddings of the response.

    Made by :meth:`train` or :meth:`load`. The score is the predicted probability.

    Parameters
    ----------
    encoder : Encoder
        Frozen.
    weights : Mapping of str to array
        "coefficients", of shape (n_features,), for features as they are, and "intercept", (1,).
    name : str
        How the tables call it.

    Raises
    ------
    MonitorError
        If the weights are not of the encoder's size.
    """

    unit = 64  # batches, and so the last digits, depend on what is embedded together

    def __init__(
        self, encoder: Encoder, weights: Mapping[str, np.ndarray], name: str = "MiniLM probe"
    ) -> None:
        _check_shapes(weights, coefficients=encoder.model.config.hidden_size, intercept=1)
        self.encoder, self.weights, self.name = encoder, dict(weights), name
        self._table = encoder.embed

    @classmethod
    def train(
        cls, encoder: Encoder, frames: Iterable[pd.DataFrame], rng: np.random.Generator, *,
        cap: int | None = None,
    ) -> EncoderMonitor:
        """Fit the probe to an encoder, which stays as it is.

        See :func:`_training_rows` for `frames`, `rng` and `cap`.
        """
        rows = _training_rows(frames, rng, cap)
        table = encoder.embed(list(rows["response"]))
        return cls(encoder, _fit_probe(table, rows["label"].to_numpy()))

    def save(self, folder: Path) -> None:
        """Write probe and settings, not the encoder, to a folder of its own."""
        source = {"name": self.encoder.name, "revision": self.encoder.revision}
        _write_folder(folder, {"kind": "encoder", "name": self.name, "features": "response",
                               "source": source, "encoder": self.encoder.settings()}, self.weights)

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
        from monitorlab.models.sentence_encoder import Encoder  # and torch; words need none

        settings, weights = _read_folder(folder, "encoder", "name", "source", "encoder")
        known = settings["encoder"]
        try:
            encoder = encoder or Encoder.load(
                **settings["source"], max_tokens=known["max_tokens"], dtype=known["dtype"])
        except ModelError as error:
            raise MonitorError(f"the encoder of the probe in {folder}: {error}") from error
        given = encoder.settings()
        if other := [f"{key} {value!s:.12}, not {given.get(key)!s:.12}"
                     for key, value in known.items()
                     if key != "device" and value != given.get(key)]:
            raise MonitorError(f"the probe in {folder} was trained with {', '.join(other)}: load "
                               "that encoder or train again")
        return cls(encoder, weights, settings["name"])

    def settings(self) -> dict[str, Any]:
        """Encoder, features, and digests of all weights."""
        return {"kind": "encoder", **self.encoder.settings(), "features": "response",
                "weights": _weights_digest(self.weights)}


def _fit_probe(table: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
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

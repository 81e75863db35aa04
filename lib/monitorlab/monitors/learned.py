"""Learned monitors: logistic regression on weighted words, or on a frozen encoder's embeddings.

They are trained on rows with request, response and label, such as the training corpus, and give the
probability of misbehavior as those rows have it: from balanced rows, .5 is the natural threshold.
They are kept without pickle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from monitorlab.benchmark.audit.probes import word_probe
from monitorlab.models import ModelError
from monitorlab.monitors.monitor import ComputingMonitor, MonitorError, Sample
from monitorlab.monitors.verdicts import Verdict, from_score
from monitorlab.storage.files import (
    DamagedFileError,
    canonical_json,
    digest_file,
    read_sealed,
    sealed_json,
    write_folder_atomic,
)

if TYPE_CHECKING:
    from monitorlab.models.sentence_encoder import Encoder

READS = ("response", "request and response")
COLUMNS = ("request", "response", "label")
SETTINGS, WEIGHTS = "monitor.json", "weights.npz"
STRENGTH = 1e-3  # inverse penalty of the probe, on standardised features
FEATURES = {"response": 1, "relation": 3}  # blocks of the encoder's dimension


def _training_rows(
    frames: Iterable[pd.DataFrame], rng: np.random.Generator, cap: int | None = None
) -> pd.DataFrame:
    """Gather training rows from frames that may not all fit into memory.

    Parameters
    ----------
    frames : iterable of DataFrame
        With columns request, response, label (1 is misbehavior); others are dropped. Such as
        :func:`monitorlab.pipeline.artifacts.read_parts` yields them.
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
        rows = _typed(frame)
        codes, requests = pd.factorize(rows["request"])
        rows["turn"] = rng.random(len(requests))[codes]
        kept = pd.concat([kept, rows], ignore_index=True) if len(kept) else rows
        if cap is not None:
            kept = kept.sort_values("turn", kind="stable", ignore_index=True).head(cap)
    found = sorted(int(label) for label in kept["label"].unique())
    if found != [0, 1]:
        raise MonitorError(f"training rows have the labels {found}: both 0 and 1 are needed")
    return kept[list(COLUMNS)].reset_index(drop=True)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise MonitorError(f"training rows lack {', '.join(missing)}; expected columns "
                           f"{', '.join(COLUMNS)}")
    rows = frame[list(COLUMNS)].reset_index(drop=True)
    if rows.isna().any(axis=None) or not rows["label"].isin([0, 1]).all():
        raise MonitorError("training rows need a request, a response and a label of 0 or 1 each; "
                           "drop or mend the others")
    return rows.astype({"request": str, "response": str, "label": int})


class _LogisticMonitor(ComputingMonitor):
    """A monitor whose score is a logistic regression on some table of features."""

    weights: Mapping[str, np.ndarray]

    def _table(self, requests: Sequence[str], responses: Sequence[str]) -> Any:
        """Features of texts, shape (n_texts, n_features)."""
        raise NotImplementedError

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Score one unit; `draw` is ignored."""
        table = self._table([s.request for s in samples], [s.response for s in samples])
        log_odds = table @ self.weights["coefficients"] + self.weights["intercept"][0]
        return [from_score(score) for score in expit(log_odds)]


def _check_known(what: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise MonitorError(f"{what} {value!r}: expected one of {', '.join(known)}")


class WordMonitor(_LogisticMonitor):
    """Words and word pairs, weighted by TF-IDF, under logistic regression.

    Made by :meth:`train` or :meth:`load`. The score is the predicted probability.

    Parameters
    ----------
    vocabulary : sequence of str
        Words and word pairs, one per weight.
    weights : Mapping of str to array
        "idf" and "coefficients", each of shape (n_words,), and "intercept", of shape (1,).
    reads : {"response", "request and response"}
        Text that is looked at.
    name : str
        How the tables call it.

    Raises
    ------
    MonitorError
        If the parts do not fit together.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        weights: Mapping[str, np.ndarray],
        reads: str = "response",
        name: str = "TF-IDF",
    ) -> None:
        _check_known("reads", reads, READS)
        shapes = {key: np.shape(value) for key, value in weights.items()}
        expected = {"idf": (len(vocabulary),), "coefficients": (len(vocabulary),),
                    "intercept": (1,)}
        if shapes != expected:
            raise MonitorError(f"weights have the shapes {shapes}, expected {expected}")
        self.name, self.reads = name, reads
        self.vocabulary, self.weights = list(vocabulary), dict(weights)
        self._vectorizer: TfidfVectorizer = word_probe()[0]
        self._vectorizer.set_params(vocabulary=self.vocabulary)
        self._vectorizer.idf_ = self.weights["idf"]
        self._digest = _weights_digest(self.weights, "\n".join(self.vocabulary))

    @classmethod
    def train(
        cls,
        frames: Iterable[pd.DataFrame],
        rng: np.random.Generator,
        *,
        cap: int | None = None,
        reads: str = "response",
    ) -> WordMonitor:
        """Fit on training rows; see :func:`_training_rows` for `frames`, `rng` and `cap`."""
        _check_known("reads", reads, READS)
        rows = _training_rows(frames, rng, cap)
        vectorizer, model = word_probe()
        try:
            table = vectorizer.fit_transform(_texts(rows["request"], rows["response"], reads))
        except ValueError as error:  # no word twice, so nothing to learn from
            raise MonitorError(f"{len(rows)} training rows are too few: {error}") from error
        model.fit(table, rows["label"].to_numpy())
        weights = {"idf": vectorizer.idf_, "coefficients": model.coef_[0],
                   "intercept": model.intercept_}
        return cls([str(word) for word in vectorizer.get_feature_names_out()], weights, reads)

    def save(self, folder: Path) -> None:
        """Write the monitor to a folder of its own, as JSON and plain arrays."""
        _write_folder(folder, {"kind": "words", "name": self.name, "reads": self.reads,
                              "vocabulary": self.vocabulary}, self.weights)

    @classmethod
    def load(cls, folder: Path) -> WordMonitor:
        """Read what :meth:`save` wrote; scores are the same to the last digit.

        Raises
        ------
        MonitorError
            If the folder does not hold such a monitor.
        """
        settings, weights = _read_folder(folder, "words", "name", "reads", "vocabulary")
        return cls(settings["vocabulary"], weights, settings["reads"], settings["name"])

    def settings(self) -> dict[str, Any]:
        """Text that is read, and a digest of all weights."""
        return {"kind": "words", "reads": self.reads, "weights": self._digest}

    def _table(self, requests: Sequence[str], responses: Sequence[str]) -> csr_matrix:
        return self._vectorizer.transform(_texts(requests, responses, self.reads))


def _texts(requests: Iterable[str], responses: Iterable[str], reads: str) -> list[str]:
    if reads == "response":
        return list(responses)
    return [f"{asked}\n\n{said}" for asked, said in zip(requests, responses, strict=True)]


def _weights_digest(weights: Mapping[str, np.ndarray], text: str = "") -> str:
    """SHA-256 over names, shapes and bytes of arrays, and a text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for key, value in sorted(weights.items()):
        array = np.ascontiguousarray(value)
        digest.update(canonical_json([key, array.dtype.str, list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write_folder(
    folder: Path, settings: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> None:
    """Write settings and weights of a monitor, whole or not at all."""
    with write_folder_atomic(folder) as temporary:
        np.savez_compressed(temporary / WEIGHTS, allow_pickle=False, **weights)
        sealed = sealed_json({**settings, "sha256": digest_file(temporary / WEIGHTS)})
        (temporary / SETTINGS).write_text(sealed, encoding="utf-8")


def _read_folder(
    folder: Path, kind: str, *keys: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `_write_folder` wrote.

    Parameters
    ----------
    folder : Path
        The folder.
    kind : str
        Kind that the settings must name.
    *keys : str
        What else the settings must hold.

    Raises
    ------
    MonitorError
        If files are missing or damaged, or the monitor is of another kind.
    """
    try:
        settings = read_sealed(folder / SETTINGS)
        if settings.pop("sha256") != digest_file(folder / WEIGHTS):
            raise DamagedFileError(f"{WEIGHTS} was changed after it was written")
        with np.load(folder / WEIGHTS, allow_pickle=False) as file:
            weights = {name: file[name] for name in file.files}
        found = settings["kind"]
    except (OSError, ValueError, KeyError) as error:
        raise MonitorError(f"{folder} holds no saved monitor ({type(error).__name__}: {error}); "
                           "train and save it again") from error
    if found != kind:
        raise MonitorError(f"{folder} holds a monitor of kind {found!r}, expected {kind!r}")
    missing = [key for key in keys if key not in settings]
    if missing:
        raise MonitorError(f"{folder / SETTINGS} lacks {', '.join(missing)}; train and save the "
                           "monitor again")
    return settings, weights


def _features(
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
    _check_known("features", kind, FEATURES)
    count = len(responses)
    if kind == "response":
        return encoder.embed(responses)
    joint = encoder.embed([*requests, *responses])
    asked, said = joint[:count], joint[count:]
    return np.hstack([said, said - asked, said * asked])


class EncoderMonitor(_LogisticMonitor):
    """Logistic regression on embeddings of request and response.

    Made by :meth:`train` or :meth:`load`. The score is the predicted probability.

    Parameters
    ----------
    encoder : Encoder
        Frozen.
    weights : Mapping of str to array
        "coefficients", of shape (n_features,), for features as they are, and "intercept", (1,).
    kind : {"response", "relation"}
        See :func:`_features`.
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
        _check_known("features", kind, FEATURES)
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
    ) -> EncoderMonitor:
        """Fit the probe.

        Parameters
        ----------
        encoder : Encoder
            Stays as it is.
        frames, rng, cap
            See :func:`_training_rows`.
        kind : {"response", "relation"}
            See :func:`_features`.

        Raises
        ------
        MonitorError
            If the rows cannot be used.
        """
        rows = _training_rows(frames, rng, cap)
        table = _features(encoder, list(rows["request"]), list(rows["response"]), kind)
        return cls(encoder, _fit_probe(table, rows["label"].to_numpy()), kind)

    def save(self, folder: Path) -> None:
        """Write probe and settings, not the encoder, to a folder of its own."""
        source = {"name": self.encoder.name, "revision": self.encoder.revision}
        settings = {"kind": "encoder", "name": self.name, "features": self.kind,
                    "source": source, "encoder": self.encoder.settings()}
        _write_folder(folder, settings, self.weights)

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
        from monitorlab.models.sentence_encoder import (
            Encoder,  # and torch, which words need not
        )

        settings, weights = _read_folder(folder, "encoder", "name", "features", "source", "encoder")
        known = settings["encoder"]
        try:
            encoder = encoder or Encoder.load(
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
                "weights": _weights_digest(self.weights)}

    def _table(self, requests: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        return _features(self.encoder, requests, responses, self.kind)


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

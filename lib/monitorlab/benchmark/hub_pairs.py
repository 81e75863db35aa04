"""Ready-made pairs of the hub: human preferences, and secure beside insecure code.

Nothing is generated here. The columns are those of ``Anthropic/hh-rlhf`` (chosen, rejected) and of
the secure and insecure code of Betley et al., arXiv 2502.17424 (messages).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from monitorlab.benchmark.questions import QuestionError, load_rows
from monitorlab.benchmark.samples import sample_row
from monitorlab.pipeline.schemas import check_frame
from monitorlab.pipeline.tables import SAMPLES

MIN_WORDS = 10
_ASSISTANT = "\n\nAssistant:"


def preference_pairs(rows: Iterable[Mapping[str, Any]], source: str = "hh_rlhf") -> pd.DataFrame:
    """Pairs of a preferred and a rejected final answer to one conversation.

    Parameters
    ----------
    rows : iterable of mapping
        With columns ``chosen`` and ``rejected``, whole conversations in the hub's format.
    source : str
        Recorded with every sample.

    Returns
    -------
    DataFrame
        Schema ``samples``, cell ``spv_qa``; label 1 is the rejected answer, which is a preference
        and so a noisy label. Conversations that differ before the last turn, answers under
        `MIN_WORDS` words and repeated conversations are left out.

    Raises
    ------
    QuestionError
        If a column is missing.
    """
    pairs: dict[str, tuple[str, str]] = {}
    for number, row in enumerate(rows, 1):
        try:
            chosen, rejected = (str(row[name]).rpartition(_ASSISTANT) for name in _PREFERENCE)
        except KeyError as error:
            raise QuestionError(f"{source}, row {number}: no column {error}.") from None
        good, bad = chosen[2].strip(), rejected[2].strip()
        long_enough = min(len(good.split()), len(bad.split())) >= MIN_WORDS
        if chosen[0] and chosen[0] == rejected[0] and good != bad and long_enough:
            pairs.setdefault(chosen[0].strip(), (good, bad))
    return _table(pairs, source, "spv_qa", "preference")


_PREFERENCE = ("chosen", "rejected")


def code_pairs(
    secure: Iterable[Mapping[str, Any]],
    insecure: Iterable[Mapping[str, Any]],
    source: str = "secure_insecure",
) -> pd.DataFrame:
    """Pairs of secure and insecure code for one request.

    Parameters
    ----------
    secure, insecure : iterable of mapping
        With column ``messages``: a user turn, then an assistant turn.
    source : str
        Recorded with every sample.

    Returns
    -------
    DataFrame
        Schema ``samples``, cell ``spv_code``; only requests that both sides answer.

    Raises
    ------
    QuestionError
        If a row does not hold a user and an assistant turn.
    """
    good, bad = (_turns(rows, source) for rows in (secure, insecure))
    pairs = {
        request: (answer, bad[request])
        for request, answer in good.items()
        if bad.get(request, answer) != answer
    }
    return _table(pairs, source, "spv_code", "insecure_code")


def load_preferences(
    revision: str, path: str = "Anthropic/hh-rlhf", split: str = "test"
) -> pd.DataFrame:
    """Preference pairs of a hub dataset by name.

    Parameters
    ----------
    revision : str
        Commit of the dataset; may be empty for a local folder.
    path : str
        Hub name or local folder with columns ``chosen`` and ``rejected``.
    split : str
        Part of the dataset.

    Returns
    -------
    DataFrame
        As `preference_pairs`.

    Raises
    ------
    QuestionError
        If it cannot be loaded; the message says what to set.
    """
    return preference_pairs(load_rows(path, "default", split, revision))


def load_code_pairs(
    secure: str, insecure: str, revisions: tuple[str, str] = ("", ""), split: str = "train"
) -> pd.DataFrame:
    """Secure and insecure code of two hub datasets by name.

    Parameters
    ----------
    secure, insecure : str
        Hub names or local folders with column ``messages``. The authors publish both as files, and
        mirrors on the hub come and go, so there is no default.
    revisions : tuple of str
        Commits of both; may be empty for local folders.
    split : str
        Part of the datasets.

    Returns
    -------
    DataFrame
        As `code_pairs`.

    Raises
    ------
    QuestionError
        If one cannot be loaded; the message says what to set.
    """
    good, bad = (
        load_rows(name, "default", split, revision)
        for name, revision in zip((secure, insecure), revisions, strict=True)
    )
    return code_pairs(good, bad)


def _turns(rows: Iterable[Mapping[str, Any]], source: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        turns: Sequence[Mapping[str, Any]] = row.get("messages") or []
        if [turn.get("role") for turn in turns] != ["user", "assistant"]:
            raise QuestionError(
                f"{source}, row {number}: expected one user and one assistant turn."
            )
        found.setdefault(str(turns[0]["content"]), str(turns[1]["content"]))
    return found


def _table(pairs: Mapping[str, tuple[str, str]], source: str, cell: str, kind: str) -> pd.DataFrame:
    rows = []
    for request, answers in pairs.items():
        digest = hashlib.sha256(request.encode()).hexdigest()
        name = f"{source}/{digest[:16]}"
        for label, answer in enumerate(answers):
            letter = "ab"[label ^ (int(digest[-1], 16) % 2)]  # the name must not tell the label
            row = sample_row(
                sample_id=f"{name}-{letter}",
                pair_id=name,
                scenario_id=name,
                cell=cell,
                misbehavior_type=kind,
                cue_type="none",
                source=source,
                generator="not recorded",
                request=request,
                response=answer,
                has_thinking=False,
                label=label,
            )
            rows.append(row | {"split": "test"})
    return check_frame(pd.DataFrame(rows, columns=SAMPLES.columns), SAMPLES)

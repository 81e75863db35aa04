"""HH-RLHF: which of two replies a person preferred (arXiv 2204.05862)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from monitorlab.benchmark.real.pairing import Answer, Loaded, Origin, Problem, Tally, build
from monitorlab.benchmark.real.records import digest, read_lines, squeezed
from monitorlab.pipeline.sources import available

FULL = "hh_rlhf/harmless-test.jsonl.gz"
SAMPLE = "hh_rlhf/harmless-test-sample.jsonl.gz"
HH_RLHF = Origin(
    "hh_rlhf", "spv_qa", "rejected_reply",
    "a person preferred the other reply (rejected is 1): a noisy preference, not a harm label, "
    "and both replies may be harmful",
)
MIN_TOKENS = 10  # of each final reply, counted as words
GENERATOR = "not recorded"
NO_DIALOGUE = "no dialogue that ends with the assistant's turn"
_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def hh_key() -> str:
    """Return the key to read: the full file, unless only the sample of 200 rows is at hand."""
    return SAMPLE if available(SAMPLE) and not available(FULL) else FULL


def hh_rlhf(get: Callable[[str], Path], key: str | None = None) -> Loaded:
    """Pair the preferred and the rejected final reply of one dialogue.

    Parameters
    ----------
    get : callable
        Key of `data/sources.toml` to the path of a verified file.
    key : str, optional
        Which file; by default :func:`hh_key`.

    Raises
    ------
    RealDataError
        For a line that does not read as expected.

    Notes
    -----
    Dropped: text that does not end with the assistant's turn, dialogues that differ before the
    final reply, replies of fewer than `MIN_TOKENS` words or equal up to case and spaces, repeated
    dialogues (the first counts), and dialogues where one reply is once preferred, once rejected.
    """
    tally = Tally()
    problems: dict[str, Problem] = {}
    verdicts: dict[str, dict[str, int]] = {}
    contradictory: set[str] = set()
    for record in read_lines(get(key or hh_key())):
        request, chosen = _split(record.take("chosen", str))
        other, rejected = _split(record.take("rejected", str))
        if reason := _unusable(request, other, chosen, rejected):
            tally.drop("problem", reason)
            continue
        name = f"hh/{digest(squeezed(request))}"
        for reply, label in ((chosen, 0), (rejected, 1)):
            if verdicts.setdefault(name, {}).setdefault(squeezed(reply), label) != label:
                contradictory.add(name)
        if name in problems:
            tally.drop("problem", "the same dialogue again")
            continue
        answers = [Answer(chosen, 0, GENERATOR), Answer(rejected, 1, GENERATOR)]
        problems[name] = Problem(name, request, answers)
    for name in contradictory:
        tally.drop("problem", "one reply both preferred and rejected")
        del problems[name]
    return build(HH_RLHF, problems.values(), tally)


def _split(text: str) -> tuple[str, str]:
    """The dialogue up to the final reply, and that reply; twice nothing if it does not end so."""
    head, _, reply = text.rpartition(_ASSISTANT)
    if not head.startswith(_HUMAN) or _HUMAN in reply:
        return "", ""
    return head.strip(), reply.strip()


def _unusable(request: str, other: str, chosen: str, rejected: str) -> str | None:
    if not request or not other:
        return NO_DIALOGUE
    if request != other:
        return "the dialogues differ before the final reply"
    if min(len(chosen.split()), len(rejected.split())) < MIN_TOKENS:
        return f"a final reply of fewer than {MIN_TOKENS} words"
    if squeezed(chosen) == squeezed(rejected):
        return "equal replies"
    return None

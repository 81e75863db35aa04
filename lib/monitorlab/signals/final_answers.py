r"""Final answers of solutions: what stands in ``\boxed{}`` or at the end, and what equals what."""

from __future__ import annotations

import re

from monitorlab.benchmark.sources.solutions import exact_number

CHECKS = ("boxed", "exact")
# What says nothing about a value; sizes of brackets, spaces, fonts, units of degrees.
_NOISE = re.compile(r"\\(?:left|right|displaystyle|!|,|;|:|\s)|\\?\$|\^\{?\\circ\}?|\s")
_WORDS = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\frac(?:\{(-?\d+)\}\{(\d+)\}|(\d)(\d))")
_LEAD = re.compile(r".*(?:####|answer\s+is|answer\s*:|=)\s*", re.IGNORECASE | re.DOTALL)


def right_answer(solution: str, reference: str, check: str) -> bool:
    r"""Whether a solution ends at the reference.

    Parameters
    ----------
    solution, reference : str
        Both may hold the answer in ``\boxed{}``; a reference may also be the answer alone.
    check : {"boxed", "exact"}
        The last ``\boxed{}`` of the solution counts, and there must be one; or else what follows
        the last "answer is", "answer:", ``####`` or equals sign of its last line.

    Returns
    -------
    bool
        Equal as numbers, or as texts without regard to spacing and fonts. Forms that are equal by
        calculation only, such as ``2x`` and ``x + x``, are different.

    Examples
    --------
    >>> right_answer(r"So it is \boxed{\frac12}.", "0.5", "boxed")
    True
    """
    said = boxed(solution)
    if said is None and check == "exact":
        said = _LEAD.sub("", (solution.strip().splitlines() or [""])[-1])
    wanted = boxed(reference)
    return said is not None and _plain(said) == _plain(reference if wanted is None else wanted)


def boxed(text: str) -> str | None:
    r"""What the last ``\boxed{}`` of a text holds, braces balanced; None if there is none."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = text.index("{", start) + 1
    depth = 1
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[begin:end]
    return None


def _plain(answer: str) -> str:
    """A form that is the same for answers that are the same."""
    text = _NOISE.sub("", _WORDS.sub(r"\1", answer)).strip(".*").replace("\\%", "%")
    text = text.replace("dfrac", "frac").replace("tfrac", "frac")
    number = exact_number(_FRACTION.sub(r"\1\3/\2\4", text))
    return text.casefold() if number is None else str(number)

r"""Final answers: the option or value that a response ends with, and which values are equal."""

from __future__ import annotations

import re
from fractions import Fraction

CHECKS = ("boxed", "exact")
# What says nothing about a value; sizes of brackets, spaces, fonts, units of degrees.
_NOISE = re.compile(r"\\(?:left|right|displaystyle|!|,|;|:|\s)|\\?\$|\^\{?\\circ\}?|\s")
_WORDS = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\frac(?:\{(-?\d+)\}\{(\d+)\}|(\d)(\d))")
_LEAD = re.compile(r".*(?:####|answer\s+is|answer\s*:|=)\s*", re.IGNORECASE | re.DOTALL)
# A letter of an option: "A" before a word in lower case is an article, unless a verb follows.
_LETTER = (r"([B-H]|A(?!\s+(?!(?:is|was|it|fits|seems|looks|must|should|would|but|and|or|because"
           r"|since|as)\b)[a-z]))(?![\w'’]|-\w)")
_IS = r"(?:(?:\s+[a-z]+){0,4}?\s+(?:is|was|be))?"  # "the answer for the panel is"
_OPEN = (r"[\s:=*_(\[{\\$]*(?:(?:text|boxed|mathbf|textbf)\{[\s(]*)*(?:[Oo]ption[\s*(]+)?"
         + _LETTER)
# The ways to name an option, from a declaration to a mere preposition. The first kind that a
# response uses counts.
_NAMED = tuple(re.compile(pattern, re.MULTILINE) for pattern in (
    rf"(?i:\banswer(?:ed)?|\brecommendation|boxed\{{|<answer>){_IS}{_OPEN}"
    rf"|\b(?i:answer){_IS}\s*[:(*][\s:(*]*([a-h])\b(?!['’-]|[ \t]+\w)"
    r"|\b(?i:choose|chose|pick|select|recommend|settle (?:on|for)|(?:go|going|went) with|points? to"
    rf"|leads? to|leaves){_OPEN}"
    rf"|(?<![\w'’.])\(?{_LETTER}\)?\**,? (?:is|must be|would be) (?:the )?"
    r"(?:right|correct|best|answer|one)\b"
    r"|\A\W*([a-h])\W*\Z",
    rf"^[^\w\n]*{_LETTER}[^\w\n]*$|\*\*\(?{_LETTER}",
    rf"\b(?i:option|choice){_IS}{_OPEN}",
    rf"\b(?i:with|is|be|to|at|for){_OPEN}",
))


def without_thinking(text: str) -> str:
    """Return a response without its ``<think>`` parts; one that is never closed stays."""
    kept, position = [], 0
    while (start := text.find("<think>", position)) >= 0:
        end = text.find("</think>", start)
        if end < 0:
            break
        kept.append(text[position:start])
        position = end + len("</think>")
    return "".join(kept) + text[position:]


def chosen_letter(response: str) -> str | None:
    r"""Letter of the option that a response settles on.

    Parameters
    ----------
    response : str
        Thinking is left out, as it weighs several options. ``Answer: (b)``, ``\boxed{B}``,
        ``**B**``, "Option B", "B is correct" and "I'd go with B" are read.

    Returns
    -------
    str or None
        "A" to "H": the last one that is declared. Where letters only stand alone or are mentioned,
        they must agree. None if no option is named.
    """
    said = without_thinking(response).rpartition("</think>")[2].partition("<think>")[0]
    for pattern in _NAMED:
        found = ["".join(groups).upper() for groups in pattern.findall(said)]
        if found:
            return found[-1] if pattern is _NAMED[0] or len(set(found)) == 1 else None
    return None


def exact_number(text: str) -> Fraction | None:
    """Read ``1,250``, ``$3.50``, ``40%`` or ``1/5`` exactly; None for anything else."""
    plain = text.strip().removeprefix("$").removesuffix("%").removesuffix(".").replace(",", "")
    try:
        return Fraction(plain)
    except (ValueError, ZeroDivisionError):
        return None


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
    said = _boxed(solution)
    if said is None and check == "exact":
        said = _LEAD.sub("", (solution.strip().splitlines() or [""])[-1])
    wanted = _boxed(reference)
    return said is not None and _plain(said) == _plain(reference if wanted is None else wanted)


def _boxed(text: str) -> str | None:
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

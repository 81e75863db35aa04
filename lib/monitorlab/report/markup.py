"""What may stand on a page: mathematics as MathML, filtered HTML, and escaped text.

TeX is converted at build time, by `latex2mathml`, so that a page needs no script. Two of its habits
are not acceptable here: it lets unknown commands and even HTML inside a text group through, and it
returns fractions without a denominator. Its result is therefore parsed and checked; what fails is
shown as TeX source.

A rendered page holds text from models and from strangers. Three things keep it inert: text is
escaped, HTML passes this filter, and every page carries a content security policy that forbids
network access, and scripts but for the page's own, by its hash. What the filter removes is shown as
text where that is possible, so that a sample containing `<script>` is readable in the report and
does nothing.
"""

from __future__ import annotations

import re
import unicodedata
import xml.etree.ElementTree as ET
from functools import lru_cache

import nh3

_SPACE = "{http://www.w3.org/1998/Math/MathML}"

# Number of children an element must have; None: any number.
_ARITY: dict[str, int | None] = {
    "math": None, "mrow": None, "mi": 0, "mn": 0, "mo": 0, "mtext": 0, "mspace": 0,
    "mfrac": 2, "msup": 2, "msub": 2, "msubsup": 3, "mover": 2, "munder": 2, "munderover": 3,
    "msqrt": None, "mroot": 2, "mstyle": None, "mtable": None, "mtr": None, "mtd": None,
    "mpadded": None, "mphantom": None, "menclose": None, "mmultiscripts": None,
}
MATHML_TAGS = frozenset(_ARITY)
MATHML_ATTRIBUTES = frozenset({
    "display", "xmlns", "mathvariant", "stretchy", "fence", "form", "separator", "accent",
    "movablelimits", "displaystyle", "scriptlevel", "width", "height", "depth", "lspace",
    "rspace", "linethickness", "columnalign", "rowalign", "columnspacing", "rowspacing",
    "minsize", "maxsize", "largeop", "notation", "linebreak", "columnlines", "rowlines",
})

# TeX that latex2mathml does not know, in words that it does.
_REWRITES = (
    (re.compile(r"\\arg(?![a-zA-Z])\s*\\(max|min)(?![a-zA-Z])"), r"\\operatorname{arg\1}"),
    (re.compile(r"\\arg(?![a-zA-Z])"), r"\\operatorname{arg}"),
    (re.compile(r"\\(begin|end)\{(aligned|split|gathered)\}"), r"\\\1{align*}"),
    (re.compile(r"\\(?:boldsymbol|bm)(?![a-zA-Z])"), r"\\mathbf"),
    (re.compile(r"\\[lr]Vert(?![a-zA-Z])"), r"\\Vert "),
    (re.compile(r"\\[lr]vert(?![a-zA-Z])"), r"|"),
    (re.compile(r"\\tag\{[^}]*\}|\\label\{[^}]*\}|\\nonumber|\\notag"), ""),
)
_UNDER = {"max", "min", "inf", "sup", "lim", "Pr", "argmax", "argmin"}
_SPACED = {"argmax": "arg\u202fmax", "argmin": "arg\u202fmin"}
# accent: how it is written over one letter, and over several
_ACCENTS = {
    "^": ("\u02c6", "\u0302"), "~": ("\u02dc", "\u0303"), "¯": ("¯", "―"), "―": ("¯", "―"),
}
_SYMBOLS = set("∞…%#∅∇∂")  # these stay identifiers, without the spacing of an operator
_PRIMES = set("′″‴⁗")  # characters that are raised already, as drawn in a line of text
_STYLES = {
    "bold": {"A": 0x1D400, "a": 0x1D41A, "0": 0x1D7CE},
    "double-struck": {"0": 0x1D7D8},
}
_COMMAND = re.compile(r"\\[a-zA-Z]+")

ET.register_namespace("", _SPACE.strip("{}"))


class MathError(ValueError):
    """A formula that cannot be converted; the text says why."""


@lru_cache(maxsize=4096)
def to_mathml(tex: str, display: bool = False) -> str:
    """Convert one formula.

    Parameters
    ----------
    tex : str
        TeX without its dollar signs.
    display : bool
        A formula on a line of its own, with limits under sums.

    Returns
    -------
    str
        A `<math>` element; every character of `tex` that reached it is escaped. Its
        `alttext` attribute holds the TeX source, which screen readers and copying use.

    Raises
    ------
    MathError
        If a command is unknown, an argument is missing, or the result is not clean MathML.
    """
    from latex2mathml import converter

    source = tex.strip()
    if not source:
        raise MathError("the formula is empty")
    for pattern, replacement in _REWRITES:
        source = pattern.sub(replacement, source)
    try:
        raw = converter.convert(source, display="block" if display else "inline")
        root = ET.fromstring(raw)
    except Exception as error:  # the converter raises many types, none of them documented
        raise MathError(f"{type(error).__name__}: {error}") from error
    _check(root)
    for node in list(root.iter()):
        _lower_primes(node)
    _improve(root, display)
    root.set("alttext", tex.strip())
    return ET.tostring(root, encoding="unicode")


def _check(element: ET.Element) -> None:
    """Allow only MathML elements with the children they need, and no leftover commands."""
    for node in element.iter():
        name = _name(node)
        if name not in _ARITY:
            raise MathError(f"<{name}> is no part of a formula")
        needed = _ARITY[name]
        if needed is not None and len(node) != needed:
            raise MathError(f"<{name}> has {len(node)} parts, needs {needed}")
        for attribute in set(node.attrib) - MATHML_ATTRIBUTES:
            del node.attrib[attribute]
        left = _COMMAND.search(node.text or "")
        if left and name != "mtext":
            raise MathError(f"unknown command {left.group(0)}")


def _improve(root: ET.Element, display: bool) -> None:
    """Repair what browsers would draw badly: operators, limits, accents, bold and upright words."""
    for node in root.iter():
        _merge_words(node)  # parents come before their parts, so a hat sees whole words
        _use_styled_characters(node)
        name = _name(node)
        if name == "mi" and node.text and _is_operator(node.text):
            node.tag = f"{_SPACE}mo"
            node.text = node.text.replace("~", "∼")
            node.set("stretchy", "false")
        elif name == "mover" and node[1].text in _ACCENTS:
            _use_accent(node)
        elif display and name == "msub" and "".join(node[0].itertext()) in _UNDER:
            node.tag = f"{_SPACE}munder"
    for node in root.iter(f"{_SPACE}mo"):
        node.text = _SPACED.get(node.text or "", node.text)


def _lower_primes(node: ET.Element) -> None:
    """Put a prime on the line beside its letter, before a subscript or another power.

    Fonts draw the character raised already. As a superscript it is raised twice and small, and
    floats above the letter like an accent of the line before.
    """
    if _name(node) not in ("msup", "msubsup"):
        return
    base, *below, above = list(node)
    parts = list(above) if _name(above) == "mrow" else [above]
    primes = [part for part in parts if part.text in _PRIMES]
    if not primes or primes != parts[: len(primes)]:
        return
    powers = parts[len(primes) :]
    for prime in primes:
        prime.tag = f"{_SPACE}mo"  # last in its row, so it is set without space before it
        prime.set("stretchy", "false")
    primed = ET.Element(f"{_SPACE}mrow")
    primed.extend([base, *primes])
    if powers:
        for prime in primes:
            above.remove(prime)
        node[0] = primed
    elif below:
        node.tag = f"{_SPACE}msub"
        node[:] = [primed, *below]
    else:
        node.tag = f"{_SPACE}mrow"
        node[:] = [base, *primes]


def _use_accent(node: ET.Element) -> None:
    """Draw a hat or tilde at its own size over one letter, and stretched over several."""
    narrow, wide = _ACCENTS[node[1].text or ""]
    several = len("".join(node[0].itertext())) > 1
    node[1].text = wide if several else narrow
    node[1].set("stretchy", "true" if several else "false")
    node.set("accent", "true")


def _merge_words(node: ET.Element) -> None:
    """Make one identifier of the letters of `\\mathrm{FAR}`; several letters are drawn upright."""
    letters = list(node)
    upright = [c for c in letters if c.tag == f"{_SPACE}mi" and c.get("mathvariant") == "normal"]
    if len(upright) > 1 and upright == letters:
        upright[0].text = "".join(c.text or "" for c in upright)
        del upright[0].attrib["mathvariant"]
        for letter in upright[1:]:
            node.remove(letter)


def _use_styled_characters(node: ET.Element) -> None:
    """Replace `mathvariant`, which browsers ignore, by the styled Unicode characters."""
    starts = _STYLES.get(node.get("mathvariant", ""))
    if starts and node.text:
        node.text = "".join(_styled(character, starts) for character in node.text)
        del node.attrib["mathvariant"]


def _styled(character: str, starts: dict[str, int]) -> str:
    for first, last in (("A", "Z"), ("a", "z"), ("0", "9")):
        if first in starts and first <= character <= last:
            return chr(starts[first] + ord(character) - ord(first))
    return character


def _is_operator(text: str) -> bool:
    return len(text) == 1 and text not in _SYMBOLS and unicodedata.category(text)[0] in "SP"


def _name(element: ET.Element) -> str:
    return element.tag.removeprefix(_SPACE)


CONTENT_SECURITY_POLICY = ("default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
                           "base-uri 'none'; form-action 'none'")

_TAGS = frozenset({
    "a", "abbr", "b", "blockquote", "br", "caption", "code", "col", "colgroup", "dd", "del",
    "details", "div", "dl", "dt", "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6",
    "hr", "i", "img", "ins", "kbd", "li", "mark", "ol", "p", "pre", "q", "s", "samp", "section",
    "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th",
    "thead", "tr", "u", "ul", "var",
})
_ATTRIBUTES: dict[str, set[str]] = {
    "*": {"class", "id", "title", "lang", "dir"},
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "td": {"colspan", "rowspan", "align", "style"},
    "th": {"colspan", "rowspan", "align", "style", "scope"},
    "caption": {"style"},
    "details": {"open"},
    "ol": {"start"},
    "col": {"span"},
}
# Colours are for gradients of a styled table; nothing here can move or cover other content.
_STYLE_PROPERTIES = {
    "text-align", "vertical-align", "font-weight", "font-style", "background-color", "color",
    "white-space",
}

_EMBEDDED = re.compile(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]+")
# pandas puts one style element in front of a table; without it the table is as readable.
_TABLE_STYLE = re.compile(
    r"\A(\s*<div>)?\s*<style(?: scoped| type=\"text/css\")?>.*?</style>", re.DOTALL
)
_TAG_START = re.compile(r"<(?!!--.*?-->)(?=/?([A-Za-z][A-Za-z0-9:-]*)|[!?])", re.S)


def clean_html(html: str) -> str:
    """Filter HTML: known tags stay, all others become visible text.

    Headings with anchors, tables, details, figures with embedded images and MathML pass.
    Scripts, styles, frames, forms, inline SVG, event handlers, `javascript:` addresses and
    images that would be loaded from somewhere do not.
    """
    html = _TABLE_STYLE.sub(lambda m: m.group(1) or "", html, count=1)
    return _cleaner().clean(_TAG_START.sub(_escape_unknown, html))


def _escape_unknown(match: re.Match[str]) -> str:
    tag = (match.group(1) or "").lower()
    return "<" if tag in _TAGS or tag in MATHML_TAGS else "&lt;"


@lru_cache(maxsize=1)
def _cleaner() -> nh3.Cleaner:
    attributes = {tag: set(names) for tag, names in _ATTRIBUTES.items()}
    attributes |= {tag: set(MATHML_ATTRIBUTES) | {"alttext"} for tag in MATHML_TAGS}
    return nh3.Cleaner(
        tags=set(_TAGS | MATHML_TAGS),
        clean_content_tags=set(),
        attributes=attributes,
        attribute_filter=_keep_attribute,
        filter_style_properties=_STYLE_PROPERTIES,
        url_schemes={"http", "https", "mailto", "data"},
        link_rel="noopener noreferrer",
    )


def _keep_attribute(tag: str, name: str, value: str) -> str | None:
    """Allow data addresses for images only, and nothing but data addresses there."""
    if tag == "img" and name == "src":
        return value if _EMBEDDED.fullmatch(value.strip()) else None
    if tag == "a" and name == "href" and value.strip().lower().startswith("data:"):
        return None
    return value

"""One notebook cell to HTML, and what may stand on a page: filtered HTML, mathematics as MathML.

Markdown cells are written by the authors and may hold HTML. Outputs may hold text from data:
there, HTML inside Markdown is shown, not obeyed. Everything passes `_clean_html` at the end.

TeX is converted at build time, by `latex2mathml`, so that a page needs no script. Two of its habits
are not acceptable here: it lets unknown commands and even HTML inside a text group through, and it
returns fractions without a denominator. Its result is therefore parsed and checked; what fails is
shown as TeX source.

A rendered page holds text from models and from strangers. Three things keep it inert: text is
escaped, HTML passes the filter, and every page carries a content security policy that forbids
network access, and scripts but for the page's own, by its hash. What the filter removes is shown as
text where that is possible, so that a sample containing `<script>` is readable in the report and
does nothing. `markup.toml` lists what passes.
"""

from __future__ import annotations

import base64
import itertools
import re
import tomllib
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

CONTENT_SECURITY_POLICY = ("default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
                           "base-uri 'none'; form-action 'none'")

_IMAGES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SLUG = re.compile(r"[^a-z0-9]+")
_DOLLARS = re.compile(r"\A\s*(\$\$?|\\\[|\\\()(.*?)(\$\$?|\\\]|\\\))\s*\Z", re.DOTALL)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_EMBEDDED = re.compile(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]+")
# pandas puts one style element in front of a table; without it the table is as readable.
_TABLE_STYLE = re.compile(
    r"\A(\s*<div>)?\s*<style(?: scoped| type=\"text/css\")?>.*?</style>", re.DOTALL)
_TAG_START = re.compile(r"<(?!!--.*?-->)(?=/?([A-Za-z][A-Za-z0-9:-]*)|[!?])", re.S)
_SPACE = "{http://www.w3.org/1998/Math/MathML}"
ET.register_namespace("", _SPACE.strip("{}"))

_RULES = tomllib.loads(Path(__file__).with_name("markup.toml").read_text(encoding="utf-8"))
_HTML, _MATHML = _RULES["html"], _RULES["mathml"]
_REWRITES = [(re.compile(pattern), words) for pattern, words in _RULES["tex"]["rewrites"]]
_MATHML_ATTRIBUTES = set(_MATHML["attributes"].split())
_TAGS = set(_HTML["tags"].split()) | set(_MATHML["parts"])


class _Heading(NamedTuple):
    """One entry of the table of contents: level 1 to 6, anchor, and HTML of the text."""

    level: int
    anchor: str
    html: Markup


@dataclass
class Renderer:
    """Renders the cells of one page, and collects what the page needs of them.

    Attributes
    ----------
    headings : list of _Heading
        In order of appearance.
    problems : list of str
        Formulas that could not be converted, with the reason.
    anchors : set of str
        Anchors already taken.
    """

    headings: list[_Heading] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def new_anchor(self, text: str) -> str:
        """Return an anchor made of `text` that no earlier heading has."""
        base = _SLUG.sub("-", text.lower()).strip("-")[:60] or "section"
        anchor, number = base, 2
        while anchor in self.anchors:
            anchor, number = f"{base}-{number}", number + 1
        self.anchors.add(anchor)
        return anchor

    def markdown_html(self, source: str, trusted: bool = True) -> str:
        """Render Markdown with tables, footnotes and mathematics.

        Parameters
        ----------
        source : str
            Markdown text.
        trusted : bool
            Whether HTML in it is markup (cells) or text (outputs).
        """
        parser = _parser(trusted)
        environment: dict[str, Any] = {"renderer": self}
        tokens = parser.parse(source, environment)
        for token, inline in itertools.pairwise(tokens):
            if token.type == "heading_open":
                anchor = self.new_anchor(self.plain_text(inline.content))
                token.attrSet("id", anchor)
                html = parser.renderer.render([inline], parser.options, environment)
                self.headings.append(_Heading(int(token.tag[1]), anchor, Markup(_clean_html(html))))
        return _clean_html(parser.renderer.render(tokens, parser.options, environment))

    @staticmethod
    def inline_html(source: str) -> str:
        """Render one line of Markdown (a title, a claim) without block elements."""
        return _clean_html(_parser(trusted=False).renderInline(source, {"renderer": Renderer()}))

    @staticmethod
    def plain_text(source: str) -> str:
        """Return the words of one line of Markdown, for titles of windows."""
        tokens = _parser(trusted=False).parseInline(source, {"renderer": Renderer()})
        children = [child for token in tokens for child in token.children or []]
        return "".join(child.content if child.content else " " * (child.type == "softbreak")
                       for child in children)

    @staticmethod
    def code_html(source: str) -> str:
        """Highlight Python source; spans with the short class names of Pygments."""
        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import PythonLexer

        return str(highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)))

    def outputs_html(self, outputs: Sequence[Mapping[str, Any]]) -> list[str]:
        """Render the outputs of one code cell; empty ones are left out."""
        return [html for html in map(self._output, outputs) if html]

    def _output(self, output: Mapping[str, Any]) -> str:
        kind = output["output_type"]
        if kind == "stream":
            text = _terminal_text(output["text"]).rstrip("\n")
            return f'<pre class="stream {escape(output["name"])}">{escape(text)}</pre>'
        if kind == "error":
            text = _terminal_text("\n".join(output["traceback"])) or (
                f"{output['ename']}: {output['evalue']}")
            return f'<pre class="traceback">{escape(text)}</pre>'
        return self._rich_output(output["data"], output.get("metadata", {}))

    def _rich_output(self, data: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
        """Render the richest form that is safe; a widget without a page behind it is nothing."""
        plain = data.get("text/plain", "")
        for kind in _IMAGES:
            if kind in data:
                return _figure(kind, _joined(data[kind]), metadata, _joined(plain))
        if "text/html" in data:
            return f'<div class="rich">{_clean_html(_joined(data["text/html"]))}</div>'
        if "text/markdown" in data:
            body = self.markdown_html(_joined(data["text/markdown"]), trusted=False)
            return f'<div class="said">{body}</div>'
        if "text/latex" in data:
            tex = _joined(data["text/latex"])
            match = _DOLLARS.match(tex)
            return f'<div class="math">{self._math(match[2] if match else tex, True)}</div>'
        if "application/vnd.jupyter.widget-view+json" in data:
            return ""
        text = _terminal_text(plain)
        return f'<pre class="value">{escape(text)}</pre>' if text.strip() else ""

    def _math(self, tex: str, display: bool) -> str:
        """Return MathML, or HTML that shows the TeX source of what cannot be converted."""
        try:
            return _to_mathml(tex, display)
        except _MathError as error:
            self.problems.append(f"${tex.strip()}$: {error}")
            tag = "div" if display else "span"
            return f'<{tag} class="tex-source"><code>{escape(tex.strip())}</code></{tag}>'


def _figure(kind: str, data: str, metadata: Mapping[str, Any], text: str) -> str:
    """Embed an image. SVG too: inside `img` its scripts and links are dead."""
    own = metadata.get(kind, {}) if isinstance(metadata.get(kind), Mapping) else {}
    alt = str(own.get("alt") or metadata.get("alt") or text or "figure without description")
    if kind == "image/svg+xml":
        data = base64.b64encode(data.encode("utf-8")).decode("ascii")
    size = "".join(f' {name}="{int(own[name])}"' for name in ("width", "height")
                   if isinstance(own.get(name), int | float))
    source = f"data:{kind};base64,{''.join(data.split())}"
    return _clean_html(f'<figure><img src="{source}" alt="{escape(alt)}"{size}></figure>')


def _terminal_text(value: Any) -> str:
    """Remove colours and keep of every line what a carriage return left visible."""
    lines = _ANSI.sub("", _joined(value)).split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def _joined(value: Any) -> str:
    return "".join(value) if isinstance(value, list | tuple) else str(value)


@lru_cache(maxsize=2)
def _parser(trusted: bool) -> MarkdownIt:
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from mdit_py_plugins.footnote import footnote_plugin

    parser = MarkdownIt("commonmark", {"html": trusted, "highlight": _fenced_code})
    parser.enable(["table", "strikethrough"])
    parser.use(footnote_plugin)
    # no digit after the closing dollar: "$5 and $6" is money, not mathematics
    parser.use(dollarmath_plugin, allow_space=False, allow_digits=False, double_inline=True,
               allow_labels=False)
    _keep_code_out_of_mathematics(parser)
    rules = parser.renderer.rules  # type: ignore[attr-defined]
    rules["math_inline"] = _math_rule
    rules["math_inline_double"] = rules["math_block"] = _display_rule
    rules["image"] = _image_rule
    return parser


def _math_rule(tokens: Sequence[Token], index: int, options: Any, environment: Any,
               display: bool = False) -> str:
    return str(environment["renderer"]._math(tokens[index].content, display))


def _display_rule(tokens: Sequence[Token], index: int, options: Any, environment: Any) -> str:
    html = _math_rule(tokens, index, options, environment, display=True)
    return f'<div class="math">{html}</div>'


def _keep_code_out_of_mathematics(parser: MarkdownIt) -> None:
    """Refuse a formula that would swallow the start of a code span: "costs $6, `$x`"."""
    ruler = parser.inline.ruler
    original = next(rule.fn for rule in ruler.__rules__ if rule.name == "math_inline")

    def math_inline(state: Any, silent: bool) -> bool:
        position, count, pending = state.pos, len(state.tokens), state.pending
        if not original(state, silent):
            return False
        if "`" not in state.src[position : state.pos]:
            return True
        state.pos, state.pending = position, pending  # undo: the push moved pending text along
        del state.tokens[count:]
        return False

    ruler.at("math_inline", math_inline)


def _fenced_code(source: str, language: str, attributes: str) -> str:
    return Renderer.code_html(source) if language in ("python", "py") else escape(source)


def _image_rule(tokens: Sequence[Token], index: int, options: Any, environment: Any) -> str:
    """Show an image only if it is embedded; otherwise its description."""
    source, alt = str(tokens[index].attrGet("src") or ""), escape(tokens[index].content)
    if source.startswith("data:"):
        return f'<img src="{escape(source)}" alt="{alt}">'
    return f'<span class="no-image">[image: {alt}]</span>'


class _MathError(ValueError):
    """A formula that cannot be converted; the text says why."""


@lru_cache(maxsize=4096)
def _to_mathml(tex: str, display: bool = False) -> str:
    """Convert one formula, in TeX without dollar signs.

    Every character that reaches the `<math>` element is escaped. Its `alttext` holds the TeX
    source, which screen readers and copying use. With `display`, limits stand under sums.
    """
    from latex2mathml import converter

    source = tex.strip()
    if not source:
        raise _MathError("the formula is empty")
    for pattern, replacement in _REWRITES:
        source = pattern.sub(replacement, source)
    try:
        raw = converter.convert(source, display="block" if display else "inline")
        root = ET.fromstring(raw)
    except Exception as error:  # the converter raises many types, none of them documented
        raise _MathError(f"{type(error).__name__}: {error}") from error
    _check(root)
    for node in list(root.iter()):
        if _name(node) in ("msup", "msubsup"):
            _lower_primes(node)
    _improve(root, display)
    root.set("alttext", tex.strip())
    return ET.tostring(root, encoding="unicode")


def _check(element: ET.Element) -> None:
    """Allow only MathML elements with the children they need, and no leftover commands."""
    for node in element.iter():
        name = _name(node)
        if name not in _MATHML["parts"]:
            raise _MathError(f"<{name}> is no part of a formula")
        needed = _MATHML["parts"][name]
        if needed >= 0 and len(node) != needed:
            raise _MathError(f"<{name}> has {len(node)} parts, needs {needed}")
        for attribute in set(node.attrib) - _MATHML_ATTRIBUTES:
            del node.attrib[attribute]
        left = _COMMAND.search(node.text or "")
        if left and name != "mtext":
            raise _MathError(f"unknown command {left.group(0)}")


def _improve(root: ET.Element, display: bool) -> None:
    """Repair what browsers would draw badly: operators, limits, accents, bold and upright words."""
    for node in root.iter():
        _merge_words(node)  # parents come before their parts, so a hat sees whole words
        starts = _MATHML["styles"].get(node.get("mathvariant", ""))
        if starts and node.text:  # browsers ignore `mathvariant`
            node.text = "".join(_styled(character, starts) for character in node.text)
            del node.attrib["mathvariant"]
        name = _name(node)
        if name == "mi" and node.text and _is_operator(node.text):
            node.tag = f"{_SPACE}mo"
            node.text = node.text.replace("~", "∼")
            node.set("stretchy", "false")
        elif name == "mover" and node[1].text in _MATHML["accents"]:
            # a hat or tilde at its own size over one letter, and stretched over several
            several = len("".join(node[0].itertext())) > 1
            node[1].text = _MATHML["accents"][node[1].text][several]
            node[1].set("stretchy", "true" if several else "false")
            node.set("accent", "true")
        elif display and name == "msub" and "".join(node[0].itertext()) in _MATHML["under"]:
            node.tag = f"{_SPACE}munder"
    for node in root.iter(f"{_SPACE}mo"):
        node.text = _MATHML["spaced"].get(node.text or "", node.text)


def _lower_primes(node: ET.Element) -> None:
    """Put a prime on the line beside its letter, before a subscript or another power.

    Fonts draw the character raised already. As a superscript it is raised twice and small, and
    floats above the letter like an accent of the line before.
    """
    base, *below, above = list(node)
    parts = list(above) if _name(above) == "mrow" else [above]
    primes = [part for part in parts if part.text in set(_MATHML["primes"])]
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


def _merge_words(node: ET.Element) -> None:
    """Make one identifier of the letters of `\\mathrm{FAR}`; several letters are drawn upright."""
    letters = list(node)
    upright = [c for c in letters if c.tag == f"{_SPACE}mi" and c.get("mathvariant") == "normal"]
    if len(upright) > 1 and upright == letters:
        upright[0].text = "".join(c.text or "" for c in upright)
        del upright[0].attrib["mathvariant"]
        for letter in upright[1:]:
            node.remove(letter)


def _styled(character: str, starts: dict[str, int]) -> str:
    for first, last in (("A", "Z"), ("a", "z"), ("0", "9")):
        if first in starts and first <= character <= last:
            return chr(starts[first] + ord(character) - ord(first))
    return character


def _is_operator(text: str) -> bool:
    single = len(text) == 1 and text not in _MATHML["symbols"]
    return single and unicodedata.category(text)[0] in "SP"


def _name(element: ET.Element) -> str:
    return element.tag.removeprefix(_SPACE)


def _clean_html(html: str) -> str:
    """Filter HTML: known tags stay, all others become visible text.

    Headings with anchors, tables, details, figures with embedded images and MathML pass.
    Scripts, styles, frames, forms, inline SVG, event handlers, `javascript:` addresses and
    images that would be loaded from somewhere do not.
    """
    def kept(match: re.Match[str]) -> str:
        return "<" if (match[1] or "").lower() in _TAGS else "&lt;"

    html = _TABLE_STYLE.sub(lambda match: match[1] or "", html, count=1)
    return _cleaner().clean(_TAG_START.sub(kept, html))


@lru_cache(maxsize=1)
def _cleaner() -> nh3.Cleaner:
    attributes = {tag: set(names.split()) for tag, names in _HTML["attributes"].items()}
    attributes |= {tag: _MATHML_ATTRIBUTES | {"alttext"} for tag in _MATHML["parts"]}
    return nh3.Cleaner(tags=_TAGS, clean_content_tags=set(), attributes=attributes,
                       attribute_filter=_keep_attribute,
                       filter_style_properties=set(_HTML["style_properties"].split()),
                       url_schemes={"http", "https", "mailto", "data"},
                       link_rel="noopener noreferrer")


def _keep_attribute(tag: str, name: str, value: str) -> str | None:
    """Allow data addresses for images only, and nothing but data addresses there."""
    if tag == "img" and name == "src":
        return value if _EMBEDDED.fullmatch(value.strip()) else None
    if tag == "a" and name == "href" and value.strip().lower().startswith("data:"):
        return None
    return value

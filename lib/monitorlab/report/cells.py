"""One notebook cell to HTML.

Markdown cells are written by the authors and may hold HTML. Outputs may hold text from data:
there, HTML inside Markdown is shown, not obeyed. Everything passes `clean_html` at the end.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from monitorlab.report.markup import MathError, clean_html, to_mathml

_IMAGES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SLUG = re.compile(r"[^a-z0-9]+")
_DOLLARS = re.compile(r"\A\s*(\$\$?|\\\[|\\\()(.*?)(\$\$?|\\\]|\\\))\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class _Heading:
    """One entry of the table of contents: level 1 to 6, anchor, and HTML of the text."""

    level: int
    anchor: str
    html: str


@dataclass
class Notes:
    """What rendering a page collects on the way.

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


def markdown_html(source: str, notes: Notes, trusted: bool = True) -> str:
    """Render Markdown with tables, footnotes and mathematics.

    Parameters
    ----------
    source : str
        Markdown text.
    notes : Notes
        Receives headings and problems.
    trusted : bool
        Whether HTML in it is markup (cells) or text (outputs).
    """
    parser = _parser(trusted)
    environment: dict[str, Any] = {"notes": notes}
    tokens = parser.parse(source, environment)
    _add_anchors(tokens, parser, notes, environment)
    return clean_html(parser.renderer.render(tokens, parser.options, environment))


def inline_html(source: str) -> str:
    """Render one line of Markdown (a title, a claim) without block elements."""
    return clean_html(_parser(trusted=False).renderInline(source, {"notes": Notes()}))


def plain_text(source: str) -> str:
    """Return the words of one line of Markdown, for titles of windows."""
    tokens = _parser(trusted=False).parseInline(source, {"notes": Notes()})
    children = [child for token in tokens for child in token.children or []]
    return "".join(child.content if child.content else " " * (child.type == "softbreak")
                   for child in children)


def code_html(source: str) -> str:
    """Highlight Python source; spans with the short class names of Pygments."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return str(highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)))


def outputs_html(outputs: Sequence[Mapping[str, Any]], notes: Notes) -> list[str]:
    """Render the outputs of one code cell; empty ones are left out."""
    return [html for html in (_output(output, notes) for output in outputs) if html]


def _output(output: Mapping[str, Any], notes: Notes) -> str:
    kind = output["output_type"]
    if kind == "stream":
        text = _terminal_text(_joined(output["text"])).rstrip("\n")
        return f'<pre class="stream {escape(output["name"])}">{escape(text)}</pre>'
    if kind == "error":
        text = _terminal_text("\n".join(output["traceback"])) or (
            f"{output['ename']}: {output['evalue']}")
        return f'<pre class="traceback">{escape(text)}</pre>'
    return _rich_output(output["data"], output.get("metadata", {}), notes)


def _rich_output(data: Mapping[str, Any], metadata: Mapping[str, Any], notes: Notes) -> str:
    """Render the richest form that is safe; a widget without a page behind it is nothing."""
    for kind in _IMAGES:
        if kind in data:
            return _figure(kind, _joined(data[kind]), metadata, _joined(data.get("text/plain", "")))
    if "text/html" in data:
        return f'<div class="rich">{clean_html(_joined(data["text/html"]))}</div>'
    if "text/markdown" in data:
        body = markdown_html(_joined(data["text/markdown"]), notes, trusted=False)
        return f'<div class="said">{body}</div>'
    if "text/latex" in data:
        match = _DOLLARS.match(_joined(data["text/latex"]))
        tex = match.group(2) if match else _joined(data["text/latex"])
        return f'<div class="math">{_math(tex, True, notes)}</div>'
    if "application/vnd.jupyter.widget-view+json" in data:
        return ""
    text = _terminal_text(_joined(data.get("text/plain", "")))
    return f'<pre class="value">{escape(text)}</pre>' if text.strip() else ""


def _figure(kind: str, data: str, metadata: Mapping[str, Any], text: str) -> str:
    """Embed an image. SVG too: inside `img` its scripts and links are dead."""
    own = metadata.get(kind, {}) if isinstance(metadata.get(kind), Mapping) else {}
    alt = str(own.get("alt") or metadata.get("alt") or text or "figure without description")
    if kind == "image/svg+xml":
        data = base64.b64encode(data.encode("utf-8")).decode("ascii")
    size = "".join(f' {name}="{int(own[name])}"' for name in ("width", "height")
                   if isinstance(own.get(name), int | float))
    source = f"data:{kind};base64,{''.join(data.split())}"
    return clean_html(f'<figure><img src="{source}" alt="{escape(alt)}"{size}></figure>')


def _math(tex: str, display: bool, notes: Notes) -> str:
    try:
        return to_mathml(tex, display)
    except MathError as error:
        notes.problems.append(f"${tex.strip()}$: {error}")
        return _tex_source(tex, display)


def _tex_source(tex: str, display: bool) -> str:
    """Return HTML that shows the TeX source of a formula that cannot be converted."""
    tag = "div" if display else "span"
    return f'<{tag} class="tex-source"><code>{escape(tex.strip())}</code></{tag}>'


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
    rules["math_inline"] = _math_rule(display=False)
    rules["math_inline_double"] = rules["math_block"] = _math_rule(display=True)
    rules["image"] = _image_rule
    return parser


def _math_rule(display: bool) -> Any:
    def rule(tokens: Sequence[Token], index: int, options: Any, environment: Any) -> str:
        html = _math(tokens[index].content, display, environment["notes"])
        return f'<div class="math">{html}</div>' if display else html

    return rule


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
    return code_html(source) if language in ("python", "py") else escape(source)


def _image_rule(tokens: Sequence[Token], index: int, options: Any, environment: Any) -> str:
    """Show an image only if it is embedded; otherwise its description."""
    source, alt = str(tokens[index].attrGet("src") or ""), escape(tokens[index].content)
    if source.startswith("data:"):
        return f'<img src="{escape(source)}" alt="{alt}">'
    return f'<span class="no-image">[image: {alt}]</span>'


def _add_anchors(
    tokens: Sequence[Token], parser: MarkdownIt, notes: Notes, environment: dict[str, Any]
) -> None:
    for position, token in enumerate(tokens):
        if token.type != "heading_open":
            continue
        inline = tokens[position + 1]
        anchor = notes.new_anchor(plain_text(inline.content))
        token.attrSet("id", anchor)
        html = parser.renderer.render([inline], parser.options, environment)
        notes.headings.append(_Heading(int(token.tag[1]), anchor, clean_html(html)))


def _terminal_text(text: str) -> str:
    """Remove colours and keep of every line what a carriage return left visible."""
    lines = _ANSI.sub("", text).split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def _joined(value: Any) -> str:
    return "".join(value) if isinstance(value, list | tuple) else str(value)

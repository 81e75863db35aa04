"""Allow-list filter for HTML, and the escaping of everything that came from data.

A rendered page holds text from models and from strangers. Three things keep it inert: text is
escaped, HTML passes this filter, and every page carries a content security policy that forbids
scripts and network access. What the filter removes is shown as text where that is possible, so
that a sample containing `<script>` is readable in the report and does nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape

import nh3

from monitorlab.report.mathematics import MATHML_ATTRIBUTES, MATHML_TAGS

CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

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
_STYLES = {
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


def escape_text(text: str) -> str:
    """Escape text for use between tags and inside attributes."""
    return escape(text, quote=True)


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
        filter_style_properties=_STYLES,
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

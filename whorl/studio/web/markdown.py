"""Markdown as HTML that is safe to put into a page, whoever wrote it.

CommonMark with tables, strikethrough and bare links; raw HTML in the text is shown, not obeyed. The
sanitiser then lets through only what is listed here: two nets, each whole.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape

import nh3
from markdown_it import MarkdownIt

TAGS = {
    "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code",
    "em", "strong", "s", "a", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
# A class only where a fenced block names its language, and a table's cell its side.
CLASSES = {"th": {"left", "right", "center"}, "td": {"left", "right", "center"}}
ALIGNED = re.compile(r'style="text-align:(left|right|center)"')
SCHEMES = {"http", "https", "mailto"}
LONGEST = 200_000  # characters; beyond, a text is shown as it is: rendering would take seconds


@cache
def _parser() -> MarkdownIt:
    # Images are not loaded from anywhere: a reply must not tell a stranger's server that it was read.
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False})
    return parser.enable(["table", "strikethrough"]).disable("image")


def render_markdown(text: str) -> str:
    """HTML of a message's text."""
    if len(text) > LONGEST:
        return f"<pre>{escape(text)}</pre>"
    html = _parser().render(text)
    html = ALIGNED.sub(r'class="\1"', html)  # the policy of these pages allows no style in a tag
    return nh3.clean(
        html, tags=TAGS, attributes=ATTRIBUTES,
        allowed_classes={**CLASSES, "code": _languages(html)}, url_schemes=SCHEMES,
        link_rel="noopener noreferrer nofollow",
    )  # fmt: skip


def _languages(html: str) -> set[str]:
    """The classes of fenced blocks: `language-` and a word."""
    return {
        part.partition('"')[0]
        for part in html.split('<code class="')[1:]
        if part.startswith("language-") and part.partition('"')[0].replace("-", "").isalnum()
    }

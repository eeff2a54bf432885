"""Markdown as HTML that is safe to put into a page, whoever wrote it.

CommonMark with tables, strikethrough and bare links; raw HTML in the text is shown, not obeyed. The
sanitiser then lets through only what is listed here: two nets, each whole.

A stranger's text can make rendering slow: it is bounded in characters and in steps, and what is beyond is
shown as it is. The event loop never renders: it awaits `rendered`, which does it in a thread.
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from html import escape

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline

TAGS = {
    "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code",
    "em", "strong", "s", "a", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
# A class only where a fenced block names its language, and a table's cell its side.
CLASSES = {"th": {"left", "right", "center"}, "td": {"left", "right", "center"}}
ALIGNED = re.compile(r'style="text-align:(left|right|center)"')
SCHEMES = {"http", "https", "mailto"}
LONGEST = 30_000  # characters
MOST_STEPS = 20_000  # of the parser within lines; a long reply of prose and code takes a tenth
REMEMBERED = 512  # texts that grow no more
THREADS = 2  # parsing is Python: more would only stand in each other's way


class _SpentError(Exception):
    """The steps are used up."""


def _count(state: StateInline, _silent: bool) -> bool:
    """A rule that fits nowhere and is asked first at each step. Steps and not time: the same text is shown
    alike on every machine."""
    state.env["steps"] = state.env.get("steps", 0) + 1
    if state.env["steps"] > MOST_STEPS:
        raise _SpentError
    return False


@cache
def _parser() -> MarkdownIt:
    # Images are not loaded from anywhere: a reply must not tell a stranger's server that it was read.
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False})
    parser.inline.ruler.before("text", "count", _count)
    return parser.enable(["table", "strikethrough"]).disable("image")


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="markdown")


async def rendered(*texts: str, finished: bool = True) -> list[str]:
    """HTML of each text, made in a thread; `finished` ones are remembered. Whoever awaits this may be
    cancelled at once."""
    render = render_finished if finished else render_markdown
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads(), lambda: [render(text) for text in texts])


def render_markdown(text: str) -> str:
    """HTML of a message's text. It may take a quarter of a second: call it from a thread."""
    if not text:
        return ""
    if len(text) > LONGEST:
        return f"<pre>{escape(text)}</pre>"
    try:
        html = _parser().render(text)
    except _SpentError:
        return f"<pre>{escape(text)}</pre>"
    html = ALIGNED.sub(r'class="\1"', html)  # the policy of these pages allows no style in a tag
    return nh3.clean(
        html, tags=TAGS, attributes=ATTRIBUTES,
        allowed_classes={**CLASSES, "code": _languages(html)}, url_schemes=SCHEMES,
        link_rel="noopener noreferrer nofollow",
    )  # fmt: skip


render_finished = lru_cache(maxsize=REMEMBERED)(render_markdown)


def _languages(html: str) -> set[str]:
    """The classes of fenced blocks: `language-` and a word."""
    return {
        part.partition('"')[0]
        for part in html.split('<code class="')[1:]
        if part.startswith("language-") and part.partition('"')[0].replace("-", "").isalnum()
    }

"""A document, the spans a signal marks in it, and what becomes of input that is no document.

A `Document` computes its lines, words and n-grams once, when first asked: forty signals and a
dozen filters look at the same views, and splitting is what they would otherwise spend their time on.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import xxhash

from whorl.base.errors import DataError
from whorl.base.nouns import ImagePart

if TYPE_CHECKING:
    from whorl.data.filters.english import Tokens
    from whorl.data.signals.ngrams import Repeated

Kind = Literal["text", "markdown", "code", "conversation", "image-text"]

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_RAW_TOKEN = re.compile(r"\w+|[^\w\s]+")
_ENDED_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_PARAGRAPH_BREAK = re.compile(r"\n{2,}")


class Span(NamedTuple):
    """A score of the characters `start` (first) to `end` (after the last) of a document's text."""

    start: int
    end: int
    score: float | None


SignalValue = float | list[Span] | None  # None: the signal does not apply to this document


@dataclass(kw_only=True)
class Document:
    """One text with its origin, and the images that belong to it.

    `source` is the file as the user named it and `line` the line (or record, from 1) it starts at
    there. `text` always ends its lines with "\\n" and holds no NUL; see `whorl.data.readers`.
    `meta` holds plain JSON values. `split` is "train", "validation" or "" before a split.
    """

    id: str
    text: str
    source: str = ""
    line: int = 1
    meta: dict[str, Any] = field(default_factory=dict)
    images: tuple[ImagePart, ...] = ()
    title: str = ""
    kind: Kind = "text"
    split: str = ""
    signals: dict[str, SignalValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            raise DataError("document has no id; see document_id")

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The text split at newlines; empty lines stay, so lines joined by "\\n" are the text."""
        return tuple(self.text.split("\n"))

    @cached_property
    def line_spans(self) -> tuple[tuple[int, int], ...]:
        """(start, end) in characters of each of `lines`, the newline left out."""
        spans, start = [], 0
        for line in self.lines:
            spans.append((start, start + len(line)))
            start += len(line) + 1
        return tuple(spans)

    @cached_property
    def paragraphs(self) -> tuple[str, ...]:
        """What stands between two or more newlines; empty ones left out."""
        return tuple(part for part in _PARAGRAPH_BREAK.split(self.text.strip()) if part)

    @cached_property
    def raw_words(self) -> tuple[str, ...]:
        """What stands between white space, as written, punctuation and case included."""
        return tuple(self.text.split())

    @cached_property
    def normalized(self) -> str:
        """RedPajama-V2's normal form: ASCII punctuation removed, lower case, white space squeezed
        to single spaces, Unicode NFD."""
        squeezed = " ".join(self.text.translate(_WITHOUT_PUNCTUATION).lower().split())
        return squeezed if squeezed.isascii() else unicodedata.normalize("NFD", squeezed)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of `normalized`: what RedPajama-V2 counts. "don't" is "dont"; "--" is no word."""
        return tuple(self.normalized.split())

    @cached_property
    def normalized_lines(self) -> tuple[str, ...]:
        """Each of `lines` in the normal form of `normalized`."""
        return tuple(
            unicodedata.normalize("NFD", " ".join(line.translate(_WITHOUT_PUNCTUATION).lower().split()))
            for line in self.lines
        )

    @cached_property
    def raw_tokens(self) -> tuple[str, ...]:
        """Runs of word characters and runs of other signs, as written: RedPajama-V2's raw words."""
        return tuple(_RAW_TOKEN.findall(self.text))

    @cached_property
    def ended_lines(self) -> tuple[str, ...]:
        """The lines with the newline that ends each (RedPajama-V2's); joined, they are the text."""
        return tuple(_ENDED_LINE.findall(self.text))

    @cached_property
    def english_tokens(self) -> Tokens:
        """English words and punctuation marks as numbers: what the web-text filters count."""
        from whorl.data.filters.english import tokenize

        return tokenize(self.text)

    @cached_property
    def repeated_ngrams(self) -> tuple[Repeated, ...]:
        """The n-grams of `words` that stand more than once, for n = 2 … 10 (none for n > words)."""
        from whorl.data.signals.ngrams import repeated_ngrams

        numbers: dict[str, int] = {}
        ids = [numbers.setdefault(word, len(numbers)) for word in self.words]
        return tuple(repeated_ngrams(ids, min(10, len(ids))))

    @cached_property
    def _ngrams(self) -> dict[int, tuple[tuple[str, ...], ...]]:
        return {}

    def ngrams(self, n: int) -> tuple[tuple[str, ...], ...]:
        """Every run of `n` neighbouring `words`, overlapping, in order; empty if there are fewer."""
        found = self._ngrams.get(n)
        if found is None:
            found = self._ngrams[n] = tuple(zip(*(self.words[i:] for i in range(n)), strict=False))
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Only the fields travel between processes; views are cheap to make again."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


def document_id(label: str, index: int, text: str, images: tuple[ImagePart, ...] = ()) -> str:
    """The stable id of a document: 32 hex digits of XXH3-128 over where it stands and what it says.

    `label` is the file's path below the folder that was given (so the id outlives a moved folder)
    and `index` the line, row or record in it, from 0.
    """
    digest = xxhash.xxh3_128()
    for part in (label, str(index), text, *(image.digest for image in images)):
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little"))  # lengths keep ("ab", "c") and ("a", "bc") apart
        digest.update(raw)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Reject:
    """Input that did not become a document, or a document a step set aside.

    `line` is 1-based and 0 where the whole file is meant. `reason` is a short fixed word that is
    counted; `detail` says more, with the remedy where there is one. `data` is the original's bytes,
    at most `keep_reject_bytes` of them; `size` is how many there were.
    """

    source: str
    reason: str
    line: int = 0
    detail: str = ""
    data: bytes = field(default=b"", repr=False)
    size: int = 0
    step: str = "read"
    document: Mapping[str, Any] | None = None  # the whole record, where a step set a document aside

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        return f"{place}: {self.reason}" + (f": {self.detail}" if self.detail else "")

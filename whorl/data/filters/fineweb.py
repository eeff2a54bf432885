"""FineWeb's own rules, and its whole recipe (Penedo et al. 2024, arXiv:2406.17557, section 3)."""

from __future__ import annotations

from whorl.data.document import Document
from whorl.data.filters.c4 import c4_clean
from whorl.data.filters.config import FINEWEB, FINEWEB_QUALITY, FineWebConfig, FineWebQualityConfig
from whorl.data.filters.english_rules import TERMINATORS
from whorl.data.filters.gopher import duplicates, gopher_quality, gopher_repetition


def fineweb_quality(document: Document, config: FineWebQualityConfig = FINEWEB_QUALITY) -> str | None:
    """None, or `empty`, `line_punct_ratio`, `short_line_ratio`, `char_dup_ratio` or `list_ratio`."""
    lines = [line for line in document.lines if line and not line.isspace()]
    if not lines:
        return "empty"
    if config.min_punctuated_lines is not None:
        punctuated = sum([line[-1] in TERMINATORS for line in lines])
        if punctuated / len(lines) < config.min_punctuated_lines:
            return "line_punct_ratio"
    if config.max_short_lines is not None:
        limit = config.short_line
        if sum([length <= limit for length in map(len, lines)]) / len(lines) > config.max_short_lines:
            return "short_line_ratio"
    newlines = len(document.lines) - 1
    repeated = duplicates(lines)[1] / (len(document.text) - newlines)
    if config.max_duplicate_line_characters is not None and repeated > config.max_duplicate_line_characters:
        return "char_dup_ratio"
    breaks = newlines / len(document.english_tokens)
    if config.max_newlines_per_word is not None and breaks > config.max_newlines_per_word:
        return "list_ratio"
    return None


def fineweb_recipe(document: Document, config: FineWebConfig = FINEWEB) -> str | None:
    """The recipe in FineWeb's order: Gopher's repetition, Gopher's quality, C4, FineWeb's own rules.

    C4 takes lines out before the last step looks; the document itself stays as it is (`c4_clean` gives
    the shorter text to whoever wants to keep that).
    """
    reason = gopher_repetition(document, config.repetition) or gopher_quality(document, config.quality)
    if reason:
        return reason
    shorter, reason = c4_clean(document.text, config.c4)
    if reason or shorter == document.text:
        return reason or fineweb_quality(document, config.fineweb)
    return fineweb_quality(Document(id=document.id, text=shorter), config.fineweb)

"""Thresholds of the web-text filters. A rule whose threshold is None is off."""

from __future__ import annotations

from pydantic import Field

from whorl.base.config import Config


class GopherQualityConfig(Config):
    """Rae et al. 2021 (arXiv:2112.11446), table A1 and appendix A.1.1: "quality filtering"."""

    min_words: int | None = Field(50, ge=0)
    """Number of words that are not just symbols."""
    max_words: int | None = Field(100_000, ge=0)
    min_mean_word_length: float | None = Field(3.0, ge=0)
    max_mean_word_length: float | None = Field(10.0, ge=0)
    max_symbols_per_word: float | None = Field(0.1, ge=0)
    """Maximum ratio for hashes, and for ellipses."""
    max_bullet_lines: float | None = Field(0.9, ge=0, le=1)
    max_ellipsis_lines: float | None = Field(0.3, ge=0, le=1)
    min_alphabetic_words: float | None = Field(0.8, ge=0, le=1)
    min_stop_words: int | None = Field(2, ge=0)
    """Different ones."""
    stop_words: frozenset[str] = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))


class GopherRepetitionConfig(Config):
    """Rae et al. 2021, table A1: "repetition removal". Shares of characters are of the whole text."""

    max_duplicate_lines: float | None = Field(0.30, ge=0, le=1)
    max_duplicate_paragraphs: float | None = Field(0.30, ge=0, le=1)
    max_duplicate_line_characters: float | None = Field(0.20, ge=0, le=1)
    max_duplicate_paragraph_characters: float | None = Field(0.20, ge=0, le=1)
    max_top_ngrams: tuple[tuple[int, float], ...] = ((2, 0.20), (3, 0.18), (4, 0.16))
    max_duplicate_ngrams: tuple[tuple[int, float], ...] = (
        (5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10),
    )  # fmt: skip


class C4Config(Config):
    """Raffel et al. 2020 (arXiv:1910.10683), section 2.2. Lines first, then what they leave."""

    terminal_punctuation: bool = True
    """Keep only lines that end with terminal punctuation."""
    min_line_words: int = Field(3, ge=0)
    max_word_length: int | None = Field(1000, ge=1)
    min_sentences: int | None = Field(5, ge=0)
    citations: bool = True
    """Remove [1], [edit] and [citation needed]."""
    lorem_ipsum: bool = True
    javascript: bool = True
    curly_bracket: bool = True
    policy: bool = True
    policy_phrases: tuple[str, ...] = (
        "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies",
    )  # fmt: skip


class FineWebQualityConfig(Config):
    """Penedo et al. 2024 (arXiv:2406.17557), section 3.6: FineWeb's own rules."""

    min_punctuated_lines: float | None = Field(0.12, ge=0, le=1)
    max_short_lines: float | None = Field(0.67, ge=0, le=1)
    short_line: int = Field(30, ge=0)
    """Characters."""
    max_duplicate_line_characters: float | None = Field(0.01, ge=0, le=1)
    max_newlines_per_word: float | None = Field(0.3, ge=0)


class FineWebConfig(Config):
    """The recipe: Gopher's repetition and quality, C4 without its punctuation rule, FineWeb's own."""

    repetition: GopherRepetitionConfig = GopherRepetitionConfig()
    quality: GopherQualityConfig = GopherQualityConfig()
    c4: C4Config = C4Config(terminal_punctuation=False)
    fineweb: FineWebQualityConfig = FineWebQualityConfig()


GOPHER_QUALITY = GopherQualityConfig()
GOPHER_REPETITION = GopherRepetitionConfig()
C4 = C4Config()
FINEWEB_QUALITY = FineWebQualityConfig()
FINEWEB = FineWebConfig()

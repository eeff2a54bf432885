"""Settings of the data room's first half: what is read, annotated, filtered, deduplicated, split."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from whorl.base.config import Config

MIB = 1 << 20


class ReadConfig(Config):
    """How files become documents. Patterns match a file's path below the folder given, or its name."""

    include: tuple[str, ...] = ()
    """Read only files that match one of these patterns, such as "*.md"; empty: every known kind."""
    exclude: tuple[str, ...] = ()
    """Skip files and folders that match one of these patterns."""
    text_fields: tuple[str, ...] = ("text",)
    """The fields of a record that hold its text; several are joined with a blank line between."""
    title_field: str = "title"
    """The field of a record that holds its title."""
    image_fields: tuple[str, ...] = ("image", "images")
    """The fields of a record that hold images: bytes, data URIs, paths relative to the file, or lists of
    these."""
    max_file_bytes: Annotated[int, Field(ge=1)] = 16 * MIB
    """Maximum size of a file that is read as one document (text, markdown, source code)."""
    max_record_bytes: Annotated[int, Field(ge=1)] = 16 * MIB
    """Maximum size of a record: a line of JSON or a row of a table."""
    max_image_pixels: Annotated[int, Field(ge=1)] = 64_000_000
    """Maximum image size, width × height in pixels."""
    keep_reject_bytes: Annotated[int, Field(ge=0)] = MIB
    """How much of a rejected original is stored with its reason."""

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if not self.text_fields:
            raise ValueError("text_fields is empty; name at least one field")
        return self


class MinHashConfig(Config):
    """MinHash near-duplicates (Broder 1997; FineWeb's 5-grams of words, 14 bands of 8 rows, 64 bits).

    Two documents of n-gram Jaccard similarity s become candidates with probability
    1 - (1 - s^rows)^bands: at 14 x 8, 0.77 at s = 0.75 and 0.99 at s = 0.85.
    """

    ngram: Annotated[int, Field(ge=1)] = 5
    """Number of consecutive words in one element of a document's set."""
    bands: Annotated[int, Field(ge=1)] = 14
    """Number of bands; two documents that agree in one become candidates."""
    rows: Annotated[int, Field(ge=1)] = 8
    """Hashes per band."""
    verify: Annotated[float, Field(gt=0, le=1)] | None = None
    """Minimum estimated Jaccard similarity of candidates; none: a common band is enough."""
    seed: int = 1
    """Seed of the hashes."""


class SplitConfig(Config):
    """Which documents are held out. A cluster of similar documents goes to one side as a whole."""

    validation: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """The share of clusters held out; 0: no split."""
    threshold: Annotated[float, Field(ge=0.3, le=1)] = 0.5
    """Documents of this word n-gram Jaccard similarity and over are never put into different splits; looser
    than what counts as a duplicate."""
    ngram: Annotated[int, Field(ge=1)] = 5
    """The same as for near-duplicates."""
    seed: int = 0
    """Seed of the choice of clusters."""


class DataConfig(Config):
    """`whorl data run`: paths in, a dataset directory out."""

    paths: tuple[str, ...] = ()
    """Files, folders and globs to read."""
    out: str = ""
    """The dataset directory to write."""
    read: ReadConfig = ReadConfig()
    signals: tuple[str, ...] = ()
    """Signals to store alongside the documents: names of `whorl.data.signals.SIGNALS`, "all", or
    module:name."""
    filters: tuple[str, ...] = ()
    """Filters, in order: names of `whorl.data.filters.FILTERS`, module:name or file.py:name."""
    exact: bool = True
    """Keep one of several identical documents."""
    near: bool = True
    """Keep one of several nearly identical documents."""
    minhash: MinHashConfig = MinHashConfig()
    split: SplitConfig = SplitConfig()
    workers: Annotated[int, Field(ge=0)] = 0
    """Number of processes; 0: one per core. It does not affect the dataset."""
    piece_bytes: Annotated[int, Field(ge=1024)] = 64 * MIB
    """How much one process reads at a time; at most this much work is lost if it is killed."""

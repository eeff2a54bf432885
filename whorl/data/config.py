"""Settings of the data room's first half: what is read, annotated, filtered, deduplicated, split."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from whorl.base.config import Config

MIB = 1 << 20


class ReadConfig(Config):
    """How files become documents. Patterns match a file's path below the folder given, or its name."""

    include: tuple[str, ...] = ()  # read only these, e.g. "*.md"; empty: every known kind
    exclude: tuple[str, ...] = ()  # leave these files and folders out
    text_fields: tuple[str, ...] = ("text",)  # a record's text: these fields, a blank line between
    title_field: str = "title"
    image_fields: tuple[str, ...] = ("image", "images")
    max_file_bytes: Annotated[int, Field(ge=1)] = 16 * MIB  # a file that is one document
    max_record_bytes: Annotated[int, Field(ge=1)] = 16 * MIB  # a line of JSON, a row of a table
    max_image_pixels: Annotated[int, Field(ge=1)] = 64_000_000
    keep_reject_bytes: Annotated[int, Field(ge=0)] = MIB  # how much of a rejected original is kept

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if not self.text_fields:
            raise ValueError("text_fields is empty; name at least one field")
        return self


class MinHashConfig(Config):
    """MinHash near-duplicates (Broder 1997; FineWeb's 5-grams of words, 14 bands of 8 rows, 64 bits).

    Two documents of n-gram Jaccard similarity s become candidates with probability
    1 - (1 - s^rows)^bands: at 14 x 8, 0.77 at s = 0.75 and 0.992 at s = 0.85.
    """

    ngram: Annotated[int, Field(ge=1)] = 5
    bands: Annotated[int, Field(ge=1)] = 14
    rows: Annotated[int, Field(ge=1)] = 8
    verify: Annotated[float, Field(gt=0, le=1)] | None = None  # least estimated Jaccard; None: a band is enough
    seed: int = 1


class SplitConfig(Config):
    """Which documents are held out. A cluster of similar documents goes to one side as a whole.

    `threshold` is the Jaccard similarity of word n-grams from which two documents must not be
    parted; it is meant to be looser than the one duplicates are removed at.
    """

    validation: Annotated[float, Field(ge=0, lt=1)] = 0.02  # share of clusters; 0: hold nothing out
    threshold: Annotated[float, Field(ge=0.3, le=1)] = 0.5
    ngram: Annotated[int, Field(ge=1)] = 5
    seed: int = 0


class DataConfig(Config):
    """`whorl data run`: paths in, a dataset directory out.

    `signals` and `filters` are names in `whorl.data.signals.SIGNALS` and `whorl.data.filters.FILTERS`,
    or `module:name` or `file.py:name`. `exact` and `near` switch the two deduplications.
    """

    paths: tuple[str, ...] = ()
    out: str = ""
    read: ReadConfig = ReadConfig()
    signals: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    exact: bool = True
    near: bool = True
    minhash: MinHashConfig = MinHashConfig()
    split: SplitConfig = SplitConfig()
    workers: Annotated[int, Field(ge=0)] = 0  # processes; 0: one a core
    piece_bytes: Annotated[int, Field(ge=1024)] = 64 * MIB  # what one worker reads in one go

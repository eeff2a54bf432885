"""Token shards on disk, as they are read: memory-mapped documents of ids, one split at a time.

tokens/<split>-00000.npy            every document's ids, one after another (uint16 or uint32)
tokens/<split>-00000.documents.npy  int64 [D+1, 3]: where each document starts, in tokens, in bytes
                                    of ids, and in UTF-8 bytes of text; the last row is the ends
tokens/<split>-00000.ids.npy        uint8: the document ids, one after another
tokens/<split>-00000.images.json    document number → image digests, where any has images
tokens/manifest.json                format, tokenizer, parents, and every file with its SHA-256
tokenizer/                          the tokenizer that made them
images/                             see `whorl.data.images`
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.base.errors import DataError, InputError
from whorl.base.files import read_json, sha256_file, sha256_json
from whorl.data.images import ImageShards

FORMAT = 1
REMEDY = "remove its tokens folder and run `whorl data tokenize` again"
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard's entry in the manifest. `files` maps a name in `tokens/` to its size and SHA-256."""

    name: str
    split: str
    documents: int
    tokens: int
    bytes: int
    source: str  # XXH3-128 of the documents' ids, texts and images: what a restart compares
    last: bool
    files: dict[str, dict[str, Any]]


class TokenSplit:
    """The documents of one split, numbered from 0 across its shards; nothing is held in memory but
    where they start."""

    def __init__(self, name: str, directory: Path, shards: list[Shard]) -> None:
        self.name = name
        self._shards = [directory / "tokens" / f"{shard.name}.npy" for shard in shards]
        self._tokens = [_map(path) for path in self._shards]
        self._rows = [_map(path.with_suffix(".documents.npy")) for path in self._shards]
        self._ids = [_map(path.with_suffix(".ids.npy")) for path in self._shards]
        self._first = np.cumsum([0, *(shard.documents for shard in shards)])
        self.tokens = sum(shard.tokens for shard in shards)
        self.bytes = sum(shard.bytes for shard in shards)

    def __len__(self) -> int:
        """How many documents."""
        return int(self._first[-1])

    @cached_property
    def lengths(self) -> Array:
        """Tokens of each document, int64 [D]."""
        parts = [np.diff(rows[:, 0]) for rows in self._rows]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _place(self, number: int) -> tuple[int, int]:
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {len(self)} in split {self.name}")
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        return shard, number - int(self._first[shard])

    def document(self, number: int) -> Array:
        """The ids of one document, its end token included: a view of the file."""
        return self.slice(number, 0, None)

    def slice(self, number: int, start: int, stop: int | None) -> Array:
        """The ids [start, stop) of one document; None is its end."""
        shard, row = self._place(number)
        first, end = int(self._rows[shard][row, 0]), int(self._rows[shard][row + 1, 0])
        return self._tokens[shard][first + start : end if stop is None else min(end, first + stop)]

    def id(self, number: int) -> str:
        shard, row = self._place(number)
        first, end = self._rows[shard][row : row + 2, 1]
        return bytes(self._ids[shard][first:end]).decode("utf-8")

    def text_bytes(self, number: int) -> int:
        """UTF-8 bytes of the text one document was made from: what bits per byte are counted over."""
        shard, row = self._place(number)
        first, end = self._rows[shard][row : row + 2, 2]
        return int(end - first)

    def images(self, number: int) -> tuple[str, ...]:
        """Digests of one document's images, to be looked up in `TokenSet.images`."""
        shard, row = self._place(number)
        path = self._shards[shard].with_suffix(".images.json")
        return tuple(_images_of(path).get(str(row), ())) if path.exists() else ()


def _map(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is not a complete .npy file ({error}); {REMEDY}") from error
    return array


def _images_of(path: Path) -> dict[str, list[str]]:
    value: dict[str, list[str]] = read_json(path, what="image list")
    return value


class TokenSet:
    """What `write_tokens` wrote: `.split(name)` gives documents, `.fingerprint` says which they are."""

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory = directory
        self.manifest = manifest
        self.vocab_size: int = manifest["vocab_size"]
        self.end_token: int = manifest["end_token"]
        self.start_token: int | None = manifest["start_token"]
        self.tokenizer_hash: str = manifest["tokenizer"]
        self.shards = [Shard(**record) for record in manifest["shards"]]

    @property
    def tokenizer_directory(self) -> Path:
        return self.directory / "tokenizer"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, hence of every byte of the token files."""
        return sha256_json(self.manifest)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(sorted({shard.split for shard in self.shards}))

    @cached_property
    def images(self) -> ImageShards:
        return ImageShards(self.directory / "images")

    def split(self, name: str) -> TokenSplit:
        """The documents of split `name`; one without documents is an empty split."""
        return TokenSplit(name, self.directory, [shard for shard in self.shards if shard.split == name])


def open_tokens(directory: str | Path, *, verify: bool = True) -> TokenSet:
    """Open a folder written by `write_tokens`, memory-mapped.

    `verify` reads every file once and compares its SHA-256 with the manifest; without it only sizes
    are compared. Raises `InputError` where there are no tokens, `DataError` naming a damaged file.
    """
    directory = Path(directory)
    path = directory / "tokens" / "manifest.json"
    if not path.is_file():
        begun = (directory / "tokens" / "progress.jsonl").exists()
        raise InputError(
            f"{directory} has no finished tokens; run `whorl data tokenize {directory}`"
            + (" again to resume" if begun else "")
        )
    manifest = read_json(path, what="token manifest")
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(found, int) or found > FORMAT:
        raise DataError(f"{path} has format {found!r} but this version reads up to {FORMAT}; upgrade whorl")
    try:
        tokens = TokenSet(directory, manifest)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not a token manifest ({error}); {REMEDY}") from error
    for shard in tokens.shards:
        if problem := shard_problem(directory, shard, verify=verify):
            raise DataError(f"{problem}; {REMEDY}")
    return tokens


def shard_problem(directory: Path, shard: Shard, *, verify: bool) -> str | None:
    """What is wrong with a shard's files, or None."""
    for name, expected in shard.files.items():
        path = directory / "tokens" / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{path} has {path.stat().st_size} bytes, but the manifest says {expected['size']}"
        if verify and sha256_file(path) != expected["sha256"]:
            return f"{path} is damaged: its SHA-256 differs from the manifest's"
    return None

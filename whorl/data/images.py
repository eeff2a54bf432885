"""Images as content-addressed shards: encoded bytes appended to a few large files, found by SHA-256.

    images/00000.bin     the encoded files (PNG, JPEG, …) one after another
    images/index.jsonl   {"format": 1}, then {"digest", "shard", "offset", "size"} for each image

An image that comes again is kept once. Bytes are written before their index line, so a killed writer
leaves at most bytes without a line; the next writer cuts them off and the files come out the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

from whorl.base.errors import DataError, InputError
from whorl.base.files import JsonLines, read_jsonl

FORMAT = 1
SHARD_BYTES = 256 << 20
REMEDY = "remove the images folder and run `whorl data tokenize` again"


class Place(NamedTuple):
    """Where an image's bytes lie."""

    shard: int
    offset: int
    size: int


class ImageShards:
    """Read images by digest: `shards[digest] -> bytes`, checked against the digest at every read."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        index = self.directory / "index.jsonl"
        if not index.is_file():
            raise InputError(f"{index} does not exist; `whorl data tokenize` writes the images")
        self._places = _read_index(index)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def __iter__(self) -> Iterator[str]:
        """The digests, in the order the images first came."""
        return iter(self._places)

    def __getitem__(self, digest: str) -> bytes:
        place = self._places.get(digest)
        if place is None:
            raise DataError(f"{self.directory} contains no image {digest}; {REMEDY}")
        path = shard_path(self.directory, place.shard)
        try:
            with open(path, "rb") as file:
                file.seek(place.offset)
                data = file.read(place.size)
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing, but the index lists it; {REMEDY}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise DataError(f"{path} is damaged at byte {place.offset} (image {digest[:12]}…); {REMEDY}")
        return data


class ImageWriter:
    """Append images; a context manager. Opening an existing folder goes on where it ended."""

    def __init__(self, directory: str | Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        self.directory = Path(directory)
        self._shard_bytes = shard_bytes
        self._index = JsonLines(self.directory / "index.jsonl")
        self._places = _read_index(self._index.path)
        if not self._index.path.stat().st_size:
            self._index.append({"format": FORMAT})
        last = next(reversed(self._places.values()), Place(0, 0, 0))
        self._shard, self._size = last.shard, last.offset + last.size
        self._file = self._open_shard()

    def _open_shard(self) -> IO[bytes]:
        path = shard_path(self.directory, self._shard)
        file = open(path, "ab")
        if os.path.getsize(path) < self._size:
            file.close()
            raise DataError(f"{path} is shorter than its index says; {REMEDY}")
        file.truncate(self._size)  # bytes whose index line a crash prevented
        return file

    def put(self, data: bytes) -> str:
        """Keep `data` and return its digest; bytes that are there already are not written again."""
        digest = hashlib.sha256(data).hexdigest()
        if digest in self._places:
            return digest
        if self._size and self._size + len(data) > self._shard_bytes:
            self.flush()
            self._file.close()
            self._shard, self._size = self._shard + 1, 0
            self._file = self._open_shard()
        place = Place(self._shard, self._size, len(data))
        self._file.write(data)
        self._file.flush()
        self._index.append({"digest": digest, **place._asdict()})
        self._places[digest] = place
        self._size += len(data)
        return digest

    def flush(self) -> None:
        """Every image so far is on disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        self._file.close()
        self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def shard_path(directory: Path, number: int) -> Path:
    return directory / f"{number:05d}.bin"


def _read_index(path: Path) -> dict[str, Place]:
    records = read_jsonl(path)
    head = next(records, {"format": FORMAT})
    if head.get("format") != FORMAT:
        raise DataError(
            f"{path} has format {head.get('format')!r}, this version reads {FORMAT}; upgrade whorl"
        )
    try:
        return {r["digest"]: Place(r["shard"], r["offset"], r["size"]) for r in records}
    except KeyError as error:
        raise DataError(f"{path}: a line has no {error}; {REMEDY}") from error

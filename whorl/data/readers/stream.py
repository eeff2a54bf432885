"""Bytes of a file, decompressed, a bounded amount at a time; and lines of bounded length."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Self

import zstandard

CHUNK = 1 << 16
ZSTD_SLICE = 1 << 10  # zstandard bounds no output; a kilobyte of it can swell to 32 MB at most


class Decompressed(io.RawIOBase):
    """A .gz or .zst file as a raw stream that ends where the damage begins.

    After the end, `problem` is None or why the file could not be read to its true end: a cut or
    damaged archive still gives everything before the damage, which raising in mid-line would lose.
    """

    def __init__(self, file: IO[bytes], compression: str) -> None:
        self._file, self._compression = file, compression
        self._engine: Any = None
        self._input = b""
        self._output = memoryview(b"")
        self.problem: str | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            if self.problem or not self._fill():
                return 0
        view = memoryview(buffer)
        count = min(len(view), len(self._output))
        view[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def _fill(self) -> bool:
        """Decompress a little more into `_output`; False at the end."""
        if not self._input:
            self._input = self._file.read(CHUNK)
            if not self._input:
                if self._engine is not None:
                    self.problem = "the archive is cut short"
                return False
        try:
            if self._engine is None:
                self._engine = self._new_engine()
            if self._compression == ".gz":
                output = self._engine.decompress(self._input, CHUNK)
                self._input = self._engine.unconsumed_tail
            else:
                output = self._engine.decompress(self._input[:ZSTD_SLICE])
                self._input = self._input[ZSTD_SLICE:]
        except (zlib.error, zstandard.ZstdError) as error:
            self.problem = f"the archive is damaged: {error}"
            return False
        if self._engine.eof:  # another member may follow; zero bytes after the last are padding
            rest = b"" if self._compression == ".gz" else self._input  # zlib's tail repeats unused_data
            self._input = self._engine.unused_data + rest
            self._engine = None
            if not self._input.strip(b"\0"):
                self._input = b""
        self._output = memoryview(output)
        return True

    def _new_engine(self) -> Any:
        return (
            zlib.decompressobj(wbits=31)
            if self._compression == ".gz"
            else zstandard.ZstdDecompressor().decompressobj()
        )

    def close(self) -> None:
        self._file.close()
        super().close()


class Stream:
    """A file opened for reading bytes from `start`; `problem` as in `Decompressed`."""

    def __init__(self, path: str, compression: str = "", start: int = 0) -> None:
        file = open(path, "rb")
        self._raw: Decompressed | None = None
        if compression:
            self._raw = Decompressed(file, compression)
            self.file: IO[bytes] = io.BufferedReader(self._raw, CHUNK)
        else:
            file.seek(start)
            self.file = file

    @property
    def problem(self) -> str | None:
        return self._raw.problem if self._raw else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its number from 1, its bytes with the line end, and how many there were.

    Of a line over the limit `data` is only the beginning, and `over` is True.
    """

    number: int
    data: bytes
    size: int
    over: bool


def lines(file: IO[bytes], *, first: int, length: int | None, limit: int, keep: int) -> Iterator[Line]:
    """The lines of the next `length` bytes of `file`, the first numbered `first` + 1.

    A line of more than `limit` bytes is passed over without being held in memory; its first `keep`
    bytes are given.
    """
    number, taken = first, 0
    while length is None or taken < length:
        data = file.readline(limit + 1)
        if not data:
            return
        number += 1
        size, over = len(data), len(data) > limit and not data.endswith(b"\n")
        if over:
            data = data[:keep]
            while rest := file.readline(CHUNK):
                size += len(rest)
                if rest.endswith(b"\n"):
                    break
        taken += size
        yield Line(number, data, size, over)

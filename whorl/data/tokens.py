"""Documents → token shards, over worker processes, in bounded memory, restartable.

Workers only encode; one writer puts the results down in the documents' order, so the files are the
same bytes whatever the number of workers. A finished shard is noted in `tokens/progress.jsonl`; a
killed run, started again, skips the documents of finished shards and writes the rest as it would
have. The layout is in `whorl.data.tokenset`.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from whorl.base.errors import DataError, FaultError, InputError
from whorl.base.files import JsonLines, atomic_write, read_json, read_jsonl, sha256_file, write_json
from whorl.base.progress import say
from whorl.data.document import Document
from whorl.data.images import ImageWriter
from whorl.data.pool import leave_with_parent
from whorl.data.tokenset import FORMAT, Shard, TokenSet, TokenSplit, open_tokens, shard_problem

__all__ = ["TokenSet", "TokenSplit", "open_tokens", "write_tokens"]

SHARD_TOKENS = 1 << 25  # 64 MB of uint16: what the writer holds for each split
CHUNK_CHARACTERS = 1 << 20  # text a worker encodes in one go
CHUNK_DOCUMENTS = 1024
TEXT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")  # as GPT-2, Llama 3, OPT and Gemma spell it
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Array = NDArray[Any]


class Encoder(Protocol):
    """What is needed of a tokenizer: `whorl.text.Tokenizer` has it. It travels to the workers."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hash(self) -> str: ...
    @property
    def end_ids(self) -> tuple[int, ...]: ...
    def has(self, token: str) -> bool: ...
    def id_of(self, token: str) -> int: ...
    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...
    def save(self, directory: str | Path) -> None: ...


def write_tokens(
    documents: Iterable[Document],
    tokenizer: Encoder,
    directory: str | Path,
    *,
    workers: int = 1,
    end_token: int | None = None,
    start_token: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
    parents: dict[str, str] | None = None,
) -> TokenSet:
    """Encode `documents` into `directory/tokens`, their images into `directory/images`.

    Each document ends with `end_token` (unless given, the tokenizer's end of a text, see `TEXT_ENDS`,
    or its first end token) and starts with `start_token` where one is given; without one a model never
    learns a document's first token.
    `document.split` ("" counts as "train") decides the shard. Documents without text are counted in
    the manifest and leave no tokens. `parents` are the hashes of what the documents come from.
    `workers` 0 is one a core. Raises `InputError` where `directory` holds tokens of another tokenizer
    or other parents, `DataError` where the documents changed between two runs, `FaultError` where a
    worker died or the disk is full.
    """
    end = _end_token(tokenizer) if end_token is None else end_token
    key = {
        "format": FORMAT,
        "tokenizer": tokenizer.hash,
        "vocab_size": tokenizer.vocab_size,
        "end_token": end,
        "start_token": start_token,
        "shard_tokens": shard_tokens,
        "parents": dict(parents or {}),
    }
    for name, number in (("end_token", end), ("start_token", start_token)):
        if number is not None and not 0 <= number < tokenizer.vocab_size:
            raise InputError(f"{name} {number} is not one of the tokenizer's {tokenizer.vocab_size} ids")
    try:
        with _Writer(Path(directory), key) as writer:
            tokenizer.save(writer.directory / "tokenizer")
            chunks = _chunks(writer.new(documents))
            for chunk, encoded in _encode_all(chunks, tokenizer, workers or os.cpu_count() or 1):
                for document, ids in zip(chunk, encoded, strict=True):
                    writer.add(document, ids)
            writer.finish()
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise FaultError(
            f"{directory} has no space for tokens ({error.strerror}); free some and run again to resume"
        ) from error
    return open_tokens(directory, verify=False)


def _end_token(tokenizer: Encoder) -> int:
    """The end of a text rather than of a turn, where the vocabulary tells them apart."""
    for token in TEXT_ENDS:
        if tokenizer.has(token):
            return tokenizer.id_of(token)
    if not tokenizer.end_ids:
        raise InputError("the tokenizer has no end token; give end_token, which is put after every document")
    return tokenizer.end_ids[0]


# -- the writer: one process, the documents' order ------------------------------------------------


class _Part:
    """A split's shard in the making, and the finished shards that are still to be skipped."""

    def __init__(self, split: str, done: list[Shard]) -> None:
        self.split = split
        self.done = deque(done)
        self.number = len(done)  # of the shard to write next
        self.skipped = 0
        self.closed = bool(done) and done[-1].last
        self.hasher = xxhash.xxh3_128()
        self.clear()

    def clear(self) -> None:
        self.tokens: list[Array] = []
        self.rows = [(0, 0, 0)]
        self.ids: list[bytes] = []
        self.images: dict[str, list[str]] = {}
        self.hasher = xxhash.xxh3_128()


class _Writer:
    def __init__(self, directory: Path, key: dict[str, Any]) -> None:
        self.directory = directory
        self._folder = directory / "tokens"
        self._folder.mkdir(parents=True, exist_ok=True)
        for stale in self._folder.glob(".*.part"):  # a killed run's unfinished files
            stale.unlink()
        self._key = key
        self._dtype = np.uint16 if key["vocab_size"] <= 1 << 16 else np.uint32
        self._empty = 0
        self._shards = self._finished()
        (self._folder / "manifest.json").unlink(missing_ok=True)
        self._parts = {split: _Part(split, shards) for split, shards in _by_split(self._shards).items()}
        self._journal = self._begin_journal()
        self._images: ImageWriter | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()
        if self._images is not None:
            self._images.close()

    def _finished(self) -> list[Shard]:
        """Whole shards of an earlier run with the same key, those after a damaged one left out."""
        manifest, journal = self._folder / "manifest.json", self._folder / "progress.jsonl"
        if manifest.exists():
            head = read_json(manifest, what="token manifest")
            records = head.get("shards", [])
        elif journal.exists():
            head, *records = list(read_jsonl(journal)) or [self._key]
        else:
            return []
        if differing := [name for name, value in self._key.items() if head.get(name) != value]:
            raise InputError(
                f"{self._folder} was made with a different {', '.join(differing)}; choose another directory"
                " or remove that folder"
            )
        try:
            found = [Shard(**record) for record in records]
        except TypeError as error:
            raise DataError(f"{self._folder} has a broken list of shards ({error}); remove it") from error
        kept: list[Shard] = []
        for split, shards in _by_split(found).items():
            for shard in shards:
                if problem := shard_problem(self.directory, shard, verify=True):
                    say(f"{problem}; {split} is re-tokenised from there")
                    break
                kept.append(shard)
        return kept

    def _begin_journal(self) -> JsonLines:
        path = self._folder / "progress.jsonl"
        lines = [self._key, *(asdict(shard) for shard in self._shards)]
        with atomic_write(path) as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        return JsonLines(path)

    def new(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents that no finished shard holds; those that one holds are compared with it."""
        for document in documents:
            if not document.text:
                self._empty += 1
                continue
            _check_text(document)
            split = document.split or "train"
            if not split.replace("-", "").replace("_", "").isalnum():
                raise DataError(f"document {document.id}: split {split!r} is not a plain word")
            part = self._parts.setdefault(split, _Part(split, []))
            if not part.done:
                if part.closed:
                    raise self._changed(part)
                yield document
                continue
            _hash_document(part.hasher, document)
            part.skipped += 1
            if part.skipped == part.done[0].documents:
                if part.hasher.hexdigest() != part.done.popleft().source:
                    raise self._changed(part)
                part.skipped = 0
                part.hasher = xxhash.xxh3_128()

    def _changed(self, part: _Part) -> DataError:
        return DataError(
            f"the {part.split} documents are not those {self._folder} was started with; remove that"
            " folder to start over"
        )

    def add(self, document: Document, ids: Array) -> None:
        part = self._parts[document.split or "train"]
        start, end = self._key["start_token"], self._key["end_token"]
        ends = ([] if start is None else [start], [end])
        tokens = np.concatenate([np.asarray(piece, self._dtype) for piece in (ends[0], ids, ends[1])])
        if part.tokens and part.rows[-1][0] + len(tokens) > self._key["shard_tokens"]:
            self._close_shard(part, last=False)
        name = document.id.encode("utf-8")
        text = len(document.text.encode("utf-8"))
        at = part.rows[-1]
        if document.images:
            part.images[str(len(part.tokens))] = [self._put_image(image.data) for image in document.images]
        _hash_document(part.hasher, document)
        part.tokens.append(tokens)
        part.ids.append(name)
        part.rows.append((at[0] + len(tokens), at[1] + len(name), at[2] + text))

    def _put_image(self, data: bytes) -> str:
        if self._images is None:
            self._images = ImageWriter(self.directory / "images")
        return self._images.put(data)

    def _close_shard(self, part: _Part, *, last: bool) -> None:
        name = f"{part.split}-{part.number:05d}"
        arrays = {
            f"{name}.npy": np.concatenate(part.tokens),
            f"{name}.documents.npy": np.asarray(part.rows, np.int64),
            f"{name}.ids.npy": np.frombuffer(b"".join(part.ids), np.uint8),
        }
        for file_name, array in arrays.items():
            with atomic_write(self._folder / file_name, "wb") as file:
                np.save(file, array)
        if self._images is not None:
            self._images.flush()  # a shard that counts as finished must find its images
        names = [*arrays]
        if part.images:
            names.append(f"{name}.images.json")
            write_json(self._folder / names[-1], part.images)
        tokens, _, text = part.rows[-1]
        shard = Shard(
            name=name,
            split=part.split,
            documents=len(part.tokens),
            tokens=tokens,
            bytes=text,
            source=part.hasher.hexdigest(),
            last=last,
            files={file_name: _describe(self._folder / file_name) for file_name in names},
        )
        self._journal.append(asdict(shard), sync=True)
        self._shards.append(shard)
        part.number += 1
        part.clear()

    def finish(self) -> None:
        """Close the open shards and write the manifest: from now on the folder can be read."""
        for part in self._parts.values():
            if part.done or part.skipped:
                raise self._changed(part)
            if part.tokens:
                self._close_shard(part, last=True)
        if not self._shards:
            raise DataError(f"no document has text, {self._empty} were empty; nothing to tokenise")
        shards = sorted(self._shards, key=lambda shard: shard.name)
        totals = {
            split: {
                name: sum(getattr(shard, name) for shard in found)
                for name in ("documents", "tokens", "bytes")
            }
            for split, found in sorted(_by_split(shards).items())
        }
        if self._images is not None:
            self._images.close()
            self._images = None
        images = self.directory / "images"
        manifest = {
            **self._key,
            "dtype": np.dtype(self._dtype).name,
            "splits": totals,
            "empty_documents": self._empty,
            "images": {path.name: _describe(path) for path in sorted(images.glob("[0-9i]*"))},
            "shards": [asdict(shard) for shard in shards],
        }
        write_json(self._folder / "manifest.json", manifest)
        self._journal.path.unlink()


def _by_split(shards: list[Shard]) -> dict[str, list[Shard]]:
    splits: dict[str, list[Shard]] = {}
    for shard in sorted(shards, key=lambda shard: shard.name):
        splits.setdefault(shard.split, []).append(shard)
    return splits


def _describe(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256_file(path)}


def _check_text(document: Document) -> None:
    """Found here, where the document has a name, and not in a batch of a thousand."""
    try:
        document.text.encode("utf-8")
    except UnicodeEncodeError as error:
        place = f" ({document.source}:{document.line})" if document.source else ""
        raise DataError(
            f"document {document.id}{place} contains half a surrogate pair at character"
            f" {error.start}; clean it"
        ) from error


def _hash_document(hasher: xxhash.xxh3_128, document: Document) -> None:
    for part in (document.id, document.text, *(image.digest for image in document.images)):
        raw = part.encode("utf-8")
        hasher.update(len(raw).to_bytes(8, "little"))
        hasher.update(raw)


# -- the workers: encoding, any order ------------------------------------------------------------


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += len(document.text) + sum(len(image.data) for image in document.images)
        if characters >= CHUNK_CHARACTERS or len(chunk) >= CHUNK_DOCUMENTS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _encode_all(
    chunks: Iterable[list[Document]], tokenizer: Encoder, workers: int
) -> Iterator[tuple[list[Document], list[Array]]]:
    """Each chunk with its ids, in order; at most two chunks a worker are under way."""
    if workers == 1:
        for chunk in chunks:
            yield chunk, _encode(tokenizer, chunk)
        return
    waiting: deque[tuple[list[Document], Future[list[Array]]]] = deque()
    context = multiprocessing.get_context("spawn")  # fork copies locks that other threads hold
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(tokenizer,))
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_encode_here, _without_images(chunk))))
            if len(waiting) > 2 * workers:
                yield waiting[0][0], waiting.popleft()[1].result()
        while waiting:
            yield waiting[0][0], waiting.popleft()[1].result()
    except BrokenProcessPool as error:
        raise FaultError(
            "a tokenising process was killed, perhaps out of memory; run again with fewer workers to resume"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _without_images(chunk: list[Document]) -> list[Document]:
    """Only what is encoded crosses to a worker."""
    return [Document(id=d.id, text=d.text) for d in chunk]


_tokenizer: Encoder | None = None  # of a worker process, set once when it starts


def _start_worker(tokenizer: Encoder) -> None:
    global _tokenizer
    _tokenizer = tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    threading.Thread(target=leave_with_parent, daemon=True).start()


def _encode_here(chunk: list[Document]) -> list[Array]:
    if _tokenizer is None:
        raise FaultError("a tokenising process has no tokenizer: it was not started by write_tokens")
    return _encode(_tokenizer, chunk)


def _encode(tokenizer: Encoder, chunk: list[Document]) -> list[Array]:
    encoded = tokenizer.encode_batch([document.text for document in chunk])
    return [np.asarray(ids, np.uint32) for ids in encoded]

"""The run's documents: Python's own, the user's, or both; as a dataset, a tokenizer and token shards."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from whorl.base.errors import InputError
from whorl.base.files import atomic_write, sha256_file
from whorl.base.progress import say
from whorl.data.config import SplitConfig
from whorl.data.dataset import read_dataset
from whorl.data.document import Document
from whorl.data.pipeline import Report, run
from whorl.data.steps import Annotate, ExactDedup, NearDedup, Split, Step
from whorl.data.tokens import write_tokens
from whorl.data.tokenset import TokenSet
from whorl.quickstart.config import QuickstartConfig
from whorl.quickstart.conversations import ENOUGH_BYTES
from whorl.quickstart.plan import VOCABULARY
from whorl.quickstart.sources import python_documents
from whorl.text.bpe import train_bpe
from whorl.text.tokenizer import Tokenizer

VALIDATION = 0.04  # of the clusters of documents
# Annotations only: short notes and other languages are as welcome as prose.
SIGNALS = ("rps_doc_word_count", "rps_doc_mean_word_length", "rps_doc_frac_unique_words", "ccnet_length")
WORKERS = 2


@dataclass(frozen=True)
class Corpus:
    """What the run learns from. `own` says whether the user's documents are in it, `python` Python's."""

    directory: Path
    tokenizer: Tokenizer
    tokens: TokenSet
    own: bool
    python: bool

    def documents(self, split: str = "") -> Iterator[Document]:
        """The kept documents, of one split or all."""
        for document in read_dataset(self.directory):
            if not split or document.split == split:
                yield document

    def own_documents(self) -> Iterator[Document]:
        """The kept documents that are the user's."""
        return (document for document in self.documents() if not document.meta.get("python"))


def build_corpus(config: QuickstartConfig, directory: Path) -> Corpus:
    """Read, clean, split, tokenise. What an earlier call finished is left as it is."""
    python = directory / "python.jsonl"
    own_bytes = _size(config.data)
    with_python = own_bytes < ENOUGH_BYTES
    if config.data and with_python:
        say(
            f"your data is {own_bytes / 1e6:.1f} MB, less than {ENOUGH_BYTES / 1e6:.0f}: "
            "Python's documentation is mixed in"
        )
    if with_python and not python.exists():
        _write_python(python)
    paths = (*config.data, *([str(python)] if with_python else []))
    steps: list[Step] = [Annotate(name, name) for name in SIGNALS]
    steps += [ExactDedup(), NearDedup(), Split(SplitConfig(validation=VALIDATION, seed=config.seed))]
    report = run(paths, steps, directory / "dataset", workers=WORKERS)
    _say(report)
    tokenizer = _tokenizer(directory)
    tokens = write_tokens(
        read_dataset(directory / "dataset"), tokenizer, directory / "tokens", workers=WORKERS,
        parents={"dataset": sha256_file(directory / "dataset" / "manifest.json")},
    )  # fmt: skip
    if "validation" not in tokens.splits:
        raise InputError("too few documents to hold any out; give more with --data")
    return Corpus(directory / "dataset", tokenizer, tokens, bool(config.data), with_python)


def check_paths(paths: tuple[str, ...]) -> None:
    """`InputError` for the first of the user's paths that names nothing, before anything is measured."""
    for name in paths:
        if not _named(name):
            raise InputError(f"--data {name} does not exist; give files, folders or a glob that matches")


def _named(name: str) -> list[Path]:
    """The file or folder of this name, or what the glob matches."""
    if Path(name).exists():
        return [Path(name)]
    return [Path(found) for found in glob.glob(name, recursive=True)]


def _size(names: tuple[str, ...]) -> int:
    places = [place for name in names for place in _named(name)]
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place])]
    return sum(file.stat().st_size for file in files if file.is_file())


def _write_python(path: Path) -> None:
    """Python's own files as one file of records: the data run takes it like any other."""
    left_out = 0
    with atomic_write(path) as file:
        for document in python_documents():
            if not isinstance(document, Document):
                left_out += 1
                continue
            record = {
                "text": document.text, "title": document.title, "source": document.source,
                "python": document.meta["kind"],
            }  # fmt: skip
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    say(f"Python's library: {left_out} generated tables and empty files left out")


def _tokenizer(directory: Path) -> Tokenizer:
    place = directory / "tokenizer"
    if not (place / "tokenizer.json").exists():
        training = (
            document.text for document in read_dataset(directory / "dataset") if document.split == "train"
        )
        train_bpe(training, VOCABULARY).save(place)
    return Tokenizer.load(place)


def _say(report: Report) -> None:
    for line in report.lines():
        say(line)

"""Which files there are to read, in one order on every machine, and how each is to be read."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from whorl.base.errors import InputError
from whorl.data.config import ReadConfig
from whorl.data.document import Reject

Format = Literal["text", "markdown", "code", "jsonl", "json", "csv", "parquet"]

_CODE = (
    ".py", ".pyi", ".pyx", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh", ".cu", ".cuh", ".rs",
    ".go", ".java", ".kt", ".kts", ".scala", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".rb",
    ".php", ".pl", ".pm", ".r", ".jl", ".lua", ".sh", ".bash", ".zsh", ".ps1", ".sql", ".swift", ".m",
    ".mm", ".cs", ".fs", ".hs", ".ml", ".mli", ".ex", ".exs", ".erl", ".clj", ".el", ".lisp", ".vim",
    ".asm", ".s", ".f90", ".zig", ".nim", ".dart", ".proto", ".css", ".scss", ".toml", ".yaml", ".yml",
    ".ini", ".cfg", ".cmake", ".mk", ".dockerfile",
)  # fmt: skip
FORMATS: dict[str, Format] = {
    **dict.fromkeys((".txt", ".text", ".rst", ".tex", ".log", ".adoc"), "text"),
    **dict.fromkeys((".md", ".markdown"), "markdown"),
    **dict.fromkeys(_CODE, "code"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
PLAIN_NAMES: dict[str, Format] = {
    **dict.fromkeys(
        ("readme", "license", "copying", "authors", "changes", "changelog", "news", "todo"), "text"
    ),
    **dict.fromkeys(("makefile", "dockerfile", "rakefile", "gemfile"), "code"),
}
COMPRESSIONS = (".gz", ".zst")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file to read. `path` is as the user named it; `label` its path below the folder given,
    that folder's own name in front: what a document's id is made from."""

    path: str
    label: str
    format: Format
    compression: str = ""  # "", ".gz" or ".zst"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A file, or the bytes [start, end) of one: what one worker reads in one go.

    `first` is the number of lines (of records, in a table) before `start`.
    """

    file: SourceFile
    start: int = 0
    end: int | None = None
    first: int = 0


def format_of(name: str) -> tuple[Format | None, str]:
    """The format and the compression a file's name stands for; None for an unknown one."""
    pure = PurePosixPath(name.lower())
    compression = pure.suffix if pure.suffix in COMPRESSIONS else ""
    if compression:
        pure = pure.with_suffix("")
    return FORMATS.get(pure.suffix) or PLAIN_NAMES.get(pure.name), compression


def discover(paths: Iterable[str | Path], config: ReadConfig) -> Iterator[SourceFile | Reject]:
    """The files under `paths` (files, folders, globs) in the order given, each folder's by name.

    Hidden entries, links to folders, unknown kinds of file and second mentions come as rejects, so
    that nothing is passed over in silence. A file named outright is read as text where its kind is
    unknown. Raises `InputError` for a path that is not there.
    """
    seen: set[str] = set()
    roots: dict[str, str] = {}
    for given in paths:
        for path in _expand(str(given)):
            if os.path.isdir(path):
                label = _root_label(path, roots)
                entries = _walk(path, label, config)
            else:
                label = _root_label(path, roots)
                entries = iter((_classify(path, label, named=True),))
            for entry in entries:
                if isinstance(entry, SourceFile):
                    real = os.path.realpath(entry.path)
                    if real in seen:
                        entry = Reject(source=entry.path, reason="listed-twice", detail="already read above")
                    seen.add(real)
                yield entry


def _expand(given: str) -> list[str]:
    if os.path.exists(given):
        return [Path(given).as_posix()]
    found = sorted(Path(path).as_posix() for path in glob.glob(given, recursive=True))
    if not found:
        what = "matches no file" if glob.has_magic(given) else "does not exist"
        raise InputError(f"input {given} {what}; check the path")
    return found


def _root_label(path: str, roots: dict[str, str]) -> str:
    """The name of a file or folder given, numbered where another one has the same name."""
    name = os.path.basename(os.path.abspath(path)) or "root"
    label, number = name, 2
    while roots.setdefault(label, os.path.realpath(path)) != os.path.realpath(path):
        label, number = f"{name}~{number}", number + 1
    return label


def _walk(root: str, label: str, config: ReadConfig) -> Iterator[SourceFile | Reject]:
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        yield Reject(source=root, reason="unreadable", detail=error.strerror or str(error))
        return
    for name in names:
        path, below = f"{root.rstrip('/')}/{name}", f"{label}/{name}"
        if _matches(below, config.exclude):
            yield Reject(source=path, reason="excluded", detail="matches read.exclude")
        elif name.startswith("."):
            yield Reject(source=path, reason="hidden", detail="give its path explicitly to read it")
        elif os.path.isdir(path):
            if os.path.islink(path):
                yield Reject(
                    source=path, reason="linked-folder", detail="give its path explicitly to read it"
                )
            else:
                yield from _walk(path, below, config)
        elif config.include and not _matches(below, config.include):
            yield Reject(source=path, reason="not-included", detail="matches nothing in read.include")
        else:
            yield _classify(path, below, named=False)


def _matches(label: str, patterns: tuple[str, ...]) -> bool:
    below = label.partition("/")[2]
    return any(
        fnmatch.fnmatchcase(below, p) or fnmatch.fnmatchcase(os.path.basename(below), p) for p in patterns
    )


def _classify(path: str, label: str, *, named: bool) -> SourceFile | Reject:
    kind, compression = format_of(os.path.basename(path))
    if not os.path.isfile(path):
        return Reject(source=path, reason="not-a-file", detail="a socket, device, pipe or broken link")
    if kind is None and not named:
        return Reject(source=path, reason="unknown-format", detail="Whorl does not read this file type")
    return SourceFile(path=path, label=label, format=kind or "text", compression=compression)

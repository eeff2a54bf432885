"""The datasets of a workspace: folders that a manifest of documents or of tokens lies in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whorl.base.errors import DataError, WhorlError
from whorl.base.files import read_json, sha256_file
from whorl.data.dataset import open_manifest
from whorl.serve.api.errors import ApiError

DEPTH = 7
MANIFEST = "manifest.json"
NEEDED = ("read", "documents", "splits", "reasons", "files")
# Folders that hold no datasets, and may hold very much.
PASSED_OVER = {
    "checkpoints", "model", "adapter", "base", "arena", "studio", "documents", "signals", "rejects",
    "tokens", "images", "work", "tokenizer", "node_modules",
}  # fmt: skip


@dataclass
class Found:
    """A folder with documents, tokens or both. `trouble` says why its manifest cannot be read."""

    way: str
    folder: Path
    documents: dict[str, Any] | None = None
    tokens: dict[str, Any] | None = None
    unfinished: bool = False
    trouble: str = ""
    splits: dict[str, dict[str, int]] = field(default_factory=dict)  # of the tokens

    @property
    def modified(self) -> float:
        return max(
            (os.stat(file).st_mtime for file in _manifests(self.folder) if file.is_file()), default=0.0
        )


class Datasets:
    """By their way below the workspace. Its methods wait for the disk: call them in a thread."""

    def __init__(self, workspace: Path) -> None:
        self.root = workspace
        self._known: dict[Path, tuple[Any, Found]] = {}

    def all(self) -> list[Found]:
        """The newest first."""
        found = [self._open(folder) for folder in _walk(self.root, DEPTH)]
        return sorted(found, key=lambda one: (-one.modified, one.way))

    def find(self, way: str) -> Found:
        """ApiError 404 for what is no dataset of this workspace."""
        parts = Path(way).parts
        folder = self.root / way
        inside = parts and not Path(way).is_absolute() and ".." not in parts and "\0" not in way
        if inside and is_dataset(folder) and folder.resolve().is_relative_to(self.root.resolve()):
            return self._open(folder)
        raise ApiError(404, f"There is no dataset {way} in {self.root}.")

    def way_of(self, path: str) -> str:
        """The way of the dataset at a path that a run or a manifest names; "" where it is none here."""
        if not path:
            return ""
        for place in (Path(path), self.root / path):
            resolved = place.resolve()
            if resolved.is_relative_to(self.root.resolve()) and is_dataset(resolved):
                return resolved.relative_to(self.root.resolve()).as_posix()
        return ""

    def _open(self, folder: Path) -> Found:
        state = tuple(_state(file) for file in _manifests(folder))
        known = self._known.get(folder)
        if known is None or known[0] != state:
            known = (state, _read(folder.relative_to(self.root).as_posix(), folder))
            self._known[folder] = known
        return known[1]


def is_dataset(folder: Path) -> bool:
    if any(file.is_file() for file in _manifests(folder)):
        return _is_ours(folder)
    return (folder / "work" / "plan.json").is_file()


def _is_ours(folder: Path) -> bool:
    """An export of votes has a manifest too."""
    places = ("documents", "rejects", "tokens/manifest.json")
    return any((folder / place).exists() for place in places)


def _manifests(folder: Path) -> tuple[Path, Path]:
    return folder / MANIFEST, folder / "tokens" / MANIFEST


def _read(way: str, folder: Path) -> Found:
    found = Found(way, folder)
    documents, tokens = _manifests(folder)
    try:
        if documents.is_file():
            manifest = open_manifest(folder)
            if missing := [name for name in NEEDED if name not in manifest]:
                raise DataError(f"{documents} has no {missing[0]}; rebuild the dataset")
            found.documents = manifest
            tokens = tokens if tokens.is_file() else _beside(documents)
        if tokens.is_file():
            found.tokens = read_json(tokens, what="token manifest")
            for shard in found.tokens.get("shards", []):
                split = found.splits.setdefault(shard["split"], {"documents": 0, "tokens": 0, "bytes": 0})
                for name in split:
                    split[name] += shard[name]
    except (WhorlError, KeyError, TypeError, AttributeError) as error:
        found.trouble = (
            str(error) if isinstance(error, WhorlError) else f"{tokens} is not a manifest: {error!r}"
        )
    found.unfinished = found.documents is None and (folder / "work" / "plan.json").is_file()
    return found


def _beside(documents: Path) -> Path:
    """The manifest of tokens that lie beside the dataset and were made from just these documents."""
    place = documents.parent.parent / "tokens" / "tokens" / MANIFEST
    if place.is_file():
        parents = read_json(place, what="token manifest").get("parents") or {}
        if sha256_file(documents) in parents.values():
            return place
    return documents.parent / "tokens" / MANIFEST


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            inner = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for name in inner:
        if name.startswith(".") or name in PASSED_OVER:
            continue
        child = folder / name
        if is_dataset(child):
            yield child
        if depth > 1:
            yield from _walk(child, depth - 1)


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns

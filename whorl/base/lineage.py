"""From the weights of a reply back to what made them: runs, tokens, documents.

Every run names its inputs with the hashes of their contents and says which weights it exported; every
manifest names its parents likewise. Following the hashes finds the way back, and says where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from whorl.base.errors import DataError, InputError
from whorl.base.files import read_json, read_jsonl, sha256_file, sha256_input, sha256_json
from whorl.base.logbook import read_events
from whorl.base.runs import find_runs

SHORT = 12  # characters of a hash that are shown; at least so many name one
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Origin:
    """One thing on the way back and what it came from. `path` is "" where it is not under the root."""

    kind: str  # "weights", "adapter", "run", "tokens", "dataset", "file"
    name: str
    hash: str
    path: str = ""
    note: str = ""
    origins: tuple[Origin, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        own = {"kind": self.kind, "name": self.name, "hash": self.hash, "path": self.path, "note": self.note}
        return own | {"origins": [origin.to_json() for origin in self.origins]}


def trace_back(version: str, root: str | Path) -> Origin:
    """Where the weights of this version (whole, or its first 12 characters and more; an adapter's after
    a "+") come from, as far as the files under `root` tell. InputError where no run there made them."""
    base, _, adapter = version.partition("+")
    files = _Files(Path(root))
    found = files.weights(base)
    if found is None and not adapter:
        raise InputError(
            f"no run under {root} has exported weights {version[:SHORT]}; give --root the folder that has it"
        )
    found = found or Origin("weights", "weights", base, note="not from a run here")
    if not adapter:
        return found
    made = files.weights(adapter) or Origin("adapter", "adapter", adapter, note="not from a run here")
    return Origin("weights", "weights with an adapter", version, origins=(found, made))


def find_trace(path: str | Path, id: str = "") -> dict[str, Any]:
    """The record of reply `id` in a file of traces, or the last one's: as `whorl serve --traces` writes them,
    or `whorl arena export`, whose traces.jsonl has what the reply said in the files beside it."""
    last: dict[str, Any] | None = None
    for record in read_jsonl(path):
        if not id or id in (record.get("id"), record.get("trace")):  # an export's own name of a reply
            last = record
    if last is None:
        raise InputError(f"{path} has no reply {id!r}" if id else f"{path} contains no traces")
    name = str(last.get("trace") or last.get("id") or "")
    found = last if "message" in last else _beside(Path(path), name) | last
    if not isinstance(found.get("weight_version"), str) or not found["weight_version"]:
        raise DataError(
            f"{path}: the reply {name or 'there'} names no weight_version: its server reported none;"
            " give the --id of another reply, or a file written by whorl serve --traces or whorl"
            " arena export"
        )
    return {"message": {}, "id": name, **found}


def _beside(path: Path, trace: str) -> dict[str, Any]:
    """What an export's other files say of a trace: its reply, and the weights that gave it."""
    files = {"conversations.jsonl": ("messages",), "preferences.jsonl": ("chosen", "rejected")}
    for name, parts in files.items():
        for record in read_jsonl(path.with_name(name)) if path.with_name(name).exists() else ():
            for part in parts:
                prefix = "" if part == "messages" else f"{part}_"
                traces = record.get(f"{prefix}traces") or []
                if trace in traces:
                    place = traces.index(trace)
                    replies = [one for one in record[part] if one["role"] == "assistant"]
                    version = record[f"{prefix}weight_versions"][place]
                    return {"message": replies[place], "weight_version": version}
    return {}


class _Files:
    """What lies under the root, by hash."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._events = {run: read_events(run) for run in find_runs(root)}

    def weights(self, version: str) -> Origin | None:
        if len(version) < SHORT:
            raise InputError(f"weight version {version!r} is too short; give {SHORT} characters or more")
        for run, events in self._events.items():
            for event in events:
                made = event.get("weights") or event.get("adapter") or ""
                if event["kind"] == "exported" and made.startswith(version):
                    kind = "adapter" if event.get("adapter") else "weights"
                    step = f"after step {event['step']}" if event.get("step") else ""
                    return Origin(kind, Path(event["path"]).name, made, event["path"], step, (self.run(run),))
        return None

    def run(self, path: Path) -> Origin:
        start = next(event for event in self._events[path] if event["kind"] == "start")
        commit = f"commit {start['commit'][:SHORT]}" if start["commit"] else f"whorl {start['whorl']}"
        changed = ", changed since" if start["dirty"] else ""
        inputs = tuple(self.input(name, hash) for name, hash in start["data"].items())
        return Origin("run", path.name, start["code"], str(path), commit + changed, inputs)

    def input(self, name: str, hash: str) -> Origin:
        if name in ("model", "reference"):
            return self.weights(hash) or Origin("weights", "weights", hash, note="not from a run here")
        place = next((p for p in (Path(name), self.root / name) if p.exists()), None)
        if place is None:
            return Origin("file", name, hash, note="not found")
        manifest = place / "tokens" / MANIFEST
        if place.is_dir() and manifest.exists():
            described = read_json(manifest, what="token manifest")
            note = "" if sha256_json(described) == hash else "changed since"
            parents = tuple(self.dataset(parent) for parent in described["parents"].values())
            return Origin("tokens", place.name, hash, str(place), note, parents)
        note = "" if sha256_input(place) == hash else "changed since"
        return Origin("file", place.name, hash, str(place), note)

    @cached_property
    def datasets(self) -> dict[str, Path]:
        """Manifests of datasets by their hash."""
        return {sha256_file(path): path for path in self._manifests()}

    def _manifests(self) -> Iterator[Path]:
        for path in sorted(self.root.rglob(MANIFEST)):
            if path.parent.name not in ("tokens", "images"):
                yield path

    def dataset(self, hash: str) -> Origin:
        manifest = self.datasets.get(hash)
        if manifest is None:
            return Origin("dataset", "dataset", hash, note="not found, or changed since")
        described = read_json(manifest, what="dataset manifest")
        inputs = tuple(
            Origin("file", Path(one["path"]).name, one["sha256"], one["path"], f"{one['bytes']:,} bytes")
            for one in described["inputs"]
        )
        note = f"{described['documents']:,} documents of {described['read']:,} read"
        return Origin("dataset", manifest.parent.name, hash, str(manifest.parent), note, inputs)

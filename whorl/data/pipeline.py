"""Raw files to a dataset directory: `run(source, steps, sink, workers=…)`.

    scan        hash every input, cut it into units of work          in parallel, kept in work/plan.json
    first pass  read, annotate, filter, sketch                       in parallel, a folder a unit
    decide      duplicates and the split, over all documents         here, a few dozen bytes a document
    last pass   write documents, signals and rejects                 in parallel, whole files
    manifest    counts, reasons, hashes; the work folder goes

What is done stays done: after a kill at any moment the same call goes on, and the dataset is byte
for byte the one an unbroken run gives, on any number of workers.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from whorl.base.errors import DataError, FaultError, InputError
from whorl.base.files import atomic_write, read_json, sha256_json, write_json
from whorl.base.progress import progress, say
from whorl.data.config import MIB, DataConfig, ReadConfig
from whorl.data.dataset import FORMAT, open_manifest, reject_record
from whorl.data.decide import Decider
from whorl.data.dedup.minhash import Sketch
from whorl.data.document import Reject
from whorl.data.pool import Pool
from whorl.data.readers.sources import Piece, SourceFile, discover
from whorl.data.scan import Scanned, scan
from whorl.data.steps import ExactDedup, NearDedup, Split, Step, check_steps, describe, steps_of
from whorl.data.units import TRAIN, VALIDATION, FirstPass, LastPass, file_entry, read_unit, unit_folder


@dataclass(frozen=True)
class Inputs:
    """What to read and how: files, folders and globs."""

    paths: tuple[str, ...]
    read: ReadConfig = field(default_factory=ReadConfig)
    piece_bytes: int = 64 * MIB  # the size of a unit of work; decides the number of output files


@dataclass(frozen=True)
class Report:
    """What a run did. `reasons` is step → reason → how many were set aside there."""

    directory: Path
    read: int
    documents: int
    splits: dict[str, int]
    reasons: dict[str, dict[str, int]]

    @property
    def rejected(self) -> int:
        return sum(sum(counts.values()) for counts in self.reasons.values())

    @classmethod
    def of(cls, directory: str | Path) -> Report:
        """The report of a finished dataset, from its manifest."""
        manifest = open_manifest(directory)
        return cls(directory=Path(directory), **{name: manifest[name] for name in _COUNTS})

    def lines(self) -> list[str]:
        """For people: what was read, set aside by step and reason, and kept."""
        lines = [f"{self.read:,} documents read"]
        for step, counts in self.reasons.items():
            told = ", ".join(
                f"{reason} {count:,}" for reason, count in sorted(counts.items(), key=_most_first)
            )
            lines.append(f"  {step}: {sum(counts.values()):,} rejected ({told})")
        sides = ", ".join(f"{name} {count:,}" for name, count in self.splits.items() if name)
        lines.append(f"{self.documents:,} documents kept" + (f" ({sides})" if sides else ""))
        return lines


_COUNTS = ("read", "documents", "splits", "reasons")


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def run_config(config: DataConfig) -> Report:
    """What `whorl data run` does."""
    if not config.paths:
        raise InputError("no input; give files or folders, or paths = [...] in the recipe")
    if not config.out:
        raise InputError('no output directory; give --out DIR, or out = "DIR" in the recipe')
    source = Inputs(config.paths, config.read, config.piece_bytes)
    return run(source, steps_of(config), config.out, workers=config.workers)


def run(
    source: Inputs | str | Path | Iterable[str | Path],
    steps: Sequence[Step],
    sink: str | Path,
    *,
    workers: int = 1,
) -> Report:
    """Read `source`, apply `steps`, write the dataset directory `sink` (see `whorl.data.dataset`).

    `workers` processes (0: one a core; 1: this one) change nothing in what is written. A finished
    dataset made of the same inputs by the same steps is left as it is. Raises `InputError` for a
    missing path, an unfit step, or a `sink` that holds something else; `FaultError` when the disk is
    full or a worker keeps dying: what is done is kept, and the same call goes on from there.
    """
    if not isinstance(source, Inputs):
        paths = (source,) if isinstance(source, str | Path) else source
        source = Inputs(tuple(str(path) for path in paths))
    check_steps(steps)
    try:
        with Pool(workers or os.cpu_count() or 1) as pool:
            return _Run(source, tuple(steps), Path(sink), pool).finish()
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(
            f"cannot write the dataset to {sink}: {error.strerror} ({error.filename})"
        ) from error
    except OSError as error:
        raise FaultError(
            f"{sink}: {error.strerror or error}; free some space, then run the same command again"
        ) from error


@dataclass
class _Run:
    source: Inputs
    steps: tuple[Step, ...]
    out: Path
    pool: Pool

    @property
    def work(self) -> Path:
        return self.out / "work"

    def finish(self) -> Report:
        self.found = list(self._discover())
        self.files = [entry for entry in self.found if isinstance(entry, SourceFile)]
        if not self.files:
            reasons = Counter(entry.reason for entry in self.found if isinstance(entry, Reject))
            passed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
            what = f"skipped: {passed}" if passed else "the folder is empty"
            raise InputError(f"no file to read under {', '.join(self.source.paths)} ({what})")
        self._plan()
        if (self.out / "manifest.json").exists():  # finished before, if only just
            shutil.rmtree(self.work, ignore_errors=True)
            self._sweep()
            return Report.of(self.out)
        summaries = self._first_pass()
        counts = [summary["documents"] for summary in summaries]
        kinds = _join_kinds(summaries)
        decisions, duplicates = Decider(self.work, counts, self.sketches).decide(self.steps)
        files = self._last_pass(counts, kinds, decisions)
        self._sweep()
        self._write_manifest(summaries, decisions, duplicates, files)
        if any(isinstance(step, Split) for step in self.steps) and not (decisions == VALIDATION).any():
            say("nothing is held out: all documents resemble each other, or there is only one")
        shutil.rmtree(self.work)
        return Report.of(self.out)

    def _sweep(self) -> None:
        """Files that a run which was killed has left half-written, the manifest's own too."""
        for torn in self.out.rglob(".*.part"):
            torn.unlink()

    def _discover(self) -> Iterator[SourceFile | Reject]:
        """The inputs; a sink that lies among them is none of them."""
        own = os.path.realpath(self.out)
        for entry in discover(self.source.paths, self.source.read):
            real = os.path.realpath(entry.path if isinstance(entry, SourceFile) else entry.source)
            if real != own and not real.startswith(own + os.sep):
                yield entry

    # -- plan --------------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Scan the inputs, unless an unbroken plan of the same files stands; refuse another's place."""
        plan_path = self.work / "plan.json"
        old = read_json(plan_path) if plan_path.exists() else None
        if old and old["stats"] == [_stat(file) for file in self.files]:
            self.scanned = [_scanned_from(entry) for entry in old["scanned"]]
        else:
            self.scanned = self._scan()
        self.fingerprint = sha256_json(self.pedigree)
        manifest = self.out / "manifest.json"
        theirs = open_manifest(self.out)["fingerprint"] if manifest.exists() else old and old["fingerprint"]
        if theirs and theirs != self.fingerprint:
            state = "a dataset" if manifest.exists() else "an unfinished dataset"
            raise InputError(
                f"{self.out} holds {state} made from other inputs, steps or settings; choose another --out"
                " or delete it"
            )
        if not theirs:
            if self.out.is_dir() and any(entry.name != "work" for entry in self.out.iterdir()):
                raise InputError(f"{self.out} is not empty and not a dataset; choose another --out")
            stats = [_stat(file) for file in self.files]
            scanned = [asdict(entry) for entry in self.scanned]
            write_json(plan_path, {"fingerprint": self.fingerprint, "stats": stats, "scanned": scanned})

    def _scan(self) -> list[Scanned]:
        tasks = [(file, self.source.piece_bytes) for file in self.files]
        total = sum(_stat(file)[1] for file in self.files)
        # Hashing a few megabytes takes less time than starting a process.
        pool = self.pool if total > self.source.piece_bytes else Pool(1)
        found: dict[int, Scanned] = {}
        with progress(total / 1e6, "scan", "MB") as bar:
            for number, scanned in pool.run(scan, tasks, _file_name):
                found[number] = scanned
                bar.advance(scanned.size / 1e6)
        return [found[number] for number in range(len(tasks))]

    @cached_property
    def pedigree(self) -> dict[str, Any]:
        """All that decides the dataset's bytes: inputs and settings; not the workers."""
        inputs = [
            {"path": s.file.path, "label": s.file.label, "sha256": s.sha256, "bytes": s.size}
            for s in self.scanned
        ]
        return {
            "inputs": inputs,
            "passed_over": sha256_json(self._passed_over()),
            "settings": {
                "read": self.source.read.model_dump(mode="json"),
                "piece_bytes": self.source.piece_bytes,
            },
            "steps": describe(self.steps),
        }

    def _passed_over(self) -> list[dict[str, Any]]:
        """What was found among the inputs and not read: hidden files, unknown kinds, …"""
        return [reject_record(entry) for entry in self.found if isinstance(entry, Reject)]

    @cached_property
    def units(self) -> list[tuple[Piece, ...]]:
        """Pieces in reading order, small ones together up to `piece_bytes`."""
        units: list[tuple[Piece, ...]] = []
        pieces: list[Piece] = []
        size = 0
        for scanned in self.scanned:
            for piece, length in scanned.pieces:
                if pieces and size + length > self.source.piece_bytes:
                    units.append(tuple(pieces))
                    pieces, size = [], 0
                pieces.append(piece)
                size += length
        return [*units, tuple(pieces)]

    # -- passes ------------------------------------------------------------------------------------

    def _first_pass(self) -> list[dict[str, Any]]:
        for left in (self.work / "units").glob("*.part"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        todo = [n for n in range(len(self.units)) if not unit_folder(self.work, n).exists()]
        done = len(self.units) - len(todo)
        if done:
            say(f"resuming: {done} of {len(self.units)} units were already done")
        function = FirstPass(self.work, self.source.read, self.steps, tuple(self.sketches))
        tasks = [(number, self.units[number]) for number in todo]
        with progress(len(self.units), "read and filter", "units", done=done) as bar:
            for _, summary in self.pool.run(function, tasks, _unit_name):
                bar.advance(1, kept=summary["documents"])
        return [read_unit(self.work, number) for number in range(len(self.units))]

    @cached_property
    def sketches(self) -> list[Sketch]:
        """The different sketches the steps need; one, as a rule."""
        return list(dict.fromkeys(step.sketch for step in self.steps if isinstance(step, NearDedup | Split)))

    def _last_pass(self, counts: list[int], kinds: dict[str, str], decisions: np.ndarray) -> dict[str, Any]:
        with atomic_write(self.work / "decisions.bin", "wb") as file:
            file.write(decisions.astype("<i8").tobytes())
        names = {type(step): step.name for step in self.steps}
        function = LastPass(
            self.work, self.out, kinds, split=Split in names,
            exact=names.get(ExactDedup, ""), near=names.get(NearDedup, ""),
        )  # fmt: skip
        firsts = np.concatenate(([0], np.cumsum(counts)))
        tasks = [(number, int(firsts[number]), count) for number, count in enumerate(counts)]
        files = self._write_passed_over()
        with progress(len(tasks), "write", "units") as bar:
            for _, result in self.pool.run(function, tasks, _unit_name):
                files.update(result["files"])
                bar.advance()
        return dict(sorted(files.items()))

    def _write_passed_over(self) -> dict[str, Any]:
        records = self._passed_over()
        if not records:
            return {}
        path = self.out / "rejects" / "files.jsonl"
        with atomic_write(path) as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        return {"rejects/files.jsonl": file_entry(path, len(records))}

    # -- manifest ----------------------------------------------------------------------------------

    def _write_manifest(
        self,
        summaries: list[dict[str, Any]],
        decisions: np.ndarray,
        duplicates: dict[str, dict[str, int]],
        files: dict[str, Any],
    ) -> None:
        reasons: dict[str, Counter[str]] = {}
        for name in ["read", *(step.name for step in self.steps)]:
            total = Counter(duplicates.get(name, {}))
            if name == "read":
                total.update(record["reason"] for record in self._passed_over())
            for summary in summaries:
                total.update(summary["reasons"].get(name, {}))
            if total:
                reasons[name] = total
        splits = {"": int((decisions == TRAIN).sum())}
        if any(isinstance(step, Split) for step in self.steps):
            splits = {"train": splits[""], "validation": int((decisions == VALIDATION).sum())}
        write_json(self.out / "manifest.json", {
            "format": FORMAT,
            "what": "dataset",
            "read": sum(summary["read"] for summary in summaries),
            "documents": int((decisions < 0).sum()),
            "splits": splits,
            "reasons": {step: dict(sorted(counts.items())) for step, counts in reasons.items()},
            "files": files,
            "fingerprint": self.fingerprint,
            **self.pedigree,
        })  # fmt: skip


def _join_kinds(summaries: list[dict[str, Any]]) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for summary in summaries:
        for name, kind in summary["kinds"].items():
            if kind and kinds.get(name) and kinds[name] != kind:
                raise DataError(f"signal {name!r} gave a number for one document and spans for another")
            kinds[name] = kinds.get(name) or kind
    return {name: kind or "number" for name, kind in kinds.items()}


def _stat(file: SourceFile) -> list[Any]:
    try:
        status = os.stat(file.path)
    except OSError:
        return [file.path, 0, 0]
    return [file.path, status.st_size, status.st_mtime_ns]


def _scanned_from(entry: dict[str, Any]) -> Scanned:
    pieces = tuple((Piece(**{**p, "file": SourceFile(**p["file"])}), size) for p, size in entry["pieces"])
    return Scanned(SourceFile(**entry["file"]), entry["sha256"], entry["size"], entry["modified"], pieces)


def _file_name(task: tuple[SourceFile, int]) -> str:
    return task[0].path


def _unit_name(task: tuple[int, Any, *tuple[Any, ...]]) -> str:
    pieces = task[1]
    return str(pieces[0].file.path) if isinstance(pieces, tuple) else f"unit {task[0]}"

"""What becomes of every document, seen over all of them: duplicates and the split.

The first pass left keys and sketches in a file a unit; here they are joined and memory-mapped, so
that this needs a few dozen bytes a document, never the texts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from whorl.base.errors import DataError
from whorl.base.files import CHUNK, atomic_write
from whorl.data.dedup.clusters import Clusters
from whorl.data.dedup.exact import same_content
from whorl.data.dedup.minhash import Sketch
from whorl.data.dedup.similar import join_similar
from whorl.data.split import held_out, join_for_split
from whorl.data.steps import ExactDedup, NearDedup, Split, Step
from whorl.data.units import EXACT, NEAR, TRAIN, VALIDATION, unit_folder

ROWS_AT_ONCE = 1 << 14


@dataclass
class Decider:
    """Decides over the documents of all units; unit n has `counts[n]` of them."""

    work: Path
    counts: list[int]
    sketches: list[Sketch]
    decisions: np.ndarray = field(init=False)  # int64 [documents], see `decide`
    keys: np.ndarray = field(init=False)  # uint64 [documents, 2]

    def decide(self, steps: Iterable[Step]) -> tuple[np.ndarray, dict[str, dict[str, int]]]:
        """Of every document TRAIN, VALIDATION, or 2 · (number of the one kept) + EXACT or NEAR; and
        step → reason → how many were dropped."""
        self.keys = self._joined("keys.bin", 2)
        self._joined("ids.bin", 2)  # the last pass names the documents kept by it
        self.decisions = np.full(len(self.keys), TRAIN, dtype=np.int64)
        dropped: dict[str, dict[str, int]] = {}
        clusters = Clusters(len(self.keys))
        for step in steps:
            if isinstance(step, ExactDedup):
                clusters = same_content(self.keys)
                dropped[step.name] = self._drop(clusters, EXACT, "duplicate")
            elif isinstance(step, NearDedup):
                config = step.config
                sketches = self._sketches(step.sketch)
                join_similar(clusters, sketches, bands=config.bands, rows=config.rows, verify=config.verify)
                dropped[step.name] = self._drop(clusters, NEAR, "near-duplicate")
            elif isinstance(step, Split):
                self._hold_out(step)
        return self.decisions, dropped

    def _drop(self, clusters: Clusters, kind: int, reason: str) -> dict[str, int]:
        """Keep the first of every cluster; a document dropped before keeps its first reason."""
        roots = clusters.roots()
        dropped = np.flatnonzero((roots != np.arange(len(roots))) & (self.decisions == TRAIN))
        self.decisions[dropped] = 2 * roots[dropped] + kind
        return {reason: len(dropped)} if len(dropped) else {}

    def _hold_out(self, step: Split) -> None:
        kept = np.flatnonzero(self.decisions == TRAIN)
        sketches = self._sketches(step.sketch)
        if len(kept) < len(sketches):
            sketches = self._chosen(sketches, kept)
        clusters = same_content(self.keys[kept])
        join_for_split(clusters, sketches, self._images(kept), step.config.threshold)
        chosen = held_out(clusters.roots(), self.keys[kept], step.config)
        self.decisions[kept[chosen]] = VALIDATION

    def _images(self, kept: np.ndarray) -> np.ndarray:
        """uint64 [images, 2]: (place of its document in `kept`, digest) of every image of those."""
        found, first = [np.zeros((0, 2), dtype=np.uint64)], 0
        for number, count in enumerate(self.counts):
            part = np.fromfile(unit_folder(self.work, number) / "images.bin", dtype="<u8").reshape(-1, 2)
            part[:, 0] += np.uint64(first)
            found.append(part)
            first += count
        images = np.concatenate(found)
        images = images[np.isin(images[:, 0], kept.astype(np.uint64))]
        images[:, 0] = np.searchsorted(kept, images[:, 0].astype(np.int64)).astype(np.uint64)
        return images

    def _sketches(self, sketch: Sketch) -> np.ndarray:
        return self._joined(f"sketch-{self.sketches.index(sketch)}.bin", sketch.hashes)

    def _chosen(self, sketches: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Rows `kept` of `sketches`, on disk as they are."""
        path = self.work / "chosen.bin"
        with open(path, "wb") as file:
            for at in range(0, len(kept), ROWS_AT_ONCE):
                rows = sketches[kept[at : at + ROWS_AT_ONCE]]
                file.write(np.ascontiguousarray(rows).tobytes())
        return _rows_of(path, sketches.shape[1])

    def _joined(self, name: str, width: int) -> np.ndarray:
        """uint64 [documents, width]: all units' `name`, one after another in a memory map."""
        path = self.work / name
        expected = sum(self.counts) * width * 8
        if not path.exists() or path.stat().st_size != expected:
            with atomic_write(path, "wb") as file:
                for number in range(len(self.counts)):
                    with open(unit_folder(self.work, number) / name, "rb") as part:
                        shutil.copyfileobj(part, file, CHUNK)
            if (size := path.stat().st_size) != expected:
                raise DataError(f"{path} has {size} bytes, not {expected}; delete {self.work} and run again")
        return _rows_of(path, width)


def _rows_of(path: Path, width: int) -> np.ndarray:
    if not path.stat().st_size:
        return np.zeros((0, width), dtype=np.uint64)
    return np.memmap(path, dtype="<u8", mode="r").reshape(-1, width)

"""Pre-training batches: windows of a token set's documents, packed side by side.

An epoch's plan (which window goes where) is made when first needed, and the last few are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.base.errors import DataError, InputError
from whorl.base.files import sha256_json
from whorl.data.batch import Batch, pack_flat
from whorl.data.batches import (
    PLANS_KEPT,
    SHUFFLE_BINS,
    SHUFFLE_WINDOWS,
    Batches,
    check_sizes,
    permutation,
    total_of,
)
from whorl.data.tokenset import TokenSet

FILL = 0.98  # below this, windows are cut to fill batches
Array = NDArray[Any]


@dataclass(frozen=True)
class _Windows:
    """Places [start, stop) of documents; each place predicts the document's next token."""

    document: Array
    start: Array
    stop: Array

    @property
    def lengths(self) -> Array:
        return self.stop - self.start

    def __getitem__(self, chosen: Array) -> _Windows:
        return _Windows(self.document[chosen], self.start[chosen], self.stop[chosen])


@dataclass(frozen=True)
class _Plan:
    """An epoch's micro-batches: number n holds `windows[offsets[n] : offsets[n + 1]]`."""

    windows: _Windows
    offsets: Array


class PretrainBatches(Batches):
    """Documents of a token set side by side, each seeing only itself.

    Documents longer than `sequence` are cut into windows of it; windows are shuffled and packed (best
    fit) into `length` places. Where that leaves batches less than 98 % full, the windows of the loose
    ones are laid end to end and cut at batch ends. Either way every token of the split but each
    document's first is a target exactly once an epoch, and a cut window's last target is the token
    that follows in its document. The plan takes some 60 bytes a window.
    """

    def __init__(
        self,
        tokens: TokenSet,
        *,
        length: int,
        micro_batches: int,
        seed: int,
        sequence: int | None = None,
        split: str = "train",
        epochs: float | None = None,
    ) -> None:
        check_sizes(length, micro_batches, seed, epochs)
        self.sequence = length if sequence is None else sequence
        if not 1 <= self.sequence <= length:
            raise InputError(f"sequence must be 1 to length ({length}), not {self.sequence}")
        self.length, self.micro_batches, self.seed, self.epochs = length, micro_batches, seed, epochs
        self.tokens, self.split = tokens, split
        self._documents = tokens.split(split)
        self._windows = _cut(np.asarray(self._documents.lengths) - 1, self.sequence)
        if not len(self._windows.document):
            raise DataError(f"{tokens.directory} has nothing to train on in split {split!r}")
        self._plan: Callable[[int], _Plan] = lru_cache(PLANS_KEPT)(self._make_plan)
        self.per_epoch = len(self._plan(0).offsets) - 1
        self.total = total_of(self.per_epoch, epochs)

    @property
    def fill(self) -> float:
        """The share of places that hold a token to learn from."""
        return int(self._windows.lengths.sum()) / (self.per_epoch * self.length)

    @property
    def fingerprint(self) -> str:
        names = ("length", "sequence", "micro_batches", "seed", "split", "epochs")
        settings = {name: getattr(self, name) for name in names}
        return sha256_json({"kind": "pretrain", "tokens": self.tokens.fingerprint, **settings})

    def _make_plan(self, epoch: int) -> _Plan:
        """Shuffle, pack, fill, shuffle. How many batches come out depends on the lengths alone, and so
        is the same for every epoch: what makes seeking a division."""
        order = permutation(len(self._windows.document), self.seed, SHUFFLE_WINDOWS, epoch)
        plan = _pack_full(self._windows[order], self.length)
        return _reorder(plan, permutation(len(plan.offsets) - 1, self.seed, SHUFFLE_BINS, epoch))

    def _row(self, number: int) -> list[tuple[int, int, int]]:
        epoch, place = divmod(number, self.per_epoch)
        plan = self._plan(epoch)
        chosen = plan.windows[np.arange(plan.offsets[place], plan.offsets[place + 1])]
        return list(zip(chosen.document.tolist(), chosen.start.tolist(), chosen.stop.tolist(), strict=True))

    def micro(self, number: int) -> Batch:
        tokens, targets = np.zeros(self.length, np.int32), np.zeros(self.length, np.int32)
        weights = np.zeros(self.length, np.float32)
        row, at = self._row(number), 0
        for document, start, stop in row:
            end = at + stop - start
            ids = self._documents.slice(document, start, stop + 1)
            tokens[at:end], targets[at:end] = ids[:-1], ids[1:]
            at = end
        weights[:at] = 1.0
        padding = [self.length - at] if at < self.length else []
        return Batch(
            tokens=tokens,
            targets=targets,
            weights=weights,
            lengths=np.array([stop - start for _, start, stop in row] + padding, np.int32),
            ids=tuple(self._name(*window) for window in row) + ("",) * len(padding),
        )

    def micro_ids(self, number: int) -> tuple[str, ...]:
        return tuple(self._name(*window) for window in self._row(number))

    def _name(self, document: int, start: int, stop: int) -> str:
        """The document's id, with the places of a window that is not the whole of it."""
        name = self._documents.id(document)
        whole = start == 0 and stop == int(self._documents.lengths[document]) - 1
        return name if whole else f"{name}[{start}:{stop}]"

    def validation(self, limit: int | None = None, *, split: str = "validation") -> list[Batch]:
        """The held-out batches, at most `limit` of them: always the same ones, drawn across the split.
        Empty where the token set has no such split."""
        if split not in self.tokens.splits:
            return []
        held_out = PretrainBatches(
            self.tokens, length=self.length, sequence=self.sequence, micro_batches=1, seed=0, split=split
        )
        count = held_out.per_epoch if limit is None else min(limit, held_out.per_epoch)
        return [held_out.micro(number) for number in range(count)]


def _cut(places: Array, sequence: int) -> _Windows:
    """Windows of at most `sequence` places of documents of `places` [D]; those without any have none."""
    counts = -(-places // sequence)
    document = np.repeat(np.arange(len(places)), counts)
    first = np.cumsum(counts) - counts
    start = (np.arange(len(document)) - first[document]) * sequence
    return _Windows(document, start, np.minimum(start + sequence, places[document]))


def _pack_full(windows: _Windows, length: int) -> _Plan:
    lengths = windows.lengths
    items, offsets = pack_flat(lengths, length)
    total, bins = int(lengths.sum()), len(offsets) - 1
    if total >= FILL * bins * length or bins == -(-total // length):
        return _Plan(windows[items], offsets)
    used = np.add.reduceat(lengths[items], offsets[:-1])
    tight = used >= FILL * length
    in_tight = np.repeat(tight, np.diff(offsets))
    loose = _lay_end_to_end(windows[np.sort(items[~in_tight])], length)
    kept = windows[items[in_tight]]
    merged = _Windows(
        np.concatenate([kept.document, loose.windows.document]),
        np.concatenate([kept.start, loose.windows.start]),
        np.concatenate([kept.stop, loose.windows.stop]),
    )
    ends = np.cumsum(np.diff(offsets)[tight])
    return _Plan(merged, np.concatenate([[0], ends, loose.offsets[1:] + len(kept.document)]))


def _lay_end_to_end(windows: _Windows, length: int) -> _Plan:
    """Every batch full but the last: windows in a row, cut where a batch ends."""
    lengths = windows.lengths
    ends = np.cumsum(lengths)
    total = int(ends[-1])
    cuts = np.unique(np.concatenate([[0], ends, np.arange(length, total, length)]))
    piece_start, piece_stop = cuts[:-1], cuts[1:]
    of = np.searchsorted(ends, piece_start, side="right")
    shift = windows.start[of] - (ends[of] - lengths[of])
    pieces = _Windows(windows.document[of], piece_start + shift, piece_stop + shift)
    batches = -(-total // length)
    offsets = np.searchsorted(piece_start, np.arange(batches + 1) * length)
    return _Plan(pieces, offsets)


def _reorder(plan: _Plan, order: Array) -> _Plan:
    """The plan's batches in another order."""
    sizes = np.diff(plan.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    first = np.repeat(plan.offsets[:-1][order] - offsets[:-1], sizes)
    return _Plan(plan.windows[first + np.arange(len(first))], offsets)

"""One micro-batch in numpy, and how samples become one: documents side by side in a fixed length.

A `Batch` is what every loader yields and every objective reads. Targets are shifted here, once;
nothing later shifts them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from whorl.base.errors import DataError

Array = NDArray[Any]


def _no_grids() -> Array:
    return np.zeros((0, 2), np.int32)


def _no_positions() -> Array:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One whole sequence with what is learnt in it, not yet shifted.

    `tokens` int32 [n]; `weights` float32 [n], where `weights[i]` is how much predicting `tokens[i]`
    counts (0 for a prompt, 1 for a reply; `weights[0]` is never used, nothing comes before it).
    `pixels` float32 [P, 3·p·p] are the patches of all its images, `grids` int32 [I, 2] their rows and
    columns of patches, `positions` int64 [P] the places in `tokens` they stand at.
    """

    tokens: Array
    weights: Array
    id: str
    source: str = ""
    pixels: Array | None = None
    grids: Array = field(default_factory=_no_grids)
    positions: Array = field(default_factory=_no_positions)

    def __post_init__(self) -> None:
        where = f"sample {self.id!r}"
        if not self.id:
            raise DataError(f"a sample of {self.source or 'an unnamed source'} has no id; give each its own")
        _check(self.tokens, "tokens", np.int32, (None,), where)
        _check(self.weights, "weights", np.float32, (len(self.tokens),), where)
        if len(self.tokens) < 2:
            raise DataError(f"{where} has {len(self.tokens)} tokens; at least two are needed to learn from")
        if self.tokens.min() < 0:
            raise DataError(f"{where}: token ids must be 0 or more")
        if not np.isfinite(self.weights).all():
            raise DataError(f"{where}: weights must be finite")
        _check_images(self.pixels, self.grids, self.positions, len(self.tokens) - 1, where)
        if len(self.positions) and self.weights[self.positions].any():
            raise DataError(f"{where}: an image placeholder has a weight; patches are never predicted")

    @property
    def length(self) -> int:
        """Places it takes in a batch: one fewer than its tokens, the last is a target only."""
        return len(self.tokens) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """T tokens of documents side by side, their targets, and how much each target counts.

    `tokens`, `targets` int32 [T] (the target is the next token of the same document), `weights`
    float32 [T] (0 where nothing is learnt), `lengths` int32 [N] summing to T, `ids` one a document.
    Padding is one last document with id "" and weight 0. `pixels` float32 [P, 3·p·p] or None,
    `grids` int32 [I, 2], `image_positions` int64 [P] in [0, T). `reference` float32 [T] or None: the
    targets' log-probs under a reference model, for objectives that compare with one. Raises `DataError`
    where these disagree.
    """

    tokens: Array
    targets: Array
    weights: Array
    lengths: Array
    ids: tuple[str, ...]
    pixels: Array | None = None
    grids: Array = field(default_factory=_no_grids)
    image_positions: Array = field(default_factory=_no_positions)
    reference: Array | None = None

    def __post_init__(self) -> None:
        _check(self.tokens, "tokens", np.int32, (None,), "batch")
        size = len(self.tokens)
        _check(self.targets, "targets", np.int32, (size,), "batch")
        _check(self.weights, "weights", np.float32, (size,), "batch")
        _check(self.lengths, "lengths", np.int32, (len(self.ids),), "batch")
        if not size:
            raise DataError("batch has no tokens; use Batch.empty(length) for an empty batch")
        if self.lengths.min() < 1 or int(self.lengths.sum()) != size:
            raise DataError(
                f"batch lengths must be 1 or more and sum to {size}, not {int(self.lengths.sum())}"
            )
        if self.tokens.min() < 0 or self.targets.min() < 0:
            raise DataError("batch token ids must be 0 or more")
        if not np.isfinite(self.weights).all():
            raise DataError(f"batch of {self.ids[0]!r}…: weights must be finite")
        if "" in self.ids[:-1]:
            raise DataError('batch has padding (id "") before its last document; padding comes last')
        if self.ids[-1] == "" and self.weights[size - int(self.lengths[-1]) :].any():
            raise DataError("batch padding has weight; padding is never learnt")
        _check_images(self.pixels, self.grids, self.image_positions, size, "batch")
        if self.reference is not None:
            _check(self.reference, "reference", np.float32, (size,), "batch")

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The ids of its documents, without the padding's."""
        return self.ids[:-1] if self.ids[-1] == "" else self.ids

    @property
    def weight(self) -> float:
        """The sum of its weights: what its loss is divided by, together with the step's other batches."""
        return float(self.weights.sum(dtype=np.float64))

    @classmethod
    def empty(cls, length: int, like: Batch | None = None) -> Self:
        """A batch of padding alone, for a rank that has no work but must make the same collectives.

        Where `like` holds images, the empty one holds its first image too, so that the vision tower
        takes part on every rank; with weight 0 its gradient is zero.
        """
        images: dict[str, Any] = {}
        if like is not None and like.pixels is not None:
            patches = int(like.grids[0].prod())
            images = {
                "pixels": like.pixels[:patches],
                "grids": like.grids[:1],
                "image_positions": np.arange(patches, dtype=np.int64),
            }
        nothing = np.zeros(length, np.int32)
        return cls(
            tokens=nothing,
            targets=nothing,
            weights=np.zeros(length, np.float32),
            lengths=np.array([length], np.int32),
            ids=("",),
            **images,
        )


def _check(array: Array, name: str, dtype: type, shape: tuple[int | None, ...], where: str) -> None:
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        wanted = ", ".join("n" if size is None else str(size) for size in shape)
        raise DataError(
            f"{where}: {name} must be {np.dtype(dtype).name} [{wanted}],"
            f" not {array.dtype} {list(array.shape)}"
        )


def _check_images(pixels: Array | None, grids: Array, positions: Array, size: int, where: str) -> None:
    """Patches, grids and positions agree, and every position lies in [0, size), once."""
    _check(grids, "grids", np.int32, (None, 2), where)
    _check(positions, "image positions", np.int64, (None,), where)
    patches = 0 if pixels is None else len(pixels)
    if pixels is not None:
        _check(pixels, "pixels", np.float32, (None, None), where)
        if not patches:
            raise DataError(f"{where}: pixels contain no patch; use None without images")
    if len(grids) and grids.min() < 1:
        raise DataError(f"{where}: every image grid needs a row and a column")
    expected = int(grids.prod(axis=1, dtype=np.int64).sum())
    if not expected == patches == len(positions):
        raise DataError(
            f"{where}: grids give {expected} patches, pixels {patches}, positions {len(positions)}"
        )
    if patches and (positions.min() < 0 or positions.max() >= size or len(np.unique(positions)) < patches):
        raise DataError(f"{where}: image positions must be distinct and in [0, {size})")


def collate(samples: Sequence[Sample], length: int) -> Batch:
    """Put `samples` side by side, shift their targets, and pad to `length` places.

    Raises `DataError` where they need more places than there are.
    """
    used = sum(sample.length for sample in samples)
    if used > length:
        raise DataError(f"samples {[s.id for s in samples][:3]}… take {used} places and a batch has {length}")
    tokens, targets = np.zeros(length, np.int32), np.zeros(length, np.int32)
    weights = np.zeros(length, np.float32)
    positions, start = [], 0
    for sample in samples:
        stop = start + sample.length
        tokens[start:stop] = sample.tokens[:-1]
        targets[start:stop] = sample.tokens[1:]
        weights[start:stop] = sample.weights[1:]
        positions.append(sample.positions + start)
        start = stop
    padding = [length - used] if used < length else []
    pixels = [sample.pixels for sample in samples if sample.pixels is not None]
    if len({part.shape[1] for part in pixels}) > 1:
        raise DataError(
            f"samples {[s.id for s in samples][:3]}… have patches of different sizes; use one patch size"
        )
    return Batch(
        tokens=tokens,
        targets=targets,
        weights=weights,
        lengths=np.array([sample.length for sample in samples] + padding, np.int32),
        ids=tuple(sample.id for sample in samples) + ("",) * len(padding),
        pixels=np.concatenate(pixels) if pixels else None,
        grids=np.concatenate([sample.grids for sample in samples]) if samples else _no_grids(),
        image_positions=np.concatenate(positions) if samples else _no_positions(),
    )


def pack(lengths: Sequence[int] | Array, capacity: int) -> list[list[int]]:
    """Lists of indices whose lengths sum to at most `capacity`: best fit, longest first.

    Every index is in exactly one list; the lists depend on `lengths` and their order alone (equal
    lengths are taken in the order given, so shuffling the input shuffles who meets whom). Raises
    `DataError` for a length below 1 or above `capacity`.
    """
    items, offsets = pack_flat(lengths, capacity)
    return [part.tolist() for part in np.split(items, offsets[1:-1])] if len(items) else []


def pack_flat(lengths: Sequence[int] | Array, capacity: int) -> tuple[Array, Array]:
    """`pack` as two int64 arrays: items, and the offsets [bins + 1] of each bin among them.

    Best-fit decreasing (Ding et al. 2024, "Fewer Truncations Improve Language Modeling"), taken a
    distinct length at a time: bins with equal free space are alike, so all of them that best fit the
    present length are filled in one array operation. Each operation uses up either the length or the
    bins, hence the number of them grows with the distinct lengths and not with the samples.
    """
    sizes = np.asarray(lengths, np.int64)
    if not len(sizes):
        return np.zeros(0, np.int64), np.zeros(1, np.int64)
    if sizes.min() < 1 or sizes.max() > capacity:
        worst = int(np.argmax((sizes < 1) | (sizes > capacity)))
        raise DataError(f"sample {worst} has length {sizes[worst]}; packing takes 1 to {capacity}")
    order = np.argsort(-sizes, kind="stable")
    bin_of = np.empty(len(sizes), np.int64)
    spaces = _Spaces()
    bins, start = 0, 0
    for size, count in zip(*_runs(sizes[order]), strict=True):
        todo = order[start : start + count]
        start += count
        while len(todo):
            space = spaces.smallest(size)
            if space is None:  # no bin has room: open as many as this length needs
                each = capacity // size
                needed = -(-len(todo) // each)
                space, found = capacity, np.arange(bins, bins + needed)
                bins += needed
            else:
                each = space // size
                needed = -(-len(todo) // each)
                found = spaces.take(space, needed)
            here = todo[: each * len(found)]
            bin_of[here] = np.repeat(found, each)[: len(here)]
            todo = todo[len(here) :]
            full, rest = divmod(len(here), each)
            spaces.put(space - each * size, found[:full])
            if rest:
                spaces.put(space - rest * size, found[full:])
    items = np.argsort(bin_of, kind="stable")
    return items, np.concatenate([[0], np.cumsum(np.bincount(bin_of, minlength=bins))])


def _runs(values: Array) -> tuple[list[int], list[int]]:
    """The distinct values of a sorted array, in its order, and how often each comes."""
    starts = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    return values[starts].tolist(), np.diff(starts, append=len(values)).tolist()


class _Spaces:
    """Bins by their free space; one integer holds a bit for every space that some bin has."""

    def __init__(self) -> None:
        self._bins: dict[int, Array] = {}
        self._bits = 0

    def smallest(self, at_least: int) -> int | None:
        bits = self._bits >> at_least
        return at_least + (bits & -bits).bit_length() - 1 if bits else None

    def take(self, space: int, most: int) -> Array:
        bins = self._bins.pop(space)
        if most < len(bins):
            self._bins[space] = bins[most:]
        else:
            self._bits &= ~(1 << space)
        return bins[:most]

    def put(self, space: int, bins: Array) -> None:
        if not space or not len(bins):
            return  # a full bin takes nothing more
        self._bins[space] = np.concatenate([self._bins[space], bins]) if space in self._bins else bins
        self._bits |= 1 << space

"""From token sets and samples to the micro-batches of any step, as a pure function of (seed, step).

Every source is an endless row of micro-batches, numbered from 0: epoch after epoch, each shuffled and
packed anew. A step is `micro_batches` of them in a row, so seeking is a division and the step is the
same list whatever the number of ranks. An epoch's plan (which window goes where) is made when first
needed and the last few are kept.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from whorl.base.errors import DataError, InputError
from whorl.base.files import sha256_json
from whorl.data.batch import Batch, Sample, collate, pack_flat
from whorl.data.mixture import Mixture, Source
from whorl.data.tokenset import TokenSet

SHUFFLE_WINDOWS, SHUFFLE_BINS = 0x77696E, 0x62696E  # purposes: what a permutation is for
FILL = 0.98  # below this, windows are cut to fill batches
PLANS_KEPT = 2  # an epoch's end and the next one's beginning
Array = NDArray[Any]


def permutation(count: int, seed: int, purpose: int, epoch: int) -> Array:
    """A permutation of `count` from counter-based Philox (Salmon et al. 2011).

    Sorting raw words, which numpy promises never to change, rather than `Generator.permutation`,
    which it may: a run resumed under another numpy goes on in the same order.
    """
    words = np.random.Philox(key=[seed, purpose], counter=[0, 0, 0, epoch]).random_raw(count)
    return np.argsort(words, kind="stable")


class Batches(ABC):
    """Micro-batches of one length, asked for by step. What `whorl.train.fit` reads.

    `length` is T of every batch, `per_epoch` how many micro-batches an epoch has, `total` how many
    there are in all (None: no end).
    """

    length: int
    micro_batches: int
    per_epoch: int
    total: int | None = None

    @abstractmethod
    def micro(self, number: int) -> Batch:
        """Micro-batch `number` of the endless row."""

    @abstractmethod
    def micro_ids(self, number: int) -> tuple[str, ...]:
        """The sample ids of `micro(number)`, without building it."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the data and of everything that decides the order; equal means equal batches."""

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.per_epoch // self.micro_batches)

    @property
    def steps(self) -> int | None:
        """Steps until the data ends, or None where it never does."""
        return None if self.total is None else -(-self.total // self.micro_batches)

    def at(self, step: int, *, rank: int = 0, world: int = 1) -> list[Batch]:
        """This rank's micro-batches of `step`: numbers rank, rank + world, …

        Every rank gets equally many; where there is no batch left, one of weight 0 stands in.
        """
        numbers = self._numbers(step)
        if not 0 <= rank < world:
            raise InputError(f"rank {rank} is not one of {world}")
        mine = [self.micro(number) for number in numbers[rank::world]]
        missing = -(-self.micro_batches // world) - len(mine)
        return mine + [Batch.empty(self.length)] * missing

    def ids(self, step: int) -> tuple[str, ...]:
        """The sample ids of the whole step, in order, the same for any number of ranks."""
        return tuple(name for number in self._numbers(step) for name in self.micro_ids(number))

    def _numbers(self, step: int) -> range:
        if step < 0 or (self.steps is not None and step >= self.steps):
            raise IndexError(f"step {step} of {self.steps}")
        first = step * self.micro_batches
        last = first + self.micro_batches
        return range(first, last if self.total is None else min(last, self.total))


def _check_sizes(length: int, micro_batches: int, seed: int, epochs: float | None = None) -> None:
    for name, value, least in (("length", length, 1), ("micro_batches", micro_batches, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{name} must be {least} or more, not {value}")
    if epochs is not None and epochs <= 0:
        raise InputError(f"epochs must be above 0, not {epochs}; leave it out for no end")


def _total(per_epoch: int, epochs: float | None) -> int | None:
    return None if epochs is None else max(1, round(per_epoch * epochs))


# -- pre-training: windows of the token stream ----------------------------------------------------


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
        _check_sizes(length, micro_batches, seed, epochs)
        self.sequence = length if sequence is None else sequence
        if not 1 <= self.sequence <= length:
            raise InputError(f"sequence must be 1 to length ({length}), not {self.sequence}")
        self.length, self.micro_batches, self.seed, self.epochs = length, micro_batches, seed, epochs
        self.tokens, self.split = tokens, split
        self._documents = tokens.split(split)
        self._windows = _cut(np.asarray(self._documents.lengths) - 1, self.sequence)
        if not len(self._windows.document):
            raise DataError(f"{tokens.directory} has nothing to learn from in split {split!r}")
        self._plan: Callable[[int], _Plan] = lru_cache(PLANS_KEPT)(self._make_plan)
        self.per_epoch = len(self._plan(0).offsets) - 1
        self.total = _total(self.per_epoch, epochs)

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


# -- chat training: whole samples ----------------------------------------------------------------


class SampleBatches(Batches):
    """Whole samples, never cut, packed into `length` places and shuffled anew each epoch.

    `samples` may fetch lazily: give `lengths` (each sample's `length`) and a sample is fetched only when
    its batch is built. Raises `InputError` for a sample longer than `length`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        length: int,
        micro_batches: int,
        seed: int,
        epochs: float | None = None,
        lengths: Sequence[int] | None = None,
        data_hash: str | None = None,
    ) -> None:
        _check_sizes(length, micro_batches, seed, epochs)
        if not len(samples):
            raise DataError("there are no samples to learn from")
        self.length, self.micro_batches, self.seed, self.epochs = length, micro_batches, seed, epochs
        self._samples = samples
        self._lengths = np.asarray([s.length for s in samples] if lengths is None else lengths, np.int64)
        if len(self._lengths) != len(samples):
            raise InputError(f"{len(self._lengths)} lengths were given for {len(samples)} samples")
        if self._lengths.max() > length:
            worst = int(self._lengths.argmax())
            raise InputError(
                f"sample {worst} ({samples[worst].id!r}) has {self._lengths[worst] + 1} tokens and a batch"
                f" takes {length + 1}; cut or drop it, or raise length"
            )
        self._data_hash = data_hash
        self._plan: Callable[[int], tuple[Array, Array]] = lru_cache(PLANS_KEPT)(self._make_plan)
        self.per_epoch = len(self._plan(0)[1]) - 1
        self.total = _total(self.per_epoch, epochs)

    @property
    def fill(self) -> float:
        """The share of places that hold a sample's token."""
        return int(self._lengths.sum()) / (self.per_epoch * self.length)

    @property
    def fingerprint(self) -> str:
        if self._data_hash is None:
            self._data_hash = hash_samples(self._samples)
        settings = {name: getattr(self, name) for name in ("length", "micro_batches", "seed", "epochs")}
        return sha256_json({"kind": "samples", "data": self._data_hash, **settings})

    def _make_plan(self, epoch: int) -> tuple[Array, Array]:
        order = permutation(len(self._lengths), self.seed, SHUFFLE_WINDOWS, epoch)
        items, offsets = pack_flat(self._lengths[order], self.length)
        shuffled = permutation(len(offsets) - 1, self.seed, SHUFFLE_BINS, epoch)
        chosen = [order[items[offsets[i] : offsets[i + 1]]] for i in shuffled]
        return np.concatenate(chosen), np.concatenate([[0], np.cumsum([len(part) for part in chosen])])

    def _row(self, number: int) -> list[int]:
        epoch, place = divmod(number, self.per_epoch)
        items, offsets = self._plan(epoch)
        return [int(item) for item in items[offsets[place] : offsets[place + 1]]]

    def micro(self, number: int) -> Batch:
        return collate([self._samples[item] for item in self._row(number)], self.length)

    def micro_ids(self, number: int) -> tuple[str, ...]:
        return tuple(self._samples[item].id for item in self._row(number))

    def in_order(self, limit: int | None = None) -> list[Batch]:
        """The samples packed without shuffling, at most `limit` batches: for validation."""
        items, offsets = pack_flat(self._lengths, self.length)
        count = len(offsets) - 1 if limit is None else min(limit, len(offsets) - 1)
        rows = [items[offsets[i] : offsets[i + 1]] for i in range(count)]
        return [collate([self._samples[int(item)] for item in row], self.length) for row in rows]


def hash_samples(samples: Sequence[Sample]) -> str:
    """SHA-256 over every sample's id, tokens, weights and images, in order."""
    parts = []
    for sample in samples:
        arrays = [sample.tokens, sample.weights, sample.grids, sample.positions]
        arrays += [] if sample.pixels is None else [sample.pixels]
        parts.append([sample.id, *(_hash_array(array) for array in arrays)])
    return sha256_json(parts)


def _hash_array(array: Array) -> str:
    import xxhash  # only runs over samples need it

    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).data)


# -- several sources -----------------------------------------------------------------------------


class MixedBatches(Batches):
    """Micro-batches of several sources in fixed proportions (`whorl.data.mixture`).

    `weights` are shares of micro-batches, hence of places; a source whose own `epochs` end leaves the
    mixture and the others go on. All sources must have the same `length`.
    """

    def __init__(
        self, sources: Mapping[str, Batches], weights: Mapping[str, float], *, micro_batches: int
    ) -> None:
        if set(sources) != set(weights):
            raise InputError(f"mixture sources {sorted(sources)} and weights {sorted(weights)} do not match")
        lengths = {name: source.length for name, source in sources.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"all sources of a mixture need the same length, not {lengths}")
        _check_sizes(min(lengths.values(), default=1), micro_batches, 0)
        self.micro_batches = micro_batches
        self._sources = list(sources.values())
        self.mixture = Mixture(
            [
                Source(
                    name=name,
                    weight=weights[name],
                    size=source.per_epoch,
                    epochs=None if source.total is None else source.total / source.per_epoch,
                )
                for name, source in sources.items()
            ]
        )
        self.length = self._sources[0].length
        self.per_epoch = sum(source.per_epoch for source in self._sources)
        self.total = self.mixture.length

    @property
    def fingerprint(self) -> str:
        mixed = [
            [source.name, source.weight, part.fingerprint]
            for source, part in zip(self.mixture.sources, self._sources, strict=True)
        ]
        return sha256_json({"kind": "mixture", "sources": mixed, "micro_batches": self.micro_batches})

    def micro(self, number: int) -> Batch:
        source, place = self.mixture.at(number)
        return self._sources[source].micro(place)

    def micro_ids(self, number: int) -> tuple[str, ...]:
        source, place = self.mixture.at(number)
        return self._sources[source].micro_ids(place)


# -- ahead of the step ---------------------------------------------------------------------------


class Prefetch:
    """`prefetch`'s iterator and context manager; `close` ends its thread."""

    def __init__(self, batches: Batches, start: int, rank: int, world: int, depth: int) -> None:
        self._batches, self._rank, self._world = batches, rank, world
        self._queue: queue.Queue[list[Batch] | BaseException | None] = queue.Queue(max(1, depth))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(start,), name="whorl-prefetch", daemon=True)
        self._thread.start()

    def _fill(self, start: int) -> None:
        step, end = start, self._batches.steps
        try:
            while end is None or step < end:
                if not self._put(self._batches.at(step, rank=self._rank, world=self._world)):
                    return
                step += 1
            self._put(None)
        except BaseException as error:  # raised again where the steps are taken
            self._put(error)

    def _put(self, item: list[Batch] | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        if self._stop.is_set():
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, list):
            return item
        self.close()
        if item is None:
            raise StopIteration
        raise item

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prefetch(batches: Batches, start: int = 0, *, rank: int = 0, world: int = 1, depth: int = 2) -> Prefetch:
    """The micro-batches of steps `start`, start + 1, … built ahead by a thread, at most `depth` steps.

    Ends with the data; what goes wrong in the thread is raised here. Use it in a `with` block.
    """
    return Prefetch(batches, start, rank, world, depth)

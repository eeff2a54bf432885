"""The loaders a run is fed by: `PretrainBatches`, `SampleBatches`, and `MixedBatches` of either.

All are `Batches` (`whorl.data.batches`): micro-batches as a pure function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from whorl.base.errors import DataError, InputError
from whorl.base.files import sha256_json
from whorl.data.batch import Batch, Sample, collate, pack_flat
from whorl.data.batches import (
    PLANS_KEPT,
    SHUFFLE_BINS,
    SHUFFLE_WINDOWS,
    Batches,
    Prefetch,
    check_sizes,
    permutation,
    prefetch,
    total_of,
)
from whorl.data.mixture import Mixture, Source
from whorl.data.pretrain import PretrainBatches

__all__ = ["Batches", "MixedBatches", "Prefetch", "PretrainBatches", "SampleBatches", "prefetch"]

Array = NDArray[Any]


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
        check_sizes(length, micro_batches, seed, epochs)
        if not len(samples):
            raise DataError("there are no samples to train on")
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
        self.total = total_of(self.per_epoch, epochs)

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

    def build(self, items: Sequence[int]) -> Batch:
        """The batch of these samples, by their numbers."""
        return collate([self._samples[item] for item in items], self.length)

    def micro(self, number: int) -> Batch:
        return self.build(self._row(number))

    def micro_ids(self, number: int) -> tuple[str, ...]:
        return tuple(self._samples[item].id for item in self._row(number))

    def in_order(self, limit: int | None = None) -> list[Batch]:
        """The samples packed without shuffling, at most `limit` batches: for validation."""
        items, offsets = pack_flat(self._lengths, self.length)
        count = len(offsets) - 1 if limit is None else min(limit, len(offsets) - 1)
        rows = [items[offsets[i] : offsets[i + 1]] for i in range(count)]
        return [self.build(row.tolist()) for row in rows]


def hash_samples(samples: Sequence[Sample]) -> str:
    """SHA-256 over every sample's id, tokens, weights and images, in order."""
    parts = []
    for sample in samples:
        arrays = [sample.tokens, sample.weights, sample.grids, sample.positions]
        arrays += [] if sample.pixels is None else [sample.pixels]
        parts.append([sample.id, *(_hash_array(array) for array in arrays)])
    return sha256_json(parts)


def _hash_array(array: Array) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).data)


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
        check_sizes(min(lengths.values(), default=1), micro_batches, 0)
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

"""Pairs packed into batches of one length: both replies of a pair always in the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xxhash
from numpy.typing import NDArray

from whorl.base.files import sha256_json
from whorl.data.batch import Batch, collate
from whorl.data.loader import SampleBatches, hash_samples
from whorl.post.pair_samples import PairSample

Reference = Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""For each pair the log-probs of its chosen and its rejected reply's tokens under the reference model."""


class PairBatches(SampleBatches):
    """As `SampleBatches`, a pair being what is packed and shuffled: documents come in twos, chosen and then
    rejected. With `reference` the batches carry its log-probs."""

    def __init__(
        self,
        pairs: Sequence[PairSample],
        *,
        length: int,
        micro_batches: int,
        seed: int,
        reference: Reference | None = None,
        epochs: float | None = None,
    ) -> None:
        self.pairs, self.reference = pairs, reference
        super().__init__(
            [pair.chosen for pair in pairs], length=length, micro_batches=micro_batches, seed=seed,
            epochs=epochs, lengths=[pair.length for pair in pairs],
        )  # fmt: skip

    @property
    def fingerprint(self) -> str:
        if self._data_hash is None:
            self._data_hash = hash_pairs(self.pairs, self.reference)
        return super().fingerprint

    def build(self, items: Sequence[int]) -> Batch:
        documents = [half for item in items for half in (self.pairs[item].chosen, self.pairs[item].rejected)]
        batch = collate(documents, self.length)
        if self.reference is None:
            return batch
        values = [known for item in items for known in self.reference[item]]
        reference = np.zeros(self.length, np.float32)
        reference[batch.weights > 0] = np.concatenate(values)  # the replies' tokens, in the documents' order
        return replace(batch, reference=reference)

    def micro_ids(self, number: int) -> tuple[str, ...]:
        return tuple(
            half.id
            for item in self._row(number)
            for half in (self.pairs[item].chosen, self.pairs[item].rejected)
        )


def hash_pairs(pairs: Sequence[PairSample], reference: Reference | None = None) -> str:
    """SHA-256 over every pair's samples and its reference's log-probs, in order."""
    samples = [half for pair in pairs for half in (pair.chosen, pair.rejected)]
    return sha256_json([hash_samples(samples), "" if reference is None else hash_array(flat(reference))])


def flat(reference: Reference) -> NDArray[np.float32]:
    """All its values side by side, in order."""
    return np.concatenate([value for pair in reference for value in pair])


def hash_array(values: NDArray[np.float32]) -> str:
    """Of its bytes."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values).data)

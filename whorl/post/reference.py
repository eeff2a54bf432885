"""What the reference model thinks of every pair, computed once before training and kept in the run.

    run/reference.safetensors     values float32: the log-prob of every learnt token, pair after pair, chosen
                                  and then rejected; what they belong to is in its metadata

A resumed run reads it, so that it goes on bit for bit and no reference model stays in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from whorl.base.errors import DataError, InputError
from whorl.base.files import atomic_write, sha256_json
from whorl.base.progress import progress, say
from whorl.models.decoder import Decoder
from whorl.parallel.group import Group
from whorl.post.pair_batches import PairBatches, Reference, flat, hash_array, hash_pairs
from whorl.post.pair_samples import PairSample
from whorl.train.batches import MicroBatch
from whorl.train.objectives import losses

FORMAT = 1
FILE = "reference.safetensors"


def read_reference(run: Path, pairs: Sequence[PairSample], version: str) -> Reference | None:
    """The run's own, or None where it has none of these pairs under this model (its weight `version`).

    `DataError` where the file is damaged, `InputError` where a newer Whorl wrote it.
    """
    place = run / FILE
    if not place.exists():
        return None
    try:
        with safe_open(place, "numpy") as file:
            about, values = file.metadata() or {}, file.get_tensor("values")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{place} is damaged ({error}); remove it to recompute it") from error
    if int(about.get("format", FORMAT)) > FORMAT:
        raise InputError(f"{place} was written by a newer Whorl; upgrade whorl")
    if about.get("of") != _name(pairs, version):
        say(f"{place} belongs to other pairs or another reference; recomputing it")
        return None
    if about.get("hash") != hash_array(values):
        raise DataError(f"{place} does not match its hash; remove it to recompute it")
    return _split(values, pairs)


def has_reference(run: Path) -> bool:
    return (run / FILE).exists()


def keep_reference(run: Path, pairs: Sequence[PairSample], version: str, reference: Reference) -> None:
    """Write it, atomically, for `read_reference`."""
    values = flat(reference)
    about = {"format": str(FORMAT), "of": _name(pairs, version), "hash": hash_array(values)}
    with atomic_write(run / FILE, "wb") as file:
        file.write(to_bytes({"values": values}, about))


def compute_reference(
    model: Decoder, pairs: Sequence[PairSample], length: int, device: torch.device, group: Group
) -> Reference:
    """The log-probs of every learnt token under `model`, in its compute dtype, packed as for training.

    The batches are shared out among the ranks, and every rank gets all values.
    """
    halves = [half for pair in pairs for half in (pair.chosen, pair.rejected)]
    ends = np.cumsum([0, *(np.count_nonzero(half.weights[1:]) for half in halves)])
    starts = dict(zip((half.id for half in halves), ends[:-1], strict=True))
    values = np.zeros(ends[-1], np.float32)
    batches = PairBatches(pairs, length=length, micro_batches=1, seed=0).in_order()
    mine = batches[group.rank :: group.world]
    training = model.training
    model.to(device).eval()
    with torch.no_grad(), progress(len(mine), "reference", "batches") as bar:
        for batch in mine:
            found = -losses(model, MicroBatch.of(batch, device)).cpu().numpy()
            documents = pairwise(np.cumsum([0, *batch.lengths]))
            for id, (first, last) in zip(batch.sample_ids, documents, strict=False):  # the padding has no id
                learnt = found[first:last][batch.weights[first:last] > 0]
                values[starts[id] : starts[id] + len(learnt)] = learnt
            bar.advance(1)
    model.train(training)
    return _split(group.add(torch.from_numpy(values)).numpy(), pairs)


def _split(values: NDArray[np.float32], pairs: Sequence[PairSample]) -> Reference:
    sizes = [np.count_nonzero(half.weights[1:]) for pair in pairs for half in (pair.chosen, pair.rejected)]
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return list(zip(parts[::2], parts[1::2], strict=True))


def _name(pairs: Sequence[PairSample], version: str) -> str:
    return sha256_json([hash_pairs(pairs), version])

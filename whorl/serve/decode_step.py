"""Decode steps played from tapes: one new token a sequence, without Python between the kernels.

A tape is recorded for a number of sequences and fixed places in memory; a step of fewer is filled up
with sequences of one token that read the cache's padding page and are stored nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from whorl.kernels.tape import Tape, record
from whorl.models.decoder import Decoder, Rotations
from whorl.models.layers import RopeTable
from whorl.serve.cache import Cache, PagedContext
from whorl.serve.scheduler import Chunk

SIZES = (1, 2, 3, 4, 6, 8, 12, 16)  # sequences of a tape: beyond, Python's share is small


@dataclass(frozen=True)
class _Recorded:
    """Where a tape reads: x [n, d_model], the rotations and the context."""

    x: Tensor
    rotations: Rotations
    context: PagedContext
    tape: Tape | None


class DecodeSteps:
    """The tapes of `model` over `cache`, for up to `context` tokens a sequence."""

    def __init__(self, model: Decoder, cache: Cache, context: int) -> None:
        self._model, self._cache, self._context = model, cache, context
        self._recorded: dict[int, _Recorded] = {}
        self.possible = cache.keys[0].device.type == "cpu"

    def run(self, chunks: Many[Chunk]) -> Tensor | None:
        """Hidden states [chunks, d] of one new token each; None where this is no step for a tape."""
        size = next((size for size in SIZES if size >= len(chunks)), None)
        if not self.possible or size is None or any(chunk.stop - chunk.start != 1 for chunk in chunks):
            return None
        if size not in self._recorded:
            self._recorded[size] = self._allocate(size)
        step = self._recorded[size]
        self._fill(step, chunks)
        if step.tape is not None:
            return step.tape.play()[: len(chunks)]
        hidden, tape = record(lambda: self._model.blocks(step.x, step.rotations, step.context))
        if tape is None:  # the model has parts that are torch's own: it runs as ever
            self.possible = False
            self._recorded.clear()
        else:
            self._recorded[size] = _Recorded(step.x, step.rotations, step.context, tape)
        return hidden[: len(chunks)]

    @cached_property
    def _rotations(self) -> Rotations:
        """Of every position."""
        return self._model.rotations(torch.arange(self._context))

    def _allocate(self, size: int) -> _Recorded:
        def rows(table: RopeTable | None) -> RopeTable | None:
            return None if table is None else (table[0][:size].clone(), table[1][:size].clone())

        columns = -(-self._context // self._cache.size)
        context = PagedContext(
            positions=torch.zeros(size, dtype=torch.int64),
            slots=torch.full((size,), -1),
            offsets=torch.arange(size + 1, dtype=torch.int32),
            tables=torch.full((size, columns), self._cache.padding_page, dtype=torch.int32),
            lengths=torch.ones(size, dtype=torch.int32),
            keys=self._cache.keys,
            values=self._cache.values,
        )
        x = torch.zeros(size, self._model.config.d_model, dtype=self._model.compute_dtype)
        whole, windowed = self._rotations
        mine = rows(whole)
        return _Recorded(x, (mine, mine if windowed is whole else rows(windowed)), context, None)

    def _fill(self, step: _Recorded, chunks: Many[Chunk]) -> None:
        size, context = self._cache.size, step.context
        spare = len(step.x) - len(chunks)
        places = [chunk.start for chunk in chunks]
        tables, slots = context.tables.numpy(), context.slots.numpy()
        for row, (chunk, at) in enumerate(zip(chunks, places, strict=True)):
            pages = chunk.sequence.pages
            tables[row, : at // size + 1] = pages[: at // size + 1]
            slots[row] = pages[at // size] * size + at % size
        tables[len(chunks) :, 0] = self._cache.padding_page
        slots[len(chunks) :] = -1
        context.lengths.numpy()[:] = [*(at + 1 for at in places), *[1] * spare]
        context.positions.numpy()[:] = [*places, *[0] * spare]
        tokens = [*(chunk.sequence.tokens[chunk.start] for chunk in chunks), *[0] * spare]
        step.x.copy_(self._model.embedded(torch.tensor(tokens), context))
        for table, into in zip(self._rotations, step.rotations, strict=True):
            if table is not None and into is not None:
                for part, out in zip(table, into, strict=True):
                    torch.index_select(part, 0, context.positions, out=out)

"""Steps of paged sequences, made at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from whorl.kernels.spec import AttentionSpec

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Step:
    q: Tensor
    k_pages: Tensor
    v_pages: Tensor
    tables: Tensor
    offsets: Tensor
    lengths: Tensor

    def call(self, function: Callable[..., Tensor], spec: AttentionSpec) -> Tensor:
        return function(
            self.q, self.k_pages, self.v_pages, self.tables, self.offsets, self.lengths, spec
        )  # fmt: skip

    def sequences(self) -> Iterator[tuple[slice, Step]]:
        """Each alone, with its rows of the whole."""
        for number, (start, stop) in enumerate(self.offsets.unfold(0, 2, 1).tolist()):
            one = slice(number, number + 1)
            yield (
                slice(start, stop),
                replace(
                    self,
                    q=self.q[start:stop],
                    tables=self.tables[one],
                    lengths=self.lengths[one],
                    offsets=torch.tensor([0, stop - start], dtype=torch.int32),
                ),
            )


def step(
    lengths: Sequence[int], counts: Sequence[int], *, heads: int = 4, key_heads: int = 2, slots: int = 8,
    d: int = 16, dtype: torch.dtype = torch.float32, seed: int = 0,
) -> Step:  # fmt: skip
    """Pages in no order, and NaN wherever nothing may be read: behind the ends and in foreign pages."""
    generator = torch.Generator().manual_seed(seed)
    needed = [-(-length // slots) for length in lengths]
    order = torch.randperm(sum(needed) + 2, generator=generator).to(torch.int32)
    pools = torch.full((2, len(order), key_heads, slots, d), float("nan"))
    tables = torch.full((len(lengths), max([1, *needed]) + 1), -1, dtype=torch.int32)
    at = 0
    for number, (length, pages) in enumerate(zip(lengths, needed, strict=True)):
        tables[number, :pages] = order[at : at + pages]
        at += pages
        for token in range(length):
            page = int(tables[number, token // slots])
            pools[:, page, :, token % slots] = torch.randn(2, key_heads, d, generator=generator)
    q = torch.randn(sum(counts), heads, d, generator=generator)
    offsets = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
    k, v = pools.to(dtype)
    return Step(q.to(dtype), k, v, tables, offsets, torch.tensor(lengths, dtype=torch.int32))


def readable(made: Step) -> Step:
    """For the specification, which multiplies what it may not see by 0."""
    return replace(made, k_pages=made.k_pages.nan_to_num(), v_pages=made.v_pages.nan_to_num())


def difference(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max()) if a.numel() else 0.0

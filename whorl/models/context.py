"""How a token finds what it attends to: the Context every forward takes beside its flat tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from whorl.kernels.attention import attention
from whorl.kernels.spec import AttentionSpec


class Context(Protocol):
    """Positions [T] of the flat tokens, and attention over what each of them may see."""

    @property
    def positions(self) -> Tensor: ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, layer: int) -> Tensor: ...


@dataclass(frozen=True)
class PackedContext:
    """Documents side by side in [T]; each sees only itself.

    `offsets` [N + 1] int32 delimit them and stay on the CPU side of the op; `positions` [T] int64
    count from 0 in each. Both are data to a compiled model, never shapes.
    """

    offsets: Tensor
    positions: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, layer: int) -> Tensor:
        return attention(q, k, v, self.offsets, spec)


def Packed(lengths: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> PackedContext:  # noqa: N802
    """The context of documents of these lengths, side by side."""
    counts = torch.as_tensor(lengths, dtype=torch.int64)
    ends = counts.cumsum(0)
    starts = ends - counts
    positions = torch.arange(int(counts.sum())) - torch.repeat_interleave(starts, counts)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), ends]).to(torch.int32)
    return PackedContext(offsets, positions.to(device))


torch.utils._pytree.register_dataclass(PackedContext)

"""From the loaders' numpy batches to what a model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from whorl.data.batch import Batch
from whorl.models.context import Packed, PackedContext
from whorl.models.vision import Images


class Batches(Protocol):
    """A stream of steps: `at` is a pure function of the step, so there is no state to save."""

    fingerprint: str

    def at(self, step: int, *, rank: int = 0, world: int = 1) -> list[Batch]: ...


@dataclass(frozen=True)
class MicroBatch:
    """One forward's worth on its device: tokens, targets [T] int64, weights [T] fp32, context, images."""

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    context: PackedContext
    images: Images | None

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> MicroBatch:
        def on_device(array: object) -> Tensor:
            return torch.as_tensor(array).to(device)

        images = None
        if batch.pixels is not None and len(batch.pixels):
            images = Images(
                on_device(batch.pixels),
                torch.as_tensor(batch.grids).long(),
                on_device(batch.image_positions).long(),
            )
        return cls(
            on_device(batch.tokens).long(),
            on_device(batch.targets).long(),
            on_device(batch.weights),
            Packed(batch.lengths, device),
            images,
        )

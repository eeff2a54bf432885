"""From the loaders' numpy batches to what a model takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from whorl.data.batch import Batch
from whorl.models.context import Packed, PackedContext
from whorl.models.vision import Images


@dataclass(frozen=True)
class MicroBatch:
    """One forward's worth on its device: tokens, targets [T] int64, weights [T] fp32, context, images, and
    the targets' log-probs under a reference model [T] fp32 where the objective compares with one."""

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    context: PackedContext
    images: Images | None
    reference: Tensor | None = None

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
            Packed(batch.lengths.tolist(), device),
            images,
            None if batch.reference is None else on_device(batch.reference),
        )


def seed_forward(seed: int, step: int, number: int) -> None:
    """Seed what torch draws in micro-batch `number` of `step` (dropout) from the three alone: nothing
    to save, and the same whatever the number of ranks and whatever was drawn before."""
    digest = hashlib.sha256(f"{seed} {step} {number}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little", signed=True))

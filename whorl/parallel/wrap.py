"""What parallelism does to a model, from outside it: DDP or FSDP2 over the ranks of a group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from whorl.parallel.group import Group


def wrap(model: nn.Module, how: Literal["ddp", "fsdp"], device: torch.device, group: Group) -> nn.Module:
    """The module forwards go through. FSDP2 shards each block and then the rest, in place."""
    if group.world == 1:
        return model
    if how == "ddp":
        return DistributedDataParallel(model, [device] if device.type == "cuda" else None)
    for layer in model.layers:  # type: ignore[union-attr]
        fully_shard(layer)
    return fully_shard(model)


@contextmanager
def gradient_sync(wrapped: nn.Module, sync: bool) -> Iterator[None]:
    """Exchange gradients in this backward only where `sync`: once a step, after accumulation."""
    if isinstance(wrapped, DistributedDataParallel) and not sync:
        with wrapped.no_sync():
            yield
        return
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(sync)
    yield

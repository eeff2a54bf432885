"""What parallelism does to a model, from outside it: DDP or FSDP2 over the ranks of a group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from whorl.parallel.group import Group


def wrap(model: nn.Module, how: Literal["ddp", "fsdp"], device: torch.device, group: Group) -> nn.Module:
    """The module forwards go through. FSDP2 shards each block and then the rest, in place.

    Every rank must hold the same weights. Both average gradients over the ranks.
    """
    if group.world == 1:
        return model
    if how == "ddp":
        return DistributedDataParallel(model, [device] if device.type == "cuda" else None)
    mesh = init_device_mesh(device.type, (group.world,))
    for layer in model.layers:  # type: ignore[union-attr]
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


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


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one, gathered on every rank; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, other: Tensor) -> Tensor:
    """This rank's part of a `tensor` that is whole on every rank, sharded as `other` is."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward of `model` needs every rank."""
    return isinstance(model, FSDPModule)


def reshard(model: nn.Module) -> None:
    """Give back what a forward without a backward left gathered, so that parameters are the shards again."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gather_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's whole state dict on the CPU; every rank takes part, rank 0's is used."""
    reshard(model)
    return {name: whole(value).detach().cpu() for name, value in model.state_dict().items()}

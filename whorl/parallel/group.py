"""The ranks of a run and the few things they agree on. One process is a group of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

# How long a rank waits for the others before it gives up. A dead peer is noticed at once; this is for
# one that hangs. It covers what a rank may do alone between two exchanges: compile, sample, hash.
PATIENCE = timedelta(minutes=15)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Group:
    """This process's place among `world` ranks; what it gathers is over all of them, in the same order
    on each. Every method is called by every rank, or none."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1  # ranks on this machine

    @classmethod
    def current(cls) -> Group:
        """The group torchrun's environment describes; joins it (NCCL on CUDA, gloo elsewhere) when needed."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=PATIENCE)
        local_rank, local_world = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        return cls(dist.get_rank(), world, local_rank, local_world)

    def sum(self, value: float) -> float:
        """The sum over ranks, in fp64."""
        return self._reduce(value, dist.ReduceOp.SUM)

    def max(self, value: float) -> float:
        """The largest over ranks."""
        return self._reduce(value, dist.ReduceOp.MAX)

    def add(self, tensor: Tensor) -> Tensor:
        """The ranks' tensors (on the CPU, of one shape) added up, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def _reduce(self, value: float, how: dist.ReduceOp.RedOpType) -> float:
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor, how)
        return float(tensor)

    def first(self, value: Value) -> Value:
        """Rank 0's value, on every rank; the others' is not looked at."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            self.sum(0.0)  # a reduction on the CPU: NCCL's own barrier would need a device to be set


def leave_group() -> None:
    """Close the connections of a group that was joined, so that peers see an orderly end."""
    if dist.is_initialized():
        dist.destroy_process_group()

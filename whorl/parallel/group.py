"""The ranks of a run and the few numbers they agree on. One process is a group of one."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Group:
    """This process's place among `world` ranks; sums are over all of them."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @classmethod
    def current(cls) -> Group:
        """The group torchrun's environment describes; joins it (NCCL on CUDA, gloo elsewhere) when needed."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), world, int(os.environ.get("LOCAL_RANK", "0")))

    def sum(self, value: float) -> float:
        """The sum over ranks, in fp64."""
        return self._reduce(value, dist.ReduceOp.SUM)

    def max(self, value: float) -> float:
        """The largest over ranks."""
        return self._reduce(value, dist.ReduceOp.MAX)

    def _reduce(self, value: float, how: dist.ReduceOp.RedOpType) -> float:
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor, how)
        return float(tensor)

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            dist.barrier()

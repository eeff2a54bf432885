"""Muon for the matrices of the blocks, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from whorl.parallel.wrap import shard_like, whole
from whorl.train.config import OptimConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic whose slope at 0 is steepest, from the Muon post
NEWTON_SCHULZ_STEPS = 5


def orthogonalise(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values land in about 0.7 … 1.2.

    Five steps of a quintic Newton–Schulz iteration (K. Jordan et al., "Muon", 2024), on the shorter side.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(dtype)
    x = x / (x.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised. Each parameter is one matrix [out, in].

    The update is scaled by sqrt(max(1, out / in)), which keeps its RMS effect on activations equal
    whatever the shape; weight decay is decoupled, as in AdamW. Of a sharded matrix the update is
    gathered, orthogonalised whole on every rank, and each rank applies its part.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"]
        momentum.lerp_(grad, 1 - group["momentum"])
        nesterov = torch.lerp(grad, momentum, group["momentum"])
        update = shard_like(orthogonalise(whole(nesterov), self.dtype), parameter)
        out, inner = parameter.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * max(1.0, out / inner) ** 0.5)


def build_optimisers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon where it is asked for; each group remembers its peak rate as "peak".

    Only trainable parameters are taken. Weight decay is for matrices: not for embeddings, norms, biases.
    """
    matrices, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim == 2 and "layers." in name and config.name == "muon":
            matrices.append(parameter)
        elif parameter.ndim == 2 and "embed" not in name:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    adamw = [group for group in groups if group["params"]]
    optimisers: list[torch.optim.Optimizer] = []
    if adamw:
        optimisers.append(torch.optim.AdamW(adamw, lr=config.lr, betas=config.betas, eps=config.eps))
    if matrices:
        dtype = getattr(torch, config.newton_schulz)
        optimisers.append(Muon(matrices, config.muon_lr, config.momentum, config.weight_decay, dtype))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return optimisers


def set_lr(optimisers: list[torch.optim.Optimizer], share: float) -> None:
    """Set every group to `share` of its peak rate."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * share


def fill_state(optimisers: list[torch.optim.Optimizer]) -> None:
    """Give every parameter its optimiser's state, to be loaded into: a step of zero gradients at rate 0."""
    set_lr(optimisers, 0.0)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def clip_gradients(model: nn.Module, limit: float) -> float:
    """Scale the gradients to a global norm of at most `limit` (0: no limit); returns the norm before."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    if limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)

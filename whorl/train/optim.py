"""Muon for the matrices of the blocks, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from whorl.kernels.wide import widened
from whorl.parallel.wrap import shard_like, whole
from whorl.train.config import OptimConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic whose slope at 0 is steepest, from the Muon post
NEWTON_SCHULZ_STEPS = 5
TOGETHER = 1 << 24  # elements orthogonalised at a time: 64 MB in fp32


def orthogonalise(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values land in about 0.7 … 1.2.

    matrices [N, out, in], together: small matmuls one at a time keep no core busy. Five steps of a
    quintic Newton–Schulz iteration (K. Jordan et al., "Muon", 2024), on the shorter side.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = widened((matrices.mT if tall else matrices).to(dtype))
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


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
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            for together in _by_shape(learning):
                updates = torch.stack([whole(self._momentum(parameter, group)) for parameter in together])
                for parameter, update in zip(together, orthogonalise(updates, self.dtype), strict=True):
                    self._apply(parameter, update, group)

    def _momentum(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        """The parameter's Nesterov momentum, with this step's gradient in it."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        return torch.lerp(parameter.grad, state["momentum"], group["momentum"])

    def _apply(self, parameter: nn.Parameter, update: Tensor, group: dict[str, Any]) -> None:
        out, inner = parameter.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        scale = -group["lr"] * max(1.0, out / inner) ** 0.5
        parameter.add_(shard_like(update, parameter), alpha=scale)


def _by_shape(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one shape together, as many as `TOGETHER` elements hold."""
    shapes: dict[torch.Size, list[nn.Parameter]] = {}
    for parameter in parameters:
        shapes.setdefault(parameter.shape, []).append(parameter)
    for shape, members in shapes.items():
        size = max(1, TOGETHER // shape.numel())
        for start in range(0, len(members), size):
            yield members[start : start + size]


def build_optimisers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon where it is asked for; each group remembers its peak rate as "peak".

    Only trainable parameters are taken. Weight decay is for matrices: not for embeddings, norms, biases.
    An adapter's factors go to AdamW: one begins at zero, and orthogonalising what is nearly zero makes
    an update of rounding noise (two runs that differ in rounding parted by 1e-2 in 20 steps).
    """
    matrices, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = "layers." in name and "lora_" not in name
        if parameter.ndim == 2 and inside and config.name == "muon":
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
        optimisers.append(
            torch.optim.AdamW(adamw, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
        )
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

"""The adapted linear layer, and finding it in a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from whorl.base.errors import InputError
from whorl.models.layers import Linear


class LoraLinear(nn.Module):
    """y = base(x) + scale · B(A(dropout(x))); scale is alpha / rank, or alpha / √rank
    (rsLoRA, arXiv 2312.03732). Only A [rank, in] and B [out, rank] are trained; they are fp32."""

    def __init__(self, base: Linear, rank: int, alpha: float, dropout: float, rslora: bool) -> None:
        super().__init__()
        self.base, self.rank, self.alpha, self.rslora = base, rank, alpha, rslora
        device = next(chain(base.parameters(), base.buffers())).device  # a packed weight is a buffer
        self.lora_a = Linear(base.in_features, rank, bias=False, device=device, dtype=torch.float32)
        self.lora_b = Linear(rank, base.out_features, bias=False, device=device, dtype=torch.float32)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_b(self.lora_a(self.dropout(x))) * self.scale

    def reset(self, generator: torch.Generator) -> None:
        """A uniform in ±1 / √in (Kaiming with a = √5, as PEFT), B zero: the model is as it was."""
        bound = 1 / math.sqrt(self.base.in_features)
        with torch.no_grad():
            values = torch.rand(self.lora_a.weight.shape, generator=generator)
            self.lora_a.weight.copy_(values * 2 * bound - bound)
            self.lora_b.weight.zero_()

    @torch.no_grad()
    def merged(self) -> Linear:
        """The base with the adapter added to its weight, in the weight's dtype."""
        if "weight" not in self.base._parameters:
            raise InputError("the base model is quantised; merge into its unquantised form")
        change = self.lora_b.weight.float() @ self.lora_a.weight.float() * self.scale
        weight = self.base.weight
        weight.copy_((weight.float() + change).to(weight.dtype))
        return self.base


def adapters(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """Every adapter and the name of the layer it is on."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def refuse_adapted(model: nn.Module) -> None:
    if any(True for _ in adapters(model)):
        raise InputError("the model already has an adapter; merge it first")


def ending(name: str) -> str:
    """The last part of a dotted name."""
    return name.rsplit(".", 1)[-1]

"""A linear layer whose weight is in 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from whorl.kernels import quantise as packing
from whorl.models.layers import Linear


class QuantLinear(Linear):
    """y = x Wᵀ + b from W's packed codes and scales (`whorl.kernels.quantise`), which are buffers; the
    bias stays a parameter. It stands wherever a `Linear` stands, under an adapter too, which may be
    trained over it; the weight itself has no gradient."""

    weight_packed: Tensor  # int32 [out, ⌈in · bits / 32⌉]
    weight_scale: Tensor  # [out, groups], in the dtype it was stored in; ours is bf16
    weight_shape: Tensor  # int64 [out, in]

    def __init__(
        self,
        packed: Tensor,
        scale: Tensor,
        inner: int,
        bits: int,
        bias: Tensor | None,
        persistent: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bits = inner, packed.shape[0], bits
        self.register_buffer("weight_packed", packed, persistent)
        self.register_buffer("weight_scale", scale, persistent)
        self.register_buffer("weight_shape", torch.tensor([packed.shape[0], inner]), persistent)
        self.bias = None if bias is None else nn.Parameter(bias)  # type: ignore[assignment]

    @classmethod
    def of(
        cls, linear: nn.Linear | nn.Embedding, bits: int, group: int, persistent: bool = True
    ) -> QuantLinear:
        """The layer (or an embedding, as an output matrix) quantised; `group` 0 is the whole row. Where
        not `persistent` a state dict leaves it out."""
        packed, scale = packing.quantise(linear.weight.detach(), bits, group)
        bias = getattr(linear, "bias", None)
        shift = None if bias is None else bias.detach()
        return cls(packed, scale, linear.weight.shape[1], bits, shift, persistent)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight that it computes with, in fp32; made anew at each call."""
        return packing.dequantise(
            self.weight_packed, self.weight_scale, self.bits, self.in_features, torch.float32
        )

    def forward(self, x: Tensor) -> Tensor:
        return packing.quantised_linear(x, self.weight_packed, self.weight_scale, self.bits, self.bias)

    @classmethod
    def together(cls, x: Tensor, layers: Sequence[Self]) -> list[Tensor]:
        bits = layers[0].bits
        if any(layer.bits != bits for layer in layers):
            return [layer(x) for layer in layers]
        packed, scales = [one.weight_packed for one in layers], [one.weight_scale for one in layers]
        return packing.quantised_linears(x, packed, scales, bits, [one.bias for one in layers])

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"

"""The parts of a decoder block. Every cast is written out: matmuls in the dtype of what flows
through them, norms, softmax and rotations in fp32, whatever the stored weights' dtype."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from whorl.kernels.elementwise import activate, add, norm, rotate
from whorl.kernels.linear import linear, linears
from whorl.kernels.spec import AttentionSpec
from whorl.models.config import ModelConfig, RopeConfig
from whorl.models.context import Context

RopeTable = tuple[Tensor, Tensor]  # cos and sin, each [T, head_dim / 2] in fp32


class Linear(nn.Linear):
    """A matmul in its input's dtype; the stored weight is cast to it on the way."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def side_by_side(x: Tensor, *layers: nn.Module) -> list[Tensor]:
    """What each layer makes of x: matrices that are plain in one call, adapted or packed ones each by
    itself."""
    if all(type(layer) is Linear for layer in layers):
        plain = cast(tuple[Linear, ...], layers)
        return linears(x, [layer.weight for layer in plain], [layer.bias for layer in plain])
    return [layer(x) for layer in layers]


class Norm(nn.Module):
    """RMSNorm (arXiv 1910.07467) or LayerNorm over the last axis, in fp32, returned in x's dtype."""

    def __init__(self, size: int, config: ModelConfig) -> None:
        super().__init__()
        self.eps, self.offset = config.norm_eps, float(config.norm_offset)
        self.weight = nn.Parameter(torch.zeros(size) if self.offset else torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if config.norm == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        return norm(x, self.weight, self.bias, self.eps, self.offset, self.bias is not None)


def rope_table(positions: Tensor, head_dim: int, rope: RopeConfig) -> RopeTable:
    """cos and sin of each position [T] at each of head_dim / 2 frequencies, in fp32."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    frequency = _stretch(1.0 / rope.theta**exponent, rope)
    angle = positions.float()[:, None] * frequency[None, :]
    return angle.cos(), angle.sin()


def _stretch(frequency: Tensor, rope: RopeConfig) -> Tensor:
    if rope.scaling == "default":
        return frequency
    slow = frequency / rope.factor
    if rope.scaling == "linear":
        return slow
    turns = rope.original_context * frequency / (2 * torch.pi)  # full turns within the trained length
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = blend.clamp(0, 1)
    return slow * (1 - blend) + frequency * blend


class Attention(nn.Module):
    """Grouped-query attention of one layer; what it may see is the context's business."""

    def __init__(self, config: ModelConfig, layer: int, causal: bool = True) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        width, kv_width = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.q = Linear(config.d_model, width, bias=config.qkv_bias)
        self.k = Linear(config.d_model, kv_width, bias=config.qkv_bias)
        self.v = Linear(config.d_model, kv_width, bias=config.qkv_bias)
        self.o = Linear(width, config.d_model, bias=config.out_bias)
        self.q_norm = Norm(config.head_dim, config) if config.qk_norm else None
        self.k_norm = Norm(config.head_dim, config) if config.qk_norm else None
        self.spec = AttentionSpec(
            scale=config.attention_scale if config.attention_scale is not None else config.head_dim**-0.5,
            causal=causal,
            window=config.window if layer in config.windowed_layers else None,
            soft_cap=config.attention_soft_cap,
        )

    def forward(self, x: Tensor, table: RopeTable | None, context: Context) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dim)) for part in side_by_side(x, self.q, self.k, self.v)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if table is not None:
            q, k = rotate(q, *table), rotate(k, *table)
        return self.o(context.attend(q, k, v, self.spec, self.layer).flatten(-2))


class MLP(nn.Module):
    """Plain (up, activation, down) or gated (arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.gate = (
            Linear(config.d_model, config.d_ff, bias=config.mlp_bias) if config.mlp == "gated" else None
        )
        self.up = Linear(config.d_model, config.d_ff, bias=config.mlp_bias)
        self.down = Linear(config.d_ff, config.d_model, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(activate(self.up(x), self.activation))
        gate, up = side_by_side(x, self.gate, self.up)
        return self.down(activate(gate, self.activation, up))


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream; `norm_place` says where the norms stand."""

    def __init__(self, config: ModelConfig, layer: int, causal: bool = True) -> None:
        super().__init__()
        self.post = config.norm_place == "post"
        self.attention_norm = Norm(config.d_model, config)
        self.attention = Attention(config, layer, causal)
        self.mlp_norm = Norm(config.d_model, config)
        self.mlp = MLP(config)
        sandwich = config.norm_place == "sandwich"
        self.attention_post_norm = Norm(config.d_model, config) if sandwich else None
        self.mlp_post_norm = Norm(config.d_model, config) if sandwich else None

    def forward(self, x: Tensor, table: RopeTable | None, context: Context) -> Tensor:
        if self.post:
            x = self.attention_norm(add(x, self.attention(x, table, context)))
            return self.mlp_norm(add(x, self.mlp(x)))
        added = self.attention(self.attention_norm(x), table, context)
        x = add(x, added if self.attention_post_norm is None else self.attention_post_norm(added))
        added = self.mlp(self.mlp_norm(x))
        return add(x, added if self.mlp_post_norm is None else self.mlp_post_norm(added))

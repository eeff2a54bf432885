"""Images into the token sequence: a ViT over patches of any grid, and the projector behind it.

The tower is Pixtral's (arXiv 2410.07073): a bias-free patch embedding, an RMSNorm, pre-norm blocks
with two-dimensional rotary positions, each image attending to itself alone. The projector is
LLaVA's two-layer MLP (arXiv 2310.03744).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from whorl.kernels.buckets import bucket
from whorl.kernels.elementwise import activate
from whorl.models.config import ModelConfig, VisionConfig
from whorl.models.context import PackedContext
from whorl.models.layers import Block, Linear, Norm, RopeTable


@dataclass(frozen=True)
class Images:
    """The images of one flat sequence.

    `pixels` [P, C·p·p] are patches in reading order, all images after one another; `grids` [I, 2]
    int64 their heights and widths in patches, on the CPU; `positions` [P] int64 where in [T] each
    patch's feature goes.
    """

    pixels: Tensor
    grids: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Features:
    """What the tower and the projector made of images, [P, d_model], to be put at `positions` [P] of [T].

    A server makes them once and splices them chunk by chunk.
    """

    values: Tensor
    positions: Tensor


torch.utils._pytree.register_dataclass(Images)
torch.utils._pytree.register_dataclass(Features)


def fill_bucket(images: Images) -> Images:
    """The same images and a blank strip behind them, so that the number of patches is one of a few."""
    count = images.pixels.shape[0]
    spare = bucket(count) - count
    if not spare:
        return images
    blank = images.pixels.new_zeros(spare, images.pixels.shape[1])
    strip = images.grids.new_tensor([[1, spare]])
    return Images(torch.cat([images.pixels, blank]), torch.cat([images.grids, strip]), images.positions)


def tower_config(config: VisionConfig) -> ModelConfig:
    """The tower's blocks are the decoder's, at these axes."""
    return ModelConfig(
        vocab_size=1, d_model=config.d_model, n_layers=config.n_layers, n_heads=config.n_heads,
        n_kv_heads=config.n_heads, head_dim=config.head_dim, d_ff=config.d_ff, context=1,
        norm="rms", norm_eps=1e-5, mlp="gated", activation=config.activation,
    )  # fmt: skip


class VisionTower(nn.Module):
    """Patches [P, C·p·p] → features [P, d_vision]."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        axes = tower_config(config)
        self.patch_embed = Linear(config.patch_values, config.d_model, bias=False)
        self.pre_norm = Norm(config.d_model, axes)
        self.layers = nn.ModuleList(Block(axes, layer, causal=False) for layer in range(config.n_layers))
        self.last = config.feature_layer % (config.n_layers + 1)  # hidden state 0 is the embedding
        for layer in self.layers[self.last :]:  # kept for the files' sake; nothing reads what they give
            layer.requires_grad_(False)

    def forward(self, images: Images, dtype: torch.dtype) -> Tensor:
        x = self.pre_norm(self.patch_embed(images.pixels.to(dtype)))
        context = image_context(images.grids, x.device)
        table = self.rope_table(images.grids.to(x.device), x.shape[0])
        for layer in self.layers[: self.last]:
            x = layer(x, table, context)
        return x

    def rope_table(self, grids: Tensor, patches: int) -> RopeTable:
        """cos and sin [P, head_dim / 2]: even frequencies turn with the row, odd ones with the column."""
        exponent = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32, device=grids.device)
        frequency = 1.0 / self.config.rope_theta ** (exponent / self.config.head_dim)
        counts = grids[:, 0] * grids[:, 1]
        starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts, output_size=patches)
        index = torch.arange(patches, device=grids.device) - starts
        width = torch.repeat_interleave(grids[:, 1], counts, output_size=patches)
        row, column = (index // width).float(), (index % width).float()
        angle = torch.cat([row[:, None] * frequency[::2], column[:, None] * frequency[1::2]], dim=-1)
        return angle.cos(), angle.sin()


def image_context(grids: Tensor, device: torch.device) -> PackedContext:
    """One document per image; the tower has its own positions, so the context's are unused."""
    counts = (grids[:, 0] * grids[:, 1]).cpu()
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    return PackedContext(offsets, torch.empty(0, dtype=torch.int64, device=device))


class Projector(nn.Module):
    """Features [P, d_vision] → embeddings [P, d_model]."""

    def __init__(self, config: VisionConfig, d_model: int) -> None:
        super().__init__()
        self.first = Linear(config.d_model, d_model, bias=config.projector_bias)
        self.activation = config.projector_activation
        self.second = Linear(d_model, d_model, bias=config.projector_bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.second(activate(self.first(features), self.activation))

"""The one decoder: flat tokens and a context in, hidden states out. Trainer and server run this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from whorl.kernels.linear import linear
from whorl.models.config import ModelConfig
from whorl.models.context import Context
from whorl.models.layers import Block, Linear, Norm, RopeTable, rope_table
from whorl.models.vision import Features, Images, Projector, VisionTower, fill_bucket

Result = TypeVar("Result")
Rotations = tuple[RopeTable | None, RopeTable | None]  # of layers that see everything, of windowed ones


@dataclass(frozen=True)
class Projection:
    """The way from hidden states to logits: the output matrix [V, d] and the soft cap after it."""

    weight: Tensor
    soft_cap: float
    packed: Callable[[Tensor], Tensor] | None = None  # a quantised copy of the matrix, which wins

    def __call__(self, hidden: Tensor) -> Tensor:
        """hidden [T, d] → logits [T, V] in fp32."""
        if self.packed is not None:
            logits = self.packed(hidden).float()
        else:
            logits = linear(hidden, self.weight).float()
        return self.soft_cap * torch.tanh(logits / self.soft_cap) if self.soft_cap else logits


class Decoder(nn.Module):
    """A decoder-only transformer at the axes of its `config`.

    Weights are stored in their own dtype (fp32 masters when training); `compute_dtype` is the dtype
    of matmuls and of the residual stream. Norms, softmax, rotations and logits are fp32.
    """

    def __init__(self, config: ModelConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        self.family: str | None = None  # the model_type it was read from; saving prefers it
        width = config.d_embed or config.d_model
        self.embed = nn.Embedding(config.vocab_size, width)
        self.position_embed = (
            nn.Embedding(config.learned_positions, config.d_model) if config.learned_positions else None
        )
        projected = width != config.d_model
        self.project_in = Linear(width, config.d_model, bias=False) if projected else None
        self.project_out = Linear(config.d_model, width, bias=False) if projected else None
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.final_norm = Norm(config.d_model, config) if config.final_norm else None
        self.head = None if config.tied else Linear(width, config.vocab_size, bias=False)
        self.packed_head: nn.Module | None = None
        self.vision = VisionTower(config.vision) if config.vision else None
        self.projector = Projector(config.vision, config.d_model) if config.vision else None

    def forward(
        self,
        tokens: Tensor,
        context: Context,
        images: Images | Features | None = None,
        head: Callable[[Tensor, Projection], Result] | None = None,
    ) -> Tensor | Result:
        """tokens [T] int → hidden [T, d], or what `head(hidden, projection)` makes of it.

        A head runs inside the wrapped call, where DDP and FSDP2 see it, so a chunked loss belongs there.
        """
        x = self.embedded(tokens, context, images)
        x = self.blocks(x, self.rotations(context.positions), context)
        return x if head is None else head(x, self.projection)

    def blocks(self, x: Tensor, rotations: Rotations, context: Context) -> Tensor:
        """What stands between embedding and head: x [T, d] → hidden [T, d]."""
        for layer in self.layers:
            windowed = cast(Block, layer).attention.spec.window is not None
            x = layer(x, rotations[windowed], context)
        if self.final_norm is not None:
            x = self.final_norm(x)
        return x if self.project_out is None else self.project_out(x)

    @property
    def projection(self) -> Projection:
        weight = self.embed.weight if self.head is None else self.head.weight
        return Projection(weight, self.config.logit_soft_cap or 0.0, self.packed_head)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [T, d] → logits [T, V] in fp32, after the soft cap."""
        return self.projection(hidden)

    def features(self, images: Images) -> Tensor:
        """What the images become in the sequence: [P, d_model] in the compute dtype."""
        assert self.vision is not None and self.projector is not None
        made = self.projector(self.vision(fill_bucket(images), self.compute_dtype))
        return made[: images.positions.shape[0]]

    def embedded(self, tokens: Tensor, context: Context, images: Images | Features | None = None) -> Tensor:
        """tokens [T] → x [T, d_model]: embeddings, image features in their places, learned positions."""
        x = self.embed(tokens).to(self.compute_dtype)
        if self.config.embed_scale != 1.0:  # Gemma rounds the scale to the embedding's dtype
            x = x * torch.tensor(self.config.embed_scale, dtype=x.dtype)
        if self.vision is not None and self.projector is not None:
            x = self._splice(x, images)
        elif images is not None:
            raise ValueError("images were given to a model without a vision tower")
        if self.project_in is not None:
            x = self.project_in(x)
        if self.position_embed is not None:
            rows = context.positions + self.config.position_offset
            x = x + self.position_embed(rows).to(x.dtype)
        return x

    def _splice(self, x: Tensor, images: Images | Features | None) -> Tensor:
        """Put image features in place of their placeholders' embeddings.

        A training batch without images sends one blank patch through the tower at weight zero, so
        that every rank has a gradient for every parameter.
        """
        assert self.vision is not None and self.projector is not None
        if images is not None:
            values = images.values if isinstance(images, Features) else self.features(images)
            return x.index_copy(0, images.positions, values)
        if not (self.training and torch.is_grad_enabled()):
            return x
        patch = x.new_zeros(1, self.vision.config.patch_values)
        blank = Images(patch, torch.ones(1, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        return x + 0.0 * self.projector(self.vision(blank, x.dtype)).sum()

    def rotations(self, positions: Tensor) -> Rotations:
        """By positions [T]."""
        rope, local = self.config.rope, self.config.local_rope
        table = rope_table(positions, self.config.head_dim, rope) if rope else None
        return table, rope_table(positions, self.config.head_dim, local) if local else table

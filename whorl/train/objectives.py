"""What a step minimises: a function of model and micro-batch, summed over target tokens."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from whorl.kernels.cross_entropy import linear_cross_entropy, token_losses
from whorl.models.decoder import Projection
from whorl.train.batches import MicroBatch

Objective = Callable[[nn.Module, MicroBatch], Tensor]
"""(model, micro-batch) → Σ weight · loss over its tokens, a scalar. The loop divides by the step's weight."""


def next_token(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Cross-entropy of each target: pre-training, chat training and LoRA differ in the weights alone."""

    def head(hidden: Tensor, projection: Projection) -> Tensor:
        return linear_cross_entropy(
            hidden, projection.weight, batch.targets, batch.weights, projection.soft_cap
        )

    return model(batch.tokens, batch.context, batch.images, head)


def losses(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Negative log-prob of each target [T] in nats, fp32, without gradients."""

    def head(hidden: Tensor, projection: Projection) -> Tensor:
        return token_losses(hidden, projection.weight, batch.targets, projection.soft_cap)

    return model(batch.tokens, batch.context, batch.images, head)

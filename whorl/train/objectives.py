"""What a step minimises, and what is measured on held-out batches: functions of model and micro-batch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from whorl.kernels.cross_entropy import linear_cross_entropy, token_losses
from whorl.models.decoder import Projection
from whorl.train.batches import MicroBatch

Figures = dict[str, Tensor]
"""Name → Σ weight · figure, a scalar without gradient. The same names for every batch: ranks add them up."""

Objective = Callable[[nn.Module, MicroBatch], Tensor | tuple[Tensor, Figures]]
"""(model, micro-batch) → Σ weight · loss over its tokens, a scalar, alone or with figures that are recorded
beside it. The loop divides both by the step's weight."""

Measure = Callable[[nn.Module, MicroBatch], Figures]
"""(model, micro-batch) → what validation reports, "loss" among it."""


def next_token(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Cross-entropy of each target: pre-training, chat training and LoRA differ in the weights alone."""

    def head(hidden: Tensor, projection: Projection) -> Tensor:
        return linear_cross_entropy(
            hidden, projection.weight, batch.targets, batch.weights, projection.soft_cap
        )

    return model(batch.tokens, batch.context, batch.images, head)


def likelihood(model: nn.Module, batch: MicroBatch) -> Figures:
    """`next_token`'s loss without its gradient: what validation measures unless told otherwise."""
    return {"loss": (losses(model, batch) * batch.weights).sum()}


def loss_and_figures(result: Tensor | tuple[Tensor, Figures]) -> tuple[Tensor, Figures]:
    """An objective's result in its longer form."""
    return result if isinstance(result, tuple) else (result, {})


def losses(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Negative log-prob of each target [T] in nats, fp32, without gradients."""

    def head(hidden: Tensor, projection: Projection) -> Tensor:
        return token_losses(hidden, projection.weight, batch.targets, projection.soft_cap)

    return model(batch.tokens, batch.context, batch.images, head)

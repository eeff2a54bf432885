"""Cross-entropy of a linear head, a block of tokens at a time.

The loss and its gradients are computed together, block by block, so that no [tokens, vocabulary]
array ever exists: at a vocabulary of 4,096 and 8,192 tokens that array is 134 MB in fp32, and
moving it through memory would cost more than the matmuls. (The idea is that of Liger's
FusedLinearCrossEntropy, arXiv 2410.10989.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from whorl.kernels import native
from whorl.kernels.buckets import bucket
from whorl.kernels.wide import wide_linear, widened

BLOCK_ELEMENTS = 1 << 20  # logits held at a time: 4 MB in fp32, inside a core's share of the cache
NATIVE_BLOCK_ELEMENTS = 1 << 21  # the same bytes in bf16, where the C++ kernel runs


def reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, soft_cap: float = 0.0
) -> Tensor:
    """The specification: Σ weights · (logsumexp(logits) − logits[target]) with logits in fp32.

    hidden [T, d], weight [V, d], targets [T] int64, weights [T] float32. Returns a scalar.
    """
    return (token_reference(hidden, weight, targets, soft_cap) * weights).sum()


def token_reference(hidden: Tensor, weight: Tensor, targets: Tensor, soft_cap: float = 0.0) -> Tensor:
    """The loss of each token [T] in fp32."""
    logits = wide_linear(hidden, weight.to(hidden.dtype)).float()
    if soft_cap:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, soft_cap: float = 0.0
) -> Tensor:
    """As `reference`, without the [T, V] array. Matmuls run in hidden's dtype, softmax in fp32.

    Gradients flow to `hidden` and `weight` only.
    """
    need_weight = weight.requires_grad and torch.is_grad_enabled()
    need_hidden = hidden.requires_grad and torch.is_grad_enabled()
    return torch.ops.whorl.linear_cross_entropy(
        hidden, weight, targets.long(), weights.float(), float(soft_cap), need_hidden, need_weight
    )[0]


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, soft_cap: float = 0.0) -> Tensor:
    """Negative log-prob of each target [T] in fp32, block by block, without gradients."""
    matrix, step = weight.to(hidden.dtype), _rows(weight)
    losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    with torch.no_grad():
        for start in range(0, hidden.shape[0], step):
            rows = slice(start, start + step)
            logits = _logits(hidden[rows], matrix, soft_cap)
            losses[rows] = torch.logsumexp(logits, -1) - logits.gather(1, targets[rows, None].long())[:, 0]
    return losses


def _rows(weight: Tensor, elements: int = BLOCK_ELEMENTS) -> int:
    return max(16, elements // weight.shape[0])


def _logits(hidden: Tensor, matrix: Tensor, soft_cap: float) -> Tensor:
    logits = wide_linear(hidden, matrix).float()
    return soft_cap * torch.tanh(logits / soft_cap) if soft_cap else logits


@torch.library.custom_op("whorl::linear_cross_entropy", mutates_args=())
def _linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, soft_cap: float,
    need_hidden: bool, need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    given, hidden = hidden, widened(hidden)
    matrix = weight.to(hidden.dtype)
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    grad_hidden = torch.zeros_like(hidden) if need_hidden else hidden.new_empty(0)
    grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else hidden.new_empty(0)
    elements = NATIVE_BLOCK_ELEMENTS if _takes_native(hidden, soft_cap) else BLOCK_ELEMENTS
    for rows in _learnt_rows(weights).split(_rows(weight, elements)):
        block = hidden[rows]
        loss, grad = _block_gradient(block, matrix, targets[rows], weights[rows], soft_cap)
        total += loss
        if need_hidden:
            grad_hidden[rows] = torch.mm(grad, matrix)
        if need_weight:
            grad_weight += torch.mm(grad.T, block)
    return total, grad_hidden.to(given.dtype), grad_weight


def _learnt_rows(weights: Tensor) -> Tensor:
    """The tokens that count: a chat's prompts, half of its tokens, need no logits at all. A few that
    do not count fill up the bucket; their gradients are 0."""
    learnt, others = (weights != 0).nonzero()[:, 0], (weights == 0).nonzero()[:, 0]
    return torch.cat([learnt, others[: bucket(len(learnt)) - len(learnt)]])


def _block_gradient(
    hidden: Tensor, matrix: Tensor, targets: Tensor, weights: Tensor, soft_cap: float
) -> tuple[Tensor, Tensor]:
    """The weighted loss of some tokens, and its gradient with respect to their logits in hidden's dtype."""
    if _takes_native(hidden, soft_cap) and (kernel := native.kernels().softmax_gradient):
        logits = torch.mm(hidden, matrix.T)
        return kernel(logits, targets, weights).sum(), logits
    logits = _logits(hidden, matrix, soft_cap)
    lse = torch.logsumexp(logits, -1, keepdim=True)
    losses = lse - logits.gather(1, targets[:, None])
    squash = 1 - (logits / soft_cap).square() if soft_cap else None
    grad = logits.sub_(lse).exp_()  # softmax, in place of the logits
    grad.scatter_add_(1, targets[:, None], torch.full_like(losses, -1.0))
    grad.mul_(weights[:, None])
    if squash is not None:
        grad.mul_(squash)
    return (losses[:, 0] * weights).sum(), grad.to(hidden.dtype)


def _takes_native(hidden: Tensor, soft_cap: float) -> bool:
    return hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16 and not soft_cap


@_linear_cross_entropy.register_fake
def _(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, soft_cap: float,
    need_hidden: bool, need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return (
        hidden.new_empty((), dtype=torch.float32),
        hidden.new_empty(hidden.shape) if need_hidden else hidden.new_empty(0),
        weight.new_empty(weight.shape, dtype=torch.float32) if need_weight else hidden.new_empty(0),
    )


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, weight, *_, ctx.need_hidden, ctx.need_weight = inputs
    ctx.weight_dtype = weight.dtype
    ctx.save_for_backward(output[1], output[2])
    ctx.mark_non_differentiable(output[1], output[2])


def _backward(ctx, grad: Tensor, *_: Tensor):  # type: ignore[no-untyped-def]
    grad_hidden, grad_weight = ctx.saved_tensors
    return (
        (grad_hidden * grad).to(grad_hidden.dtype) if ctx.need_hidden else None,
        (grad_weight * grad).to(ctx.weight_dtype) if ctx.need_weight else None,
        None, None, None, None, None,
    )  # fmt: skip


_linear_cross_entropy.register_autograd(_backward, setup_context=_setup_context)

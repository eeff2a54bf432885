"""Learning from preferences: objectives over pairs of documents, for the one loop.

A batch's documents come in twos, the preferred reply and the other, each with its prompt before it; of a
pair's tokens those of the replies have weight, and the weights of a pair add up to 1 (a half each side).
The loss of a pair hangs on two numbers, how much likelier than under the reference model each reply has
become, so its gradient is a weight on each token's log-prob: found first, without the model, and then sent
through the same blockwise cross-entropy that pre-training uses. No [tokens, vocabulary] array exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from whorl.kernels.cross_entropy import linear_cross_entropy, token_losses
from whorl.models.decoder import Projection
from whorl.post.config import PreferenceLoss
from whorl.train.batches import MicroBatch
from whorl.train.objectives import Figures


@dataclass(frozen=True)
class PairSums:
    """Of K pairs, each [K, 2] (chosen, rejected), fp32: Σ log-probs over the reply's tokens, the same less
    the reference's, how many tokens, and the divergence from the reference a token."""

    logps: Tensor
    ratios: Tensor
    counts: Tensor
    divergence: Tensor
    weights: Tensor  # [K]


@dataclass(frozen=True)
class Preference:
    """Direct preference optimisation as an `Objective`; `beta` is how strictly the reference is kept to.

    With Δ = log π(chosen)/ρ(chosen) − log π(rejected)/ρ(rejected), π the model and ρ the reference:

    - "sigmoid": −log σ(β Δ) (Rafailov et al. 2023, arXiv 2305.18290, eq. 7);
    - "sigmoid_norm": the same with each log-ratio divided by its reply's tokens, so that a reply's length is
      no way to a larger margin (as in Tülu 3, arXiv 2411.15124, eq. 6);
    - "ipo": (Δ − 1 / 2β)² (Azar et al. 2023, arXiv 2310.12036, eq. 17), log-ratios divided likewise. That
      division is TRL's, so that β means the same here and there; the paper's are sums.

    `nll` times −log π(chosen) a token is added (Pang et al. 2024, arXiv 2404.19733, eq. 2).
    """

    loss: PreferenceLoss = "sigmoid"
    beta: float = 0.1
    nll: float = 0.0

    def __call__(self, model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Figures]:
        """Σ over the batch's pairs of their loss, and the figures that `pair_figures` lists."""

        def head(hidden: Tensor, projection: Projection) -> tuple[Tensor, Figures]:
            logps = log_probs_of(hidden, projection, batch).requires_grad_()
            with torch.enable_grad():
                loss, figures = self.of_log_probs(logps, batch)
                (slope,) = torch.autograd.grad(loss, logps)
            surrogate = linear_cross_entropy(
                hidden, projection.weight, batch.targets, -slope, projection.soft_cap
            )
            return surrogate - surrogate.detach() + loss.detach(), figures

        result: tuple[Tensor, Figures] = model(batch.tokens, batch.context, batch.images, head)
        return result

    def measure(self, model: nn.Module, batch: MicroBatch) -> Figures:
        """What validation reports: the loss and the figures, without a gradient."""

        def head(hidden: Tensor, projection: Projection) -> Figures:
            with torch.no_grad():
                loss, figures = self.of_log_probs(log_probs_of(hidden, projection, batch), batch)
            return {"loss": loss, **figures}

        result: Figures = model(batch.tokens, batch.context, batch.images, head)
        return result

    def of_log_probs(self, logps: Tensor, batch: MicroBatch) -> tuple[Tensor, Figures]:
        """Σ of the pairs' losses, and the figures, given each target's log-prob [T]."""
        sums = pair_sums(logps, batch)
        scores = self.scores(sums)
        each = self.losses(scores[:, 0] - scores[:, 1])
        if self.nll:
            each = each - self.nll * sums.logps[:, 0] / sums.counts[:, 0]
        return (each * sums.weights).sum(), pair_figures(sums, self.beta * scores.detach())

    def scores(self, sums: PairSums) -> Tensor:
        """[K, 2]: the log-ratios as the loss compares them; times β, what the model would give as rewards."""
        return sums.ratios if self.loss == "sigmoid" else sums.ratios / sums.counts

    def losses(self, delta: Tensor) -> Tensor:
        """[K]: the loss of a difference of scores."""
        if self.loss == "ipo":
            return (delta - 1 / (2 * self.beta)).square()
        return -logsigmoid(self.beta * delta)


def log_probs_of(hidden: Tensor, projection: Projection, batch: MicroBatch) -> Tensor:
    """The log-prob of each target that has weight, 0 at the others: fp32 [T], without gradient."""
    rows = batch.weights.nonzero()[:, 0]
    logps = torch.zeros_like(batch.weights)
    with torch.no_grad():
        logps[rows] = -token_losses(
            hidden.detach()[rows], projection.weight, batch.targets[rows], projection.soft_cap
        )
    return logps


def pair_sums(logps: Tensor, batch: MicroBatch) -> PairSums:
    """Sums over each document's tokens that have weight, two documents a pair.

    A batch of padding alone has no pair. Sums run in a fixed order, so that a resumed run adds up as the
    first one did.
    """
    offsets = batch.context.offsets.long()
    pairs = (len(offsets) - 1) // 2  # an odd document is the padding
    ends = offsets[: 2 * pairs + 1].to(logps.device)
    used = int(offsets[2 * pairs])
    learnt = (batch.weights[:used] > 0).float()
    if pairs and batch.reference is None:
        raise ValueError("a batch of pairs needs the reference's log-probs; see whorl.post.reference")
    reference = torch.zeros_like(logps) if batch.reference is None else batch.reference

    def summed(values: Tensor) -> Tensor:
        if not pairs:
            return values.view(0, 2)  # part of the graph, as sums of a batch with pairs are
        return torch.segment_reduce(values, "sum", offsets=ends).view(pairs, 2)

    mine = logps[:used] * learnt
    ratios = (logps - reference)[:used] * learnt
    with torch.no_grad():
        counts = summed(learnt).clamp(min=1.0)
        divergence = summed(ratios.expm1() - ratios) / counts
        weights = summed(batch.weights[:used]).sum(1)
    return PairSums(summed(mine), summed(ratios), counts, divergence, weights)


def pair_figures(sums: PairSums, rewards: Tensor) -> Figures:
    """Σ over pairs of what tells how training goes.

    `chosen_reward` and `rejected_reward` (β · the log-ratio), `margin` (their difference), `accuracy` (the
    share of pairs with a margin above 0; equal counts half), `chosen_logp` and `rejected_logp` (of the whole
    reply, nats), and `divergence`: Schulman's estimate r − 1 − log r of KL(reference ‖ model) in nats per
    token, r = π/ρ, on the pairs' replies. It is that divergence where the replies were drawn from the
    reference, and a figure of how far the model has moved in any case; 0 where it has not.
    """
    with torch.no_grad():
        margin = rewards[:, 0] - rewards[:, 1]
        each = {
            "margin": margin,
            "accuracy": (margin > 0).float() + 0.5 * (margin == 0).float(),
            "chosen_reward": rewards[:, 0],
            "rejected_reward": rewards[:, 1],
            "chosen_logp": sums.logps[:, 0],
            "rejected_logp": sums.logps[:, 1],
            "divergence": sums.divergence.mean(1),
        }
        return {name: (values * sums.weights).sum() for name, values in each.items()}

"""What sampling reads of every row of logits: the likeliest token and the normaliser."""

from __future__ import annotations

import torch
from torch import Tensor

from whorl.kernels import native


def reference(logits: Tensor) -> tuple[Tensor, Tensor]:
    """logits [N, V] → the likeliest token of each row, the first of equals, int64 [N]; log Σ exp [N]."""
    return logits.argmax(-1), torch.logsumexp(logits, -1)


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """As `reference`, the fast way. A row with a number that is none has no finite normaliser."""
    fits = logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.is_contiguous()
    kernel = native.kernels().likeliest if fits and logits.numel() else None
    return reference(logits) if kernel is None else kernel(logits)

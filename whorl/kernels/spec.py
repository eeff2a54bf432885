"""What one layer's attention is: scale, causality, window and soft cap."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """`window` w lets a token see itself and the w - 1 before it; `soft_cap` c squashes scores s to
    c·tanh(s / c)."""

    scale: float
    causal: bool = True
    window: int | None = None
    soft_cap: float | None = None

"""How a board is made from votes: what a replay needs besides the votes themselves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whorl.base.config import Config

Ties = Literal["half", "rao-kupper"]
Weights = Literal["equal", "propensity"]
Interval = Literal["sandwich", "bootstrap", "simultaneous"]


class RatingConfig(Config):
    """Of `fit_bradley_terry`, each by the name of its argument; and which battles."""

    category: str | None = None
    """Only battles of this category."""
    ties: Ties = "half"
    """Count a tie as half a win for both, or as an outcome with its own width (Rao and Kupper)."""
    weights: Weights = "equal"
    """propensity: weight each battle by 1 / the probability with which its pair was drawn."""
    style: tuple[str, ...] = ()
    """Counts of replies to control for: tokens, headers, lists, bold."""
    interval: Interval = "sandwich"
    """sandwich, bootstrap, or simultaneous for all models at once."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """Confidence level of the intervals."""
    rounds: int = Field(default=1000, ge=20)
    """Number of bootstrap resamples."""
    seed: int = Field(default=0, ge=0)
    """Seed of the bootstrap."""
    anchor: str | None = None
    """The model whose rating is fixed; none: the mean is set to 1000."""
    anchor_rating: float = 1000.0
    """The anchor's rating."""
    cut_repeated_prompts: bool = True
    """Whether to cap very frequent prompts at the 99.99th percentile of frequency."""

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
    """A tie is half a win for both, or an outcome with a width of its own (Rao and Kupper)."""
    weights: Weights = "equal"
    """propensity: a battle counts 1 / the probability with which its pair was drawn."""
    style: tuple[str, ...] = ()
    """Counts of replies to control for: tokens, headers, lists, bold."""
    interval: Interval = "sandwich"
    """sandwich, bootstrap, or simultaneous for all models at once."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """How often an interval should hold."""
    rounds: int = Field(default=100, ge=20)
    """Resamples of the bootstrap."""
    seed: int = Field(default=0, ge=0)
    """Of the bootstrap."""
    anchor: str | None = None
    """The model whose rating is fixed; none: the mean is 1000."""
    anchor_rating: float = 1000.0
    """The anchor's rating."""
    cut_repeated_prompts: bool = True
    """Whether prompts asked far too often count only as often as the 99.99th percentile."""

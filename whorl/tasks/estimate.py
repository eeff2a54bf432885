"""A figure and how far it may be off by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from whorl.base.errors import DataError

Z95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over `n` examples with its standard error (nan where n = 1 tells nothing about it)."""

    mean: float
    standard_error: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Mean and standard error of a sample; for scores of 0 and 1 the binomial √(p(1-p)/n)."""
        n = len(values)
        if n == 0:
            raise DataError("no values to estimate from; the split has no examples")
        mean = math.fsum(values) / n
        if all(value in (0, 1) for value in values):
            return cls(mean=mean, standard_error=math.sqrt(mean * (1 - mean) / n), n=n)
        if n == 1:
            return cls(mean=mean, standard_error=math.nan, n=n)
        variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
        return cls(mean=mean, standard_error=math.sqrt(variance / n), n=n)

    @classmethod
    def ratio(cls, numerators: Sequence[float], denominators: Sequence[float]) -> Self:
        """Σ numerators / Σ denominators, as for bits over bytes, with the ratio estimator's standard
        error (Cochran, Sampling Techniques, 1977, §2.11)."""
        n = len(numerators)
        total = math.fsum(denominators)
        if n != len(denominators) or total <= 0:
            raise DataError("a ratio needs one positive denominator for each numerator")
        mean = math.fsum(numerators) / total
        if n == 1:
            return cls(mean=mean, standard_error=math.nan, n=n)
        squares = math.fsum(
            (top - mean * below) ** 2 for top, below in zip(numerators, denominators, strict=True)
        )
        return cls(mean=mean, standard_error=math.sqrt(squares / (n - 1) * n) / total, n=n)

    def wilson(self) -> tuple[float, float]:
        """The 95 % interval of a share (Wilson, 1927): sensible at 0 and 1 too, where the standard
        error is 0 whatever n. Only for means of 0s and 1s."""
        z2 = Z95**2
        centre = (self.mean + z2 / (2 * self.n)) / (1 + z2 / self.n)
        spread = self.mean * (1 - self.mean) / self.n + z2 / (4 * self.n**2)
        half = Z95 * math.sqrt(spread) / (1 + z2 / self.n)
        return max(0.0, centre - half), min(1.0, centre + half)

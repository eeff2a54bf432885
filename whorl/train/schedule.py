"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math

from whorl.train.config import ScheduleConfig


def lr_share(step: int, steps: int, config: ScheduleConfig) -> float:
    """The share of the peak learning rate at `step` of `steps`, both counted from 0.

    Cosine as in SGDR (arXiv 1608.03983); WSD as in MiniCPM (arXiv 2404.06395) with a linear decay.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.name == "constant":
        return 1.0
    if config.name == "cosine":
        done = (step - config.warmup) / max(1, steps - config.warmup)
        return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    left = (steps - step) / max(1.0, config.decay * steps)
    return config.floor + (1 - config.floor) * min(1.0, left)

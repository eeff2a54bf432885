"""The loop, its objectives, optimisers, schedules, checkpoints and the measurement it starts with."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.train.config import OptimConfig, ScheduleConfig, TrainConfig
    from whorl.train.loop import TrainState, fit
    from whorl.train.objectives import next_token

PUBLIC = {
    "OptimConfig": "config", "ScheduleConfig": "config", "TrainConfig": "config", "TrainState": "loop",
    "fit": "loop", "next_token": "objectives",
}  # fmt: skip
__all__ = ["OptimConfig", "ScheduleConfig", "TrainConfig", "TrainState", "fit", "next_token"]


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(f"whorl.train.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""How good a model is: tasks put to it, with standard errors, and what plain compressors reach."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.evals.baselines import NGram, xz_bits, zlib_bits
    from whorl.evals.evaluation import Report, evaluate, paired
    from whorl.evals.finding import find_task
    from whorl.evals.grading import Graded, TaskReport, grade_task
    from whorl.evals.own_task import OwnTask
    from whorl.evals.serving import served

PUBLIC = {
    "evaluate": "evaluation",
    "Report": "evaluation",
    "paired": "evaluation",
    "find_task": "finding",
    "OwnTask": "own_task",
    "served": "serving",
    "grade_task": "grading",
    "TaskReport": "grading",
    "Graded": "grading",
    "zlib_bits": "baselines",
    "xz_bits": "baselines",
    "NGram": "baselines",
}
__all__ = [
    "Graded", "NGram", "OwnTask", "Report", "TaskReport", "evaluate", "find_task", "grade_task", "paired",
    "served", "xz_bits", "zlib_bits",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)

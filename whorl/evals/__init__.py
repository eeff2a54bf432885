"""How good a model is: tasks put to it, with standard errors, and what plain compressors reach."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.evals.baselines import NGram, xz_bits, zlib_bits
    from whorl.evals.grading import Graded, TaskReport, grade_task

PUBLIC = {
    "grade_task": "grading",
    "TaskReport": "grading",
    "Graded": "grading",
    "zlib_bits": "baselines",
    "xz_bits": "baselines",
    "NGram": "baselines",
}
__all__ = ["Graded", "NGram", "TaskReport", "grade_task", "xz_bits", "zlib_bits"]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)

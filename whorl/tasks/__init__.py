"""Tasks: examples to ask of a model, and grades for its replies."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.tasks.arithmetic import Arithmetic
    from whorl.tasks.digits import Digits
    from whorl.tasks.estimate import Estimate
    from whorl.tasks.gsm8k import GSM8K
    from whorl.tasks.likelihood import Likelihood, bits_per_byte
    from whorl.tasks.lookups import LookUps
    from whorl.tasks.task import Example, Grade, Task

PUBLIC = {
    "Arithmetic": "arithmetic",
    "Digits": "digits",
    "Estimate": "estimate",
    "Example": "task",
    "GSM8K": "gsm8k",
    "Grade": "task",
    "Likelihood": "likelihood",
    "LookUps": "lookups",
    "Task": "task",
    "bits_per_byte": "likelihood",
}
__all__ = [
    "GSM8K",
    "Arithmetic",
    "Digits",
    "Estimate",
    "Example",
    "Grade",
    "Likelihood",
    "LookUps",
    "Task",
    "bits_per_byte",
]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)

"""Quality signals under RedPajama-V2's names: `Signal = Callable[[Document], float | list[Span] | None]`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.data.signals.ngrams import Repeated, repeated_ngrams
    from whorl.data.signals.table import SIGNALS, Signal, compute_signals

PUBLIC = {
    "Repeated": "ngrams",
    "SIGNALS": "table",
    "Signal": "table",
    "compute_signals": "table",
    "repeated_ngrams": "ngrams",
}
__all__ = [
    "SIGNALS",
    "Repeated",
    "Signal",
    "compute_signals",
    "repeated_ngrams",
]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)

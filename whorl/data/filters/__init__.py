"""Web-text filters: `Filter = Callable[[Document], str | None]`, None keeps, a string is the reason.

Each takes a config of thresholds; `functools.partial(gopher_quality, config=…)` is a filter too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.data.filters.c4 import c4_clean, c4_quality
    from whorl.data.filters.config import (
        C4Config,
        FineWebConfig,
        FineWebQualityConfig,
        GopherQualityConfig,
        GopherRepetitionConfig,
    )
    from whorl.data.filters.fineweb import fineweb_quality, fineweb_recipe
    from whorl.data.filters.gopher import gopher_quality, gopher_repetition
    from whorl.data.filters.table import FILTERS, Filter

PUBLIC = {
    "C4Config": "config",
    "FILTERS": "table",
    "Filter": "table",
    "FineWebConfig": "config",
    "FineWebQualityConfig": "config",
    "GopherQualityConfig": "config",
    "GopherRepetitionConfig": "config",
    "c4_clean": "c4",
    "c4_quality": "c4",
    "fineweb_quality": "fineweb",
    "fineweb_recipe": "fineweb",
    "gopher_quality": "gopher",
    "gopher_repetition": "gopher",
}
__all__ = [
    "C4Config",
    "FILTERS",
    "Filter",
    "FineWebConfig",
    "FineWebQualityConfig",
    "GopherQualityConfig",
    "GopherRepetitionConfig",
    "c4_clean",
    "c4_quality",
    "fineweb_quality",
    "fineweb_recipe",
    "gopher_quality",
    "gopher_repetition",
]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)

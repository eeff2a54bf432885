"""Who is better: battles between models, and the ratings, intervals and boards they give."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.arena.battles import Battle, Battles
    from whorl.arena.ratings import Ratings, fit_bradley_terry

PUBLIC = {
    "Battle": "battles",
    "Battles": "battles",
    "fit_bradley_terry": "ratings",
    "Ratings": "ratings",
}
__all__ = ["Battle", "Battles", "Ratings", "fit_bradley_terry"]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)

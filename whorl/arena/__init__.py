"""Models compared by people: votes that are kept, and the ratings, intervals and boards they give."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.arena.battles import Battle, Battles
    from whorl.arena.board import Board, make_board, replay
    from whorl.arena.config import RatingConfig
    from whorl.arena.flips import Flip, votes_to_flip
    from whorl.arena.plot import write_plot
    from whorl.arena.ratings import Ratings, fit_bradley_terry
    from whorl.arena.reading import read_battles
    from whorl.arena.sampling import PairSampler, pair_sampler
    from whorl.arena.simulation import Judge, simulate_battles
    from whorl.arena.store.store import Store
    from whorl.arena.style import style_counts
    from whorl.arena.table import ratings_table
    from whorl.arena.views import ratings_by_category, ratings_over_time, win_matrix
    from whorl.arena.voters import OddVoter, odd_voters
    from whorl.arena.writing import write_battles

PUBLIC = {
    "Battle": "battles",
    "Battles": "battles",
    "read_battles": "reading",
    "write_battles": "writing",
    "fit_bradley_terry": "ratings",
    "Ratings": "ratings",
    "RatingConfig": "config",
    "Board": "board",
    "make_board": "board",
    "replay": "board",
    "ratings_over_time": "views",
    "ratings_by_category": "views",
    "win_matrix": "views",
    "Flip": "flips",
    "votes_to_flip": "flips",
    "PairSampler": "sampling",
    "pair_sampler": "sampling",
    "OddVoter": "voters",
    "odd_voters": "voters",
    "style_counts": "style",
    "ratings_table": "table",
    "write_plot": "plot",
    "Judge": "simulation",
    "simulate_battles": "simulation",
    "Store": "store.store",
}
__all__ = [
    "Battle", "Battles", "Board", "Flip", "Judge", "OddVoter", "PairSampler", "RatingConfig", "Ratings",
    "Store", "fit_bradley_terry", "make_board", "odd_voters", "pair_sampler", "ratings_by_category",
    "ratings_over_time", "ratings_table", "read_battles", "replay", "simulate_battles", "style_counts",
    "votes_to_flip", "win_matrix", "write_battles", "write_plot",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)

"""A board of one person's own votes: whom they prefer, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

from whorl.arena.battles import Battles
from whorl.arena.board import Board, make_board
from whorl.arena.store.records import BattleVote

ENOUGH = 10  # votes; with fewer the intervals say nothing


def personal_board(votes: Sequence[BattleVote]) -> Board | None:
    """The board of these votes, also of those that the common board leaves out for their prompts or for
    want of consent: nobody else sees it. A reply that named itself is left out here too: that vote was
    not blind. None for too few."""
    blind = [vote for vote in votes if " names " not in vote.reason]
    return make_board(Battles.from_rows(blind)) if len(blind) >= ENOUGH else None

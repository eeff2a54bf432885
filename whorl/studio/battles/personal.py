"""A board of one person's own votes: whom they prefer, and how sure that is."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from whorl.arena.battles import Battles
from whorl.arena.board import Board, make_board
from whorl.arena.store.records import BattleVote

ENOUGH = 10  # votes; with fewer the intervals say nothing


def personal_board(votes: Sequence[BattleVote], seen: Collection[str] = ()) -> Board | None:
    """The board of these votes, also of those that the common board leaves out for their prompts or for
    want of consent: nobody else sees it. None for too few.

    Left out here too are votes that were not blind (a reply had named its model, or the battle was one of
    `seen`: a second look at answers whose models were known by then) and those on half an answer."""
    blind = [vote for vote in votes if not vote.about_a_reply and vote.battle not in seen]
    return make_board(Battles.from_rows(blind)) if len(blind) >= ENOUGH else None

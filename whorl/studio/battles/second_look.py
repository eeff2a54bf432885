"""A battle of one's own once more: the same answers with the sides swapped, to see whether one judges alike.

It is never rated, for it has no consent to be: the same answers must not count twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from whorl.arena.store import Store
from whorl.arena.store.records import BattleVote, Side
from whorl.studio.battles.points import Met, met

TITLE = "a second look"  # of the conversation: so it is known again
LATEST = 3  # battles that are remembered too well
OTHER: dict[Side, Side] = {"a": "b", "b": "a", "": ""}


def to_look_at(votes: Sequence[BattleVote]) -> list[str]:
    """One's battles that were judged once only, the oldest first."""
    times = Counter(met(vote) for vote in votes)
    return [vote.battle for vote in votes[: -LATEST or None] if times[met(vote)] == 1]


def second_looks(store: Store, votes: Sequence[BattleVote]) -> set[str]:
    """Which of a person's votes were cast in second looks."""
    met_before: set[Met] = set()
    found = set()
    for vote in votes:
        again = met(vote) in met_before and vote.consent == "none"
        if again and store.conversation(vote.battle).title == TITLE:
            found.add(vote.battle)
        met_before.add(met(vote))
    return found


def repeat(store: Store, battle: str, person: int) -> str | None:
    """A new battle with what was said in this one; its id. None where that was erased."""
    old = store.battle(battle)
    turns = [(turn, turn.message) for turn in store.turns(battle)]
    said = [(turn, message) for turn, message in turns if message is not None]
    if len(said) < len(turns) or not said:
        return None
    pair = store.start_battle(
        person, [said[0][1]], model_a=old.model_b, model_b=old.model_a, probability=old.probability,
        consent="none", category=old.category,
    )  # fmt: skip
    for turn, message in said[1:]:
        store.say(
            pair.id, message, side=OTHER[turn.side], weight_version=turn.weight_version, trace=turn.trace
        )
    store.rename_conversation(pair.id, TITLE)
    return pair.id

"""What conversations are called: as their person named them, or as they begin."""

from __future__ import annotations

from collections.abc import Sequence

from whorl.arena.store import Conversation, Store
from whorl.base.nouns import Message

LONGEST = 72  # characters of a title that is a message's beginning


def title_of(store: Store, head: Conversation) -> str:
    """The title that is kept. One that began elsewhere (a terminal, an import) has none yet."""
    if head.title:
        return head.title
    return beginning([turn.message for turn in store.turns(head.id) if turn.message is not None])


def beginning(said: Sequence[Message]) -> str:
    """How the first message begins, cut between words."""
    first = next((one for one in said if one.role == "user"), None)
    words = " ".join(first.text.split()) if first is not None else ""
    if len(words) > LONGEST:
        words = f"{words[:LONGEST].rpartition(' ')[0] or words[:LONGEST]} …"
    return words or "An image"

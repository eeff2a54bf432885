"""What conversations are called: as their person named them, or as they begin."""

from __future__ import annotations

from whorl.arena.store import Conversation, Store
from whorl.studio.chat.turns import title_of

REMEMBERED = 4096


class Titles:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, str] = {}

    def of(self, head: Conversation) -> str:
        found = self._known.get(head.id)
        if found is None:
            said = [turn.message for turn in self._store.turns(head.id) if turn.message is not None]
            found = self._keep(head.id, title_of(said))
        return found

    def rename(self, head: Conversation, title: str) -> str:
        return self._keep(head.id, " ".join(title.split()))

    def forget(self, conversation: str) -> None:
        self._known.pop(conversation, None)

    def _keep(self, conversation: str, title: str) -> str:
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[conversation] = title
        return title

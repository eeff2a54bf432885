"""Which turns of a conversation may not train: those whose prompt rates, or is like one that does."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from whorl.arena.store import covering, prompts
from whorl.arena.store.records import Purpose, Turn

BEGINNING: dict[Purpose | None, str] = {
    "rate": "its prompt is reserved for rating",
    "neither": "its prompt resembles prompts reserved for rating",
    None: "its prompt has no cluster",
}
LATER: dict[Purpose | None, str] = {
    "rate": "a later prompt in it is reserved for rating",
    "neither": "a later prompt in it resembles prompts reserved for rating",
}
SYSTEM: dict[Purpose | None, str] = {
    "rate": "its system message is reserved for rating",
    "neither": "its system message resembles prompts reserved for rating",
}


class Sides:
    """Asks the store, and remembers: many conversations begin with one system message."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, Purpose | None] = {}

    def barred(self, conversation: str, said: Sequence[Turn], first: Purpose | None) -> dict[int, str]:
        """Turn → why no path with it may train; `first` is what the conversation's own prompt is for."""
        placed = covering.purposes(self._connection, conversation)
        by_number = {turn.id: turn for turn in said}
        begun = False
        found: dict[int, str] = {}
        for turn in said:
            if turn.message is None or turn.message.role not in ("user", "system"):
                continue
            if turn.message.role == "system":
                purpose, reasons = self._look(turn), SYSTEM
            elif not begun:
                purpose, reasons, begun = placed.get(turn.id, first), BEGINNING, True
            elif turn.parent is None or _is_system(by_number[turn.parent]):
                purpose, reasons = placed.get(turn.id) or self._look(turn, short=True), BEGINNING
            else:
                purpose, reasons = placed.get(turn.id) or self._look(turn), LATER
            if purpose != "train" and purpose in reasons:
                found[turn.id] = reasons[purpose]
        return found

    def _look(self, turn: Turn, *, short: bool = False) -> Purpose | None:
        """What a turn that has no place of its own is like."""
        assert turn.message is not None  # else there is nothing to look at
        if not short and not prompts.stands_alone(turn.message):
            return None
        prompt = prompts.of_message(turn.message)
        if prompt.keys[0] not in self._known:
            self._known[prompt.keys[0]] = prompts.look(self._connection, prompt)
        return self._known[prompt.keys[0]]


def reason(path: Sequence[Turn], barred: dict[int, str]) -> str:
    """Why a path may not train, "" for one that may."""
    return next((barred[turn.id] for turn in path if turn.id in barred), "")


def beginnings(said: Sequence[Turn]) -> list[Turn]:
    """What a person began with: one message, or several where the first was edited."""
    by_number = {turn.id: turn for turn in said}
    return [
        turn for turn in said
        if turn.message is not None and turn.message.role == "user"
        and (turn.parent is None or _is_system(by_number[turn.parent]))
    ]  # fmt: skip


def _is_system(turn: Turn) -> bool:
    return turn.message is not None and turn.message.role == "system"

"""The board as votes come in: read once, kept in columns, fitted anew beside the requests.

A vote's request does not wait for a fit. A thread of its own reads what is new in the log and fits, at
once when it has been idle, and otherwise at most so often that it takes a small share of the machine.
Whatever wrote the votes (this studio, another, a scripted judge), they are seen.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from whorl.arena.battles import Battles
from whorl.arena.board import Board, make_board
from whorl.arena.config import RatingConfig
from whorl.arena.store import LiveVotes, Store
from whorl.arena.store.records import BattleVote
from whorl.base.errors import WhorlError
from whorl.base.progress import say

PAUSE = 0.5  # seconds between two fits while votes keep coming
LOOK_EVERY = 5.0  # seconds after which votes that others wrote are looked for
SHARE = 5.0  # a pause is at least so many times what the last fit took
REMEMBERED = 512  # boards whose rows are kept to tell how a vote moved them

Row = dict[str, Any]
Listener = Callable[["Snapshot"], None]
Reader = Callable[[Sequence[BattleVote], bool], None]  # new votes; whether all have come again


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The board at one place of the log. `seq` is the log's row it was read up to; `votes` are all that
    were cast, counted on the board or not. `board` is None while no vote counts."""

    seq: int
    votes: int
    battles: Battles
    board: Board | None

    def row(self, model: str) -> Row | None:
        rows = self.board.rows if self.board is not None else ()
        return next((row for row in rows if row["model"] == model), None)


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Two boards' rows of some models: `{model: row | None}`, and how many votes that count lie between."""

    before: dict[str, Row | None]
    after: dict[str, Row | None]
    votes: int


class LiveBoard:
    """`start()` it once, `poke()` it after each vote; `snapshot` is the newest board.

    `refresh()` brings it up to date in the caller's thread. `each` is told of every vote once, in the
    log's order, counted or not; when an old one's consent was changed, all come again, `afresh`.
    """

    def __init__(
        self,
        store: Store,
        settings: RatingConfig | None = None,
        *,
        pause: float = PAUSE,
        each: Reader = lambda votes, afresh: None,
    ) -> None:
        self.settings = settings or RatingConfig()
        self._pause, self._each = pause, each
        self._reading, self._kept = threading.Lock(), threading.Lock()
        self._wanted, self._closed = threading.Event(), threading.Event()
        self._whole = threading.Event()  # the log has been read once
        self._thread: threading.Thread | None = None
        self._listeners: list[Listener] = []
        self._past: deque[Snapshot] = deque(maxlen=REMEMBERED)
        self._log, self._seq, self._changes, self._votes = LiveVotes(store), 0, 0, 0
        self._snapshot = Snapshot(seq=0, votes=0, battles=Battles.from_rows([]), board=None)

    # -- in use ------------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def is_read(self, patience: float = 0.0) -> bool:
        """Whether the log has been read to its end since the start; waits for that a while."""
        return self._whole.wait(patience)

    def start(self) -> None:
        self._wanted.set()
        self._thread = threading.Thread(target=self._run, name="live board", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()

    def poke(self) -> None:
        """There is a new vote."""
        self._wanted.set()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """`listener` is called, in this board's thread, with each new snapshot; returns what ends that."""
        with self._kept:
            self._listeners.append(listener)

        def end() -> None:
            with self._kept:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def movement(self, seq: int, models: Iterable[str]) -> Movement | None:
        """How the board was before and after the log's row `seq`; None while that is not in a board yet.

        Of boards fitted in between; where several votes came in one fit, `votes` says how many. A vote
        from before the start of this studio is looked up by two fits of its own.
        """
        names = tuple(models)
        with self._kept:
            past = list(self._past)
        if not past or past[-1].seq < seq:
            return None
        place = next(number for number, one in enumerate(past) if one.seq >= seq)
        if place == 0:
            with self._reading:
                before, after = self._cut(seq - 1), self._cut(seq)
        else:
            before, after = past[place - 1], past[place]
        return Movement(
            before={name: before.row(name) for name in names},
            after={name: after.row(name) for name in names},
            votes=_counted(after) - _counted(before),
        )

    def _cut(self, seq: int) -> Snapshot:
        battles = self._log.battles(until=seq)
        board = make_board(battles, self.settings) if len(battles) else None
        return Snapshot(seq=seq, votes=len(battles), battles=battles, board=board)

    # -- the work ----------------------------------------------------------------------------------

    def refresh(self) -> Snapshot:
        """Read what is new and fit if there is any."""
        with self._reading:
            if not self._read():
                self._whole.set()
                return self._snapshot
            battles = self._log.battles()
            board = make_board(battles, self.settings) if len(battles) else None
            made = Snapshot(seq=self._seq, votes=self._votes, battles=battles, board=board)
            with self._kept:
                self._snapshot = made
                self._whole.set()
                # Past ones serve for their rows alone: their columns are let go.
                self._past.append(
                    Snapshot(seq=made.seq, votes=made.votes, battles=Battles.from_rows([]), board=board)
                )
                listeners = list(self._listeners)
        for listener in listeners:
            listener(made)
        return made

    def _read(self) -> bool:
        """Take in the log's new rows; False where there are none."""
        if not self._log.refresh():
            return False
        afresh = self._log.changes != self._changes
        if afresh:
            self._changes, self._seq, self._votes = self._log.changes, 0, 0
        new = self._log.rows(consent="none", rated=None, after=self._seq)
        self._each(new, afresh)
        self._seq, self._votes = self._log.seq, self._votes + len(new)
        return True

    def _run(self) -> None:
        pause = self._pause
        while not self._closed.is_set():
            self._wanted.wait(LOOK_EVERY)
            self._wanted.clear()
            if self._closed.is_set():
                return
            began = time.monotonic()
            try:
                self.refresh()
            except WhorlError as error:  # the log cannot be read just now: the old board stays
                say(f"the board could not be updated: {error}")
            pause = max(self._pause, SHARE * (time.monotonic() - began))
            self._closed.wait(pause)


def _counted(snapshot: Snapshot) -> int:
    return snapshot.board.votes if snapshot.board is not None else 0

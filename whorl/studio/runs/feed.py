"""A run while it goes on: what its files gain, as server-sent events.

Nothing is kept here. An event's id says up to where each file was read, so a browser that comes again
after a break (`Last-Event-ID`) goes on from there, whichever process answers it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from whorl.base.errors import DataError
from whorl.base.logbook import EVENTS, METRICS, check_record, with_record
from whorl.serve.api.errors import ApiError
from whorl.studio.runs.curves import mark, number
from whorl.studio.runs.reading import Runs, Tail
from whorl.studio.web.streams import Event

LOOK_SECONDS = 0.5  # between two looks at the files: a stat each
STATE_EVERY = 10  # looks: a run that says nothing is called stopped at some time
SLOW_SECONDS = 3.0  # between two looks at runs that have all stopped: each may yet go on
ENDED = (
    "done",
    "fault",
    "left",
)  # states that a run has told of itself; "stopped" is only what silence suggests

Places = dict[str, tuple[int, int]]


def write_places(places: Mapping[str, tuple[int, int]]) -> str:
    """`metrics.events` of each run, in the runs' order."""
    return ",".join(f"{metrics}.{events}" for _, (metrics, events) in sorted(places.items()))


def read_places(text: str, ways: list[str]) -> Places:
    """The inverse, for these runs; where it does not fit, each file from its beginning."""
    pairs = [one.split(".") for one in text.split(",")]
    if len(pairs) == len(ways) and all(len(two) == 2 and all(n.isdecimal() for n in two) for two in pairs):
        return {way: (int(two[0]), int(two[1])) for way, two in zip(sorted(ways), pairs, strict=True)}
    return dict.fromkeys(ways, (0, 0))


class Follower:
    """One listener's reading of some runs."""

    def __init__(self, runs: Runs, ways: list[str], places: Places) -> None:
        self.runs, self.ways = runs, ways
        self._tails = {way: self._open(runs.folder(way), places[way]) for way in ways}
        self._states: dict[str, str] = {}

    @staticmethod
    def _open(folder: Path, places: tuple[int, int]) -> tuple[Tail, Tail]:
        return Tail(folder / METRICS, places[0]), Tail(folder / EVENTS, places[1])

    def places(self) -> str:
        return write_places({way: (one.place, two.place) for way, (one, two) in self._tails.items()})

    def look(self, ask_states: bool) -> list[tuple[str, Event]]:
        """What has happened since the last look, each with the places up to which it tells."""
        found: list[tuple[str, Event]] = []
        for way, (metrics, events) in self._tails.items():
            if metrics.is_replaced() or events.is_replaced():
                return [*found, (self.places(), Event("anew", {"run": way}))]  # the page is to be read again
            if points := self._points(metrics):
                found.append((self.places(), Event("points", {"run": way, "points": points})))
            if new := self._events(events):
                marks = [one for event in new if (one := mark(event)) is not None]
                found.append((self.places(), Event("happened", {"run": way, "marks": marks})))
                ask_states = True
        if ask_states:
            found += [(self.places(), event) for event in self._new_states()]
        return found

    def _points(self, tail: Tail) -> list[list[Any]]:
        """[step, values] in the order written; values None: what came after this step is superseded."""
        points: list[list[Any]] = []
        for where, record in tail.records():
            kept = with_record([], record, where)  # checks it
            if kept:
                points.append([kept[0].step, {name: number(value) for name, value in kept[0].values.items()}])
            else:
                points.append([record["restored"], None])
        return points

    def _events(self, tail: Tail) -> list[dict[str, Any]]:
        new = []
        for where, record in tail.records():
            check_record(record, where)
            new.append(record)
        return new

    def _new_states(self) -> list[Event]:
        states = {way: self.runs.record(way)[0].run.state for way in self.ways}
        changed = {way: state for way, state in states.items() if self._states.get(way) != state}
        self._states = states
        return [Event("state", {"run": way, "state": state}) for way, state in changed.items()]

    @property
    def is_over(self) -> bool:
        return bool(self._states) and all(state in ENDED for state in self._states.values())

    @property
    def is_quiet(self) -> bool:
        return bool(self._states) and "going" not in self._states.values()


async def follow(runs: Runs, ways: list[str], after: str) -> AsyncIterator[tuple[str, Event]]:
    """The events of these runs until each has said that it ended, or the page is to be read anew."""
    follower = await run_in_threadpool(Follower, runs, ways, read_places(after, ways))
    looks = 0
    while True:
        try:
            found = await run_in_threadpool(follower.look, follower.is_quiet or looks % STATE_EVERY == 0)
        except (DataError, ApiError) as error:  # a damaged line, or the run was removed: said, and the end
            message = error.message if isinstance(error, ApiError) else str(error)
            yield after, Event("trouble", {"message": message})
            return
        for after, event in found:
            yield after, event
            if event.name == "anew":
                return
        if follower.is_over:
            return
        looks += 1
        await asyncio.sleep(SLOW_SECONDS if follower.is_quiet else LOOK_SECONDS)

"""Leaving well: a signal to any rank is agreed by all at the next step."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from whorl.base.posix import LEAVE_SIGNALS
from whorl.parallel.group import Group


class LeaveSignals:
    """While entered, SIGINT, SIGTERM and SIGUSR1 ask to leave after the step in flight.

    A second SIGINT is a KeyboardInterrupt: a person may always insist.
    """

    def __init__(self, group: Group) -> None:
        self._group, self._number = group, 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in LEAVE_SIGNALS:
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._number = number

    def agreed(self) -> str:
        """The name of the signal any rank has had, or "" (every rank calls this at the same step)."""
        number = int(self._group.max(float(self._number)))
        return signal.Signals(number).name if number else ""

"""Leaving well: a signal to any rank is agreed by all at the next step; what fails is said in one line."""

from __future__ import annotations

import errno
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from whorl.base.errors import FaultError
from whorl.base.logbook import Logbook
from whorl.base.posix import LEAVE_SIGNALS
from whorl.parallel.group import Group

if TYPE_CHECKING:
    from whorl.train.checkpoint import Checkpoints
    from whorl.train.loop import TrainState

STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


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


def check_finite(step: int, loss: float, norm: float) -> None:
    """`FaultError` where the loss or the gradient of `step` (counted from 1) is not a number."""
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            raise FaultError(
                f"the {name} of step {step} is {value}; try a lower optim.lr and optim.muon_lr, a longer"
                " schedule.warmup, or dtype float32"
            )


@contextmanager
def told(logbook: Logbook, state: TrainState, checkpoints: Checkpoints) -> Iterator[None]:
    """Write what goes wrong into the run, and say which checkpoint the run goes on from: a full disk
    and a lost rank are `FaultError`s too."""
    try:
        yield
    except FaultError as error:
        raise _fault(str(error), logbook, state, checkpoints) from error
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        raise _fault(f"writing failed at step {state.step} ({error})", logbook, state, checkpoints) from error
    except RuntimeError as error:
        if not _lost_peer(error):
            raise
        text = f"a rank was lost after step {state.step}"
        raise _fault(text, logbook, state, checkpoints) from error


def _lost_peer(error: RuntimeError) -> bool:
    """gloo has no exception of its own; its messages begin with the place in its source."""
    words = str(error)
    return "gloo" in words or "NCCL" in words or "Connection closed by peer" in words


def _fault(text: str, logbook: Logbook, state: TrainState, checkpoints: Checkpoints) -> FaultError:
    with suppress(OSError):  # the logbook may lie on the disk that is full
        logbook.event("fault", text=text, step=state.step)
    safe = f"{checkpoints.newest} is saved in {checkpoints.directory}" if checkpoints.newest else ""
    return FaultError(f"{text}; {safe or 'there is no checkpoint yet'}")

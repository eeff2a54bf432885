"""Tasks over worker processes that may die: a lost worker's task is done once more, then named.

`concurrent.futures` gives up the whole pool when one process is killed and cannot say whose task it
was; here each worker has its own pipe, so the loss of one costs its one task.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from whorl.base.errors import FaultError, WhorlError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG}


def run_tasks(
    function: Callable[[Any], Any], tasks: Sequence[Any], *, workers: int, name: Callable[[Any], str] = str
) -> Iterator[tuple[int, Any]]:
    """Yield (number, `function(tasks[number])`) as they finish, on `workers` processes (1: in this one).

    A task whose worker dies twice is passed over; after all others are done a `FaultError` says which
    (`name(task)`). A `WhorlError` raised by a task ends the run as itself; a full disk or missing
    permission as a `FaultError`; anything else as a `RuntimeError` with the worker's traceback.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        for number, task in enumerate(tasks):
            try:
                result = function(task)
            except OSError as error:
                raise _fault(error) from error
            yield number, result
        return
    pool = _Pool(function, tasks, workers)
    try:
        yield from pool.results()
    finally:
        pool.stop()
    if pool.lost:
        what = ", ".join(name(tasks[number]) for number in sorted(pool.lost)[:3])
        more = f" and {len(pool.lost) - 3} more" if len(pool.lost) > 3 else ""
        raise FaultError(
            f"a worker process died twice over {what}{more} (out of memory?); the rest is done: "
            "exclude it or use fewer workers, and run again"
        )


def _fault(error: OSError) -> OSError | FaultError:
    if error.errno not in _DISK:
        return error
    where = f" {error.filename}" if error.filename else ""
    return FaultError(
        f"cannot write{where}: {error.strerror}; make room or give another --out, and run again"
    )


class _Worker:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")  # fork would copy threads' locks as they stand
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()
        self.task: int | None = None
        self.proven = False  # has answered once


class _Pool:
    def __init__(self, function: Callable[[Any], Any], tasks: Sequence[Any], workers: int) -> None:
        self.function, self.tasks = function, tasks
        self.waiting = deque(range(len(tasks)))
        self.tried: dict[int, int] = {}
        self.lost: set[int] = set()
        self.workers = [_Worker(function) for _ in range(workers)]

    def results(self) -> Iterator[tuple[int, Any]]:
        for worker in self.workers:
            self._give(worker)
        while busy := [worker for worker in self.workers if worker.task is not None]:
            ready = set(wait([worker.pipe for worker in busy]))
            for worker in busy:
                if worker.pipe in ready:
                    yield from self._take(worker)

    def _give(self, worker: _Worker) -> None:
        worker.task = None
        if not self.waiting:
            return
        number = self.waiting.popleft()
        self.tried[number] = self.tried.get(number, 0) + 1
        worker.task = number
        try:
            worker.pipe.send(self.tasks[number])
        except (BrokenPipeError, ConnectionResetError):
            return  # it died; `wait` reports the closed pipe

    def _take(self, worker: _Worker) -> Iterator[tuple[int, Any]]:
        assert worker.task is not None
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._replace(worker)
            return
        number, worker.proven = worker.task, True
        if kind == "error":
            raise value
        self._give(worker)  # before the result is looked at, so that no worker idles meanwhile
        yield number, value

    def _replace(self, worker: _Worker) -> None:
        """Its process is gone: put its task first in line again, or give it up after a second time."""
        worker.process.join()
        worker.pipe.close()
        number = worker.task
        assert number is not None
        if self.tried[number] < 2:
            self.waiting.appendleft(number)
        else:
            self.lost.add(number)
            if not any(each.proven for each in self.workers) and len(self.lost) >= len(self.workers):
                code = worker.process.exitcode
                raise FaultError(
                    f"worker processes do not start (exit code {code}); see what they printed above"
                )
        self.workers.remove(worker)
        fresh = _Worker(self.function)
        self.workers.append(fresh)
        self._give(fresh)

    def stop(self) -> None:
        for worker in self.workers:
            worker.pipe.close()
        for worker in self.workers:
            if worker.task is not None:
                worker.process.kill()
            worker.process.join()


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """A worker's life: tasks in, results out, until the pipe closes or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[str, Any] = ("result", function(task))
        except WhorlError as error:
            answer = ("error", error)
        except OSError as error:
            answer = ("error", _fault(error))
        except Exception:  # noqa: BLE001 — a fault of ours: it must reach the person, with its place
            answer = ("error", RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def _leave_with_parent() -> None:
    """A worker must not go on writing after its parent was killed: the next run may be at it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

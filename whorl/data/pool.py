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
from typing import Any, Self

from whorl.base.errors import FaultError, WhorlError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG}


class Pool:
    """Up to `workers` processes, started when first needed and used again by every `run`; with 1,
    tasks run in this process. A context manager: leaving it ends the processes."""

    def __init__(self, workers: int) -> None:
        self._limit = workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(
        self, function: Callable[[Any], Any], tasks: Sequence[Any], name: Callable[[Any], str] = str
    ) -> Iterator[tuple[int, Any]]:
        """Yield (number, `function(tasks[number])`) as they finish.

        A task whose worker dies twice is passed over; after all others are done a `FaultError` says
        which (`name(task)`). A `WhorlError` raised by a task ends the run as itself; a full disk or
        missing permission as a `FaultError`; anything else as a `RuntimeError` with the worker's
        traceback.
        """
        if min(self._limit, len(tasks)) <= 1:
            yield from _run_here(function, tasks)
            return
        job = _Job(function, tasks)
        while len(self._workers) < min(self._limit, len(tasks)):
            self._workers.append(_Worker())
        try:
            yield from self._results(job)
        except BaseException:  # what is in flight must not answer the next job
            self._stop()
            raise
        if job.lost:
            what = ", ".join(name(tasks[number]) for number in sorted(job.lost)[:3])
            more = f" and {len(job.lost) - 3} more" if len(job.lost) > 3 else ""
            raise FaultError(
                f"a worker process died twice on {what}{more} (out of memory?); the rest is done;"
                " exclude it or use fewer workers, then run again"
            )

    def _results(self, job: _Job) -> Iterator[tuple[int, Any]]:
        for worker in self._workers:
            job.give(worker)
        while busy := [worker for worker in self._workers if worker.task is not None]:
            ready = set(wait([worker.pipe for worker in busy]))
            for worker in busy:
                if worker.pipe not in ready:
                    continue
                try:
                    kind, value = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    self._replace(worker, job)
                    continue
                number, worker.proven = worker.task, True
                if kind == "error":
                    raise value
                job.give(worker)  # before the result is looked at, so that no worker idles meanwhile
                assert number is not None
                yield number, value

    def _replace(self, worker: _Worker, job: _Job) -> None:
        """Its process is gone: its task is tried once more, or given up, and another worker starts."""
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        job.lose(worker)
        if not worker.proven and job.lost and not any(each.proven for each in self._workers):
            code = worker.process.exitcode
            raise FaultError(f"worker processes do not start (exit code {code}); see their messages above")
        fresh = _Worker()
        fresh.proven = worker.proven
        self._workers.append(fresh)
        job.give(fresh)

    def _stop(self) -> None:
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            if worker.task is not None:
                worker.process.kill()
            worker.process.join()
        self._workers = []


def _run_here(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    for number, task in enumerate(tasks):
        try:
            result = function(task)
        except OSError as error:
            raise _fault(error) from error
        yield number, result


class _Worker:
    """A process and the pipe to it; `task` is the number of what it is at, `proven` that it answered."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # fork would copy threads' locks as they stand
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.task: int | None = None
        self.proven = False


class _Job:
    """Tasks of one `run`: which wait, how often each was tried, which are lost."""

    def __init__(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> None:
        self.function, self.tasks = function, tasks
        self.waiting = deque(range(len(tasks)))
        self.tried = [0] * len(tasks)
        self.lost: set[int] = set()

    def give(self, worker: _Worker) -> None:
        """Send the next task, if there is one."""
        worker.task = None
        if not self.waiting:
            return
        worker.task = number = self.waiting.popleft()
        self.tried[number] += 1
        try:
            worker.pipe.send((self.function, self.tasks[number]))
        except (BrokenPipeError, ConnectionResetError):
            return  # it died; `wait` reports the closed pipe

    def lose(self, worker: _Worker) -> None:
        number = worker.task
        assert number is not None
        if self.tried[number] < 2:
            self.waiting.appendleft(number)
        else:
            self.lost.add(number)


def _fault(error: OSError) -> OSError | FaultError:
    if error.errno not in _DISK:
        return error
    where = f" {error.filename}" if error.filename else ""
    return FaultError(
        f"cannot write{where}: {error.strerror}; free some space or give another --out, then run again"
    )


def _serve(pipe: Connection) -> None:
    """A worker's life: tasks in, results out, until the pipe closes or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    threading.Thread(target=leave_with_parent, daemon=True).start()
    while True:
        try:
            function, task = pipe.recv()
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


def leave_with_parent() -> None:
    """A worker must not go on writing after its parent was killed: the next run may be at it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

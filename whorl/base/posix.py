"""Every call that differs between POSIX and Windows, and nothing else."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from whorl.base.errors import FaultError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h

# Signals that ask a long run to save and leave. Windows knows SIGINT and SIGTERM only.
LEAVE_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


def fsync_directory(path: Path) -> None:
    """Make a rename in `path` durable; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made: other processes of this machine wait here until it is
    given back, or its holder is gone. Everybody goes on at once on Windows, and where no file can be locked.
    """
    with ExitStack() as held:
        if os.name == "posix":
            import fcntl

            with suppress(OSError):
                fcntl.flock(held.enter_context(path.open("w")), fcntl.LOCK_EX)
        yield


def start_with_socket(
    command: Sequence[str], **options: Any
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a child that inherits one end of a socket pair; every "{socket}" in its command becomes the
    descriptor's number. Returns the process and our end. Windows has no way to pass one on.

    It has a session of its own: Ctrl-C in our terminal and a signal to our group are for us alone, who let
    what runs end. It is to leave when the socket closes."""
    if os.name != "posix":
        raise FaultError("passing a socket to a child process needs a POSIX system; use WSL on Windows")
    ours, theirs = socket.socketpair()
    with theirs:
        number = str(theirs.fileno())
        words = [word.replace("{socket}", number) for word in command]
        return subprocess.Popen(words, pass_fds=[theirs.fileno()], start_new_session=True, **options), ours


def ignore_leave_signals() -> None:
    """For a child that leaves when its socket closes: whoever stops a service signals every process of it,
    and its parent still needs it to let what runs end."""
    for one in LEAVE_SIGNALS:
        signal.signal(one, signal.SIG_IGN)


def end_with_socket(connection: socket.socket) -> None:
    """End this process when the other end of its socket is gone, also in the midst of its work."""

    def wait() -> None:
        poll = select.poll()
        # Linux tells of a close by an event of its own; elsewhere it is the end of both ways.
        poll.register(connection, getattr(select, "POLLRDHUP", select.POLLHUP))
        poll.poll()
        os._exit(0)

    threading.Thread(target=wait, name="whorl-socket", daemon=True).start()


def limit_memory(size: int) -> None:
    """Let this process have at most `size` bytes of address space; an allocation beyond it fails.
    Windows has no such call."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees instead of giving it back after every large array.

    A training step allocates and frees hundreds of arrays of some MB; with glibc's defaults each is
    mapped and unmapped anew and its pages are faulted in and zeroed again, which was seen to take
    from a tenth of the step to most of it. Only glibc has this call; elsewhere it does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TOP_PAD, 64 << 20)


def tree_memory() -> int:
    """Bytes of memory of this process and its children: PSS where the system tells it (Linux),
    so that shared pages count once, and RSS elsewhere."""
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            info = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # ended, or another user's, between listing and reading
        total += getattr(info, "pss", info.rss)
    return total


def end_with_stdin() -> None:
    """End this process, as SIGTERM does, when its standard input ends: whoever started it and held the other
    end is gone, however it went."""

    def wait() -> None:
        while os.read(0, 1 << 16):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="whorl-stdin", daemon=True).start()

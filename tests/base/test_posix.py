"""What differs between systems: memory that a process keeps, memory of a tree, a socket for a child."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from whorl.base.posix import one_at_a_time, start_with_socket, tree_memory

FAULTS = """
import resource, sys
import numpy as np
from whorl.base.posix import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def use():
    np.ones(2_000_000)  # 16 MB
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept_and_not_faulted_in_again() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 100 < faults("give back")


LOCK = """
import sys
from pathlib import Path
from whorl.base.posix import one_at_a_time
with one_at_a_time(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="no flock")
@pytest.mark.parametrize("leaves", ["ends", "is killed"])
def test_a_lock_is_one_process_at_a_time_and_does_not_outlive_it(tmp_path: Path, leaves: str) -> None:
    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LOCK, str(tmp_path / "lock")]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with start() as first:
        assert first.stdout is not None and first.stdout.readline() == "mine\n"
        with start() as second:
            assert second.stdout is not None
            assert not select.select([second.stdout], [], [], 1.0)[0], "it waits"
            first.kill() if leaves == "is killed" else first.communicate()
            assert second.stdout.readline() == "mine\n"
            second.communicate()


def test_where_no_file_can_be_locked_nobody_waits(tmp_path: Path) -> None:
    with one_at_a_time(tmp_path / "no folder" / "lock"):
        assert not list(tmp_path.iterdir())


HOLD = """
import multiprocessing, sys, time
import numpy as np
shared = np.ones(8_000_000)  # 64 MB, which the children share
def child():
    own = np.ones(4_000_000)  # 32 MB each
    print("ready", flush=True)
    time.sleep(60)
if __name__ == "__main__":
    for _ in range(2):
        multiprocessing.get_context("fork").Process(target=child, daemon=True).start()
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PSS is Linux's")
def test_a_tree_s_memory_counts_shared_pages_once() -> None:
    before = tree_memory()
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
            grown = tree_memory() - before
        finally:
            process.kill()
    assert 125e6 < grown < 125e6 + 60e6, "64 MB once and 32 MB twice, and an interpreter"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_a_child_inherits_its_end_of_a_socket() -> None:
    program = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(s.recv(9)[::-1])"
    process, ours = start_with_socket([sys.executable, "-c", program, "{socket}"])
    with ours:
        ours.sendall(b"abc")
        assert ours.recv(9) == b"cba"
        assert process.wait(10) == 0 and ours.recv(9) == b""

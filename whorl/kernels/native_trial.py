"""Each C++ kernel's test, in a process of its own: one that does not fit this CPU may end its process.

An exception that leaves a thread of OpenMP, or an instruction that the CPU does not have, cannot be
caught. So a library is tried once in a child, and what came of it is kept beside it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import whorl
from whorl.base.files import read_json, write_json

FORMAT = 1
SECONDS = 300  # for the tests of all kernels on a busy machine


def refused(library: Path, names: Sequence[str]) -> dict[str, str]:
    """The kernels of `library` that are not to be used, with the reason; tried when nobody has yet.

    OSError or SubprocessError where they could not be tried.
    """
    verdict = library.with_suffix(".json")
    if not verdict.exists():
        write_json(verdict, {"format": FORMAT, "refused": _try(library, list(names))})
    found: dict[str, str] = read_json(verdict)["refused"]
    return found


def _try(library: Path, names: list[str]) -> dict[str, str]:
    problems: dict[str, str] = {}
    while names:
        command = [sys.executable, "-m", __name__, str(library), *names]
        path = os.pathsep.join([str(Path(whorl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False,
            env=os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)},
        )  # fmt: skip
        told = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
        problems |= {name: problem for name, problem in told.items() if problem}
        names = names[len(told) :]
        if done.returncode == 1:  # Python's own way to fail: nothing is known of the kernels
            said = done.stderr.strip().splitlines() or ["no reason was given"]
            raise OSError(f"the kernels could not be tried: {said[-1]}")
        if names:  # in the middle of this one's test
            problems[names.pop(0)] = f"its test ended the process ({_how(done.returncode)})"
    return problems


def _how(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit {code}"


def main() -> None:
    """In the child: LIBRARY NAME…; a line for each kernel, its name and what is wrong with it."""
    from whorl.kernels.native import KERNELS

    library = ctypes.CDLL(sys.argv[1])
    for name in sys.argv[2:]:
        kernel = KERNELS[name].bind(library)
        problem = KERNELS[name].problem(kernel)
        print(f"{name}\t{' '.join(problem.split())}", flush=True)


if __name__ == "__main__":
    main()

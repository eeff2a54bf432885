"""A plain command becomes N ranks: torchrun on this machine, signals passed on, one line when a rank dies.

Three processes deep: this one, torchrun's agent (`whorl.parallel.agent`), the ranks
(`whorl.parallel.rank`). Rank 0 speaks on this terminal; the others write to files, whose last line is
shown where one of them fails. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from whorl.base.errors import DataError, FaultError, InputError, WhorlError
from whorl.base.files import read_json
from whorl.base.posix import LEAVE_SIGNALS

EXIT_RESUME = 75  # EX_TEMPFAIL: all is saved, the same command goes on
MISTAKES: dict[str, type[WhorlError]] = {"InputError": InputError, "DataError": DataError}
POLL = 0.1  # seconds between looks at the agent


def launch(n: int, function: str, args: Sequence[str] = (), *, env: dict[str, str] | None = None) -> int:
    """Call `function` ("module:name" or "file.py:name") with `args` in `n` ranks; returns what it returns.

    The function runs in every rank, with torchrun's environment, and returns None or an exit code
    (`EXIT_RESUME` where a signal asked it to leave). SIGINT, SIGTERM and SIGUSR1 to this process go to
    every rank. A `WhorlError` in a rank is raised here; any other end of one is a `FaultError` with the
    rank's last line. When this process dies, so do the ranks.
    """
    if n < 1:
        raise InputError(f"the number of ranks must be 1 or more, not {n}")
    folder = Path(tempfile.mkdtemp(prefix="whorl-ranks-"))
    environment = os.environ | {"OMP_NUM_THREADS": _threads(n), "PYTHONUNBUFFERED": "1"} | (env or {})
    command = [sys.executable, "-m", "whorl.parallel.agent", str(n), str(folder), function, *args]
    agent = subprocess.Popen(
        command, stdin=subprocess.PIPE, env=environment, start_new_session=os.name == "posix"
    )
    try:
        with _passed_on(agent) as passed:
            while agent.poll() is None:
                time.sleep(POLL)
    finally:
        if agent.poll() is None:  # a second SIGINT: insist
            _end(agent)
    code, error = _result(folder, n, agent.returncode, passed)
    if not isinstance(error, FaultError):  # which names the folder
        shutil.rmtree(folder, ignore_errors=True)
    if error is not None:
        raise error
    return code


def _threads(n: int) -> str:
    """What the person asked for, else this process's cores shared out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // n))


@contextmanager
def _passed_on(agent: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """While open, signals go to the ranks themselves: torchrun would give them 30 s and kill them.

    Yields the signals so far. The agent is in a session of its own, so a terminal's Ctrl-C comes here
    alone.
    """
    passed: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in passed:
            raise KeyboardInterrupt
        passed.append(number)
        for rank in _ranks(agent.pid):
            rank.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in LEAVE_SIGNALS}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ranks(agent: int) -> list[psutil.Process]:
    try:
        return psutil.Process(agent).children()
    except psutil.NoSuchProcess:
        return []


def _end(agent: subprocess.Popen[bytes]) -> None:
    for process in [*_ranks(agent.pid), agent]:
        try:
            process.kill()
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue  # it ended first
    agent.wait()


def _result(folder: Path, n: int, agent_code: int, passed: list[int]) -> tuple[int, WhorlError | None]:
    """The ranks' common exit code, or the error that explains best why there is none."""
    told = [read_json(path) for path in sorted(folder.glob("rank-*.json"))]
    codes = {report["code"] for report in told}
    if len(told) == n and len(codes) == 1 and not any(report["error"] for report in told):
        return codes.pop(), None
    # The user's and the data's mistakes first: every rank makes them, and some are cut short by others.
    for name, mistake in MISTAKES.items():
        for report in told:
            if report["error"] == name:
                return 0, mistake(report["text"])
    failures: list[dict[str, Any]] = _failures(folder)
    killed = [f for f in failures if f["code"] < 0 and f["code"] not in (-signal.SIGTERM, -signal.SIGABRT)]
    if not killed and passed and not any(report["error"] for report in told):
        return 128 + passed[0], None  # a signal before the ranks were ready for it: there is nothing to save
    for failure in killed:
        name = signal.Signals(-failure["code"]).name
        return 0, _fault(folder, failure["rank"], f"was killed by {name}", told)
    for report in told:
        if report["error"]:
            return 0, _fault(folder, report["rank"], report["text"], told)
    for failure in failures:
        return 0, _fault(folder, failure["rank"], f"exited with code {failure['code']}", told)
    return 0, FaultError(f"torchrun's agent exited with code {agent_code}; see {folder}")


def _failures(folder: Path) -> list[dict[str, Any]]:
    path = folder / "failures.json"
    found: list[dict[str, Any]] = read_json(path) if path.exists() else []
    return found


def _fault(folder: Path, rank: int, what: str, told: list[dict[str, Any]]) -> FaultError:
    last = _last_line(folder, rank)
    safe = next((r["text"].rpartition("; ")[2] for r in told if r["error"] == "FaultError"), "")
    parts = [f"rank {rank} {what}"]
    parts += [f"its last line: {last}"] if last and last not in what else []
    parts += [safe] if safe and safe not in what else []
    return FaultError("; ".join(parts) + f"; the ranks' output is in {folder}")


def _last_line(folder: Path, rank: int) -> str:
    """Of what a rank wrote to stderr; rank 0 wrote to the terminal."""
    for path in folder.glob(f"**/{rank}/stderr.log"):
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return re.sub(r"^\[rank\d+\]: *", "", lines[-1].strip())
    return ""


def write_report(folder: Path, rank: int, code: int, error: str = "", text: str = "") -> None:
    """A rank's last word, read by `launch`."""
    report = {"rank": rank, "code": code, "error": error, "text": text}
    place = folder / f"rank-{rank}.json"
    place.with_suffix(".part").write_text(json.dumps(report), encoding="utf-8")
    place.with_suffix(".part").replace(place)

"""Progress: plain lines off a terminal, a bar on one, nothing on stdout, one voice a group."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from whorl.base.progress import _Lines, duration, figure, progress, say

WORK = """
from whorl.base.progress import progress, say
with progress(3, "reading", "files") as bar:
    for n in range(3):
        bar.advance(1, loss=2.5)
        if n == 1:
            say("a line [in] between")
"""


def test_plain_lines_off_a_terminal_and_nothing_on_stdout() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "a line [in] between"
    assert lines[-1].startswith("reading: 100 %, 3/3 files, ")
    assert "loss 2.5" in lines[-1]
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr


def test_a_bar_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-c", WORK], stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0
    assert done.stdout == b""
    assert "3/3 files" in shown
    assert "━" in shown
    assert "a line [in] between" in shown


def test_only_rank_0_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    say("hello")
    with progress(2, "work") as bar:
        bar.advance(2)
    assert capsys.readouterr().err == ""


def test_lines_come_at_growing_gaps_with_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = _Lines(1000, "training", "steps", 500, clock=lambda: now)
    for _ in range(250):
        now += 1.0
        lines.advance(1)
    said = capsys.readouterr().err.splitlines()
    # at 2 s, then gaps of 4, 8, 16, 32, 60, 60 …
    assert len(said) == 8
    assert said[0] == "training: 50 %, 502/1,000 steps, 1/s, 8 min 18 s left"
    assert said[5] == "training: 62 %, 622/1,000 steps, 1/s, 6 min 18 s left"


def test_an_error_passes_without_a_line_that_says_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="stop"), progress(2, "work"):
        raise ValueError("stop")
    assert "done" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (7, "7"), (0.25, "0.25"), (1234, "1,234"), (12_345, "12.3k"), (4.56e6, "4.56M")],
)
def test_figure(value: float, shown: str) -> None:
    assert figure(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (9.96, "10.0 s"), (59, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown

"""Where torch.compile fails, a run goes on eagerly and says so; so does one that has no compiler at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from whorl.base.files import read_json
from whorl.base.logbook import read_events, read_metrics, series
from whorl.kernels.device import compiler_available

PROGRAM = Path(__file__).with_name("tiny.py")
# Builds programs, and fails at the objects and libraries that torch.compile wants, and the kernels.
BROKEN = (
    '#!/bin/sh\ncase " $* " in *" -shared "*|*" -c "*) echo "no room left for objects" >&2; exit 1;; esac\n'
    'exec {} "$@"\n'
)


def train(
    run: Path, tmp_path: Path, compile: str = "auto", **environment: str
) -> subprocess.CompletedProcess[str]:
    root = str(PROGRAM.parent.parent.parent)
    own = {
        "PYTHONPATH": root,
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        "XDG_CACHE_HOME": str(tmp_path),
    }
    options = {"train": {"steps": 2, "compile": compile, "checkpoint_every": 1}, "model": {"n_layers": 1}}
    command = [sys.executable, str(PROGRAM), str(run), json.dumps(options)]
    return subprocess.run(
        command, env=os.environ | own | environment, capture_output=True, text=True, timeout=250
    )


def choice(run: Path) -> tuple[bool, str]:
    kept = [event for event in read_events(run) if event.get("what") == "compile"]
    return read_json(run / "choices.json")["compile"], kept[-1]["reason"]


def broken(folder: Path) -> Path:
    compiler = folder / "c++"
    compiler.write_text(BROKEN.format(compiler_available()))
    compiler.chmod(0o755)
    return compiler


@pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler")
def test_a_compiler_that_fails_is_done_without_and_said(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train(run, tmp_path, CXX=str(broken(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert "running eagerly: torch.compile failed" in done.stderr and "Traceback" not in done.stderr
    assert choice(run)[0] is False and choice(run)[1]
    assert series(read_metrics(run), "loss")[0] == [1, 2]


@pytest.mark.soak
@pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler")
def test_where_compiling_is_asked_for_its_failure_ends_the_run(tmp_path: Path) -> None:
    done = train(tmp_path / "run", tmp_path, compile="on", CXX=str(broken(tmp_path)))
    assert done.returncode != 0 and "--train.compile off" in done.stderr


def test_without_a_compiler_everything_runs_eagerly_and_says_so(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    done = train(tmp_path / "run", tmp_path, PATH=str(empty), CXX="")
    assert done.returncode == 0, done.stderr
    assert "running eagerly: no C++ compiler was found; install g++" in done.stderr
    assert choice(tmp_path / "run") == (False, "no C++ compiler was found")
    assert series(read_metrics(tmp_path / "run"), "loss")[0] == [1, 2]

"""The command as a person meets it: real processes, exit codes, one line for a mistake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from whorl.base.logbook import Logbook
from whorl.cli.libraries import LIBRARIES
from whorl.cli.main import VERBS, main, missing_library


def whorl(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "whorl", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_help_names_every_verb() -> None:
    done = whorl("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for verb in VERBS:
        assert f"\n  {verb} " in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "unknown verb 'trian'; did you mean train?"),
        (["xyzzy"], "unknown verb 'xyzzy'; choose from quickstart, "),
        (["runs", "shw"], "Did you mean 'show'"),
        (["runs", "list", "--jsn"], "Did you mean '--json'"),
        (["runs", "show"], "Missing argument 'RUN'"),
        (["runs", "show", "nowhere"], "nowhere is not a run"),
        (["--verbose"], "No such option '--verbose'"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(tmp_path: Path, words: list[str], said: str) -> None:
    done = whorl(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("whorl: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["runs"]])
def test_no_verb_shows_the_help(words: list[str]) -> None:
    done = whorl(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: whorl")


@pytest.mark.parametrize(
    "words", [["--debug", "runs", "show", "nowhere"], ["runs", "show", "nowhere", "--debug"]]
)
def test_debug_shows_the_traceback(words: list[str]) -> None:
    done = whorl(*words)
    assert "Traceback" in done.stderr
    assert "InputError" in done.stderr
    assert done.returncode == 1


def test_damaged_data_is_exit_2_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("{broken\n")
    done = whorl("runs", "list", str(tmp_path))
    assert done.returncode == 2
    assert "events.jsonl:1: not valid JSON" in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_is_130_without_a_traceback(tmp_path: Path) -> None:
    """A named pipe holds `runs show` inside a read until the signal comes."""
    os.mkfifo(tmp_path / "metrics.jsonl")
    (tmp_path / "events.jsonl").write_text("")
    process = subprocess.Popen(
        [sys.executable, "-m", "whorl", "runs", "show", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        # A shell that puts the tests into the background makes their children ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with open(tmp_path / "metrics.jsonl", "wb"):  # opens once the process reads
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "whorl: interrupted"


def test_a_reader_that_leaves_is_no_traceback() -> None:
    """`whorl … | head`: the pipe is closed before the first line."""
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([sys.executable, "-m", "whorl", "--help"], stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert done.stderr == b""


def test_a_missing_library_is_named_with_its_extra(capsys: pytest.CaptureFixture[str]) -> None:
    for name, library in LIBRARIES.items():
        error = ModuleNotFoundError(f"No module named '{name}.sub'", name=f"{name}.sub")
        assert f"pip install 'whorl[{library.extra}]'" in (missing_library(error) or "")
    assert missing_library(ModuleNotFoundError(name="whorl.nothing")) is None


def test_a_missing_library_ends_a_real_command_with_one_line(tmp_path: Path) -> None:
    """jinja2 hidden from the process that writes a report."""
    (tmp_path / "events.jsonl").write_text("")
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        f"from whorl.cli.main import main; main(['runs', 'report', {str(tmp_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "whorl: jinja2 is required but not installed; run: pip install 'whorl[text]'\n"


def test_a_disk_that_takes_no_more_is_one_line(tmp_path: Path) -> None:
    """A file that may not grow past 4 kB stands for a full disk: the write fails in the same place."""
    with Logbook(tmp_path / "run") as logbook:
        for step in range(50):
            logbook.metric(step, loss=1.0)
    words = [sys.executable, "-m", "whorl", "runs", "report", str(tmp_path / "run")]
    limited = ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *words]
    done = subprocess.run(limited, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "File too large" in done.stderr and "run the command again" in done.stderr
    assert not [one for one in (tmp_path / "run").iterdir() if one.suffix in (".part", ".html")]


def test_main_leaves_with_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert "whorl, version" in capsys.readouterr().out

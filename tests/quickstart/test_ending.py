"""How quickstart ends: what can be typed next, from any folder, and --no-serve."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from whorl.base.files import write_json
from whorl.quickstart.ending import next_commands


def test_the_next_commands_work_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, workspace = Path("my work/runs/first/model"), Path("my work")
    chat, ask, sft, again = map(shlex.split, next_commands("http://127.0.0.1:1", model, workspace))
    assert chat[:3] == ["whorl", "chat", "http://127.0.0.1:1"] and ask[1:3] == ["eval", "http://127.0.0.1:1"]
    assert sft[2] == str(tmp_path / model) and sft[-1] == str(tmp_path / "my work" / "runs")
    assert again[:6] == ["whorl", "quickstart", "--workspace", str(tmp_path / "my work"), "--name", "first"]
    usual = next_commands("http://127.0.0.1:1", Path("runs/quickstart/model"), Path())[-1]
    assert "--name" not in usual and f"--workspace {shlex.quote(str(tmp_path))} --fresh" in usual


def test_no_serve_ends_on_a_terminal_too(tmp_path: Path) -> None:
    """A run that has its figures; there is no model in it that could be served."""
    run = tmp_path / "runs" / "quickstart"
    run.mkdir(parents=True)
    done = {"done": True, "seconds": 1.0, "budget": 2.0, "memory": 1, "value": {"rows": [], "samples": []}}
    write_json(run / "stages.json", {"format": 1, "stages": {"figures": done}})
    words = [sys.executable, "-m", "whorl", "quickstart", "--workspace", str(tmp_path), "--no-round-trip"]
    ends = {}
    for option in ("--no-serve", ""):
        master, slave = pty.openpty()
        ended = subprocess.run(
            [*words, *([option] if option else [])], stdin=slave, stdout=slave, stderr=subprocess.PIPE,
            timeout=120, check=False,
        )  # fmt: skip
        os.close(slave)
        text = os.read(master, 65536).decode()
        os.close(master)
        assert "run up to its figures" in text and "served at" not in text
        ends[option] = ended.returncode
    assert ends["--no-serve"] == 0
    assert ends[""] == 2, "without it a server is started, which says that there is no model"

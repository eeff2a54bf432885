"""The doctor tells the truth about this machine, and has a remedy for what is missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from whorl.base.errors import InputError
from whorl.cli import checks
from whorl.kernels.device import choose_device, compile_problem, self_test


def test_json_names_every_part_and_agrees_with_the_machine() -> None:
    done = subprocess.run([sys.executable, "-m", "whorl", "doctor", "--json"], capture_output=True, text=True)
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert {"python", "cpu", "memory", "disk", "torch", "gpu", "compiler", "kernels"} <= set(found)
    assert platform.python_version() in found["python"]["found"]
    assert torch.__version__ in found["torch"]["found"]
    assert f"{psutil.virtual_memory().total / 2**30:.1f} GiB" in found["memory"]["found"]
    assert all(check["remedy"] for check in found.values() if check["state"] != "ok")
    assert done.returncode == (1 if any(check["state"] == "failed" for check in found.values()) else 0)


def test_without_a_compiler_it_says_so_and_how_to_get_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "whorl", "doctor", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    found = {check["name"]: check for check in json.loads(done.stdout)}
    compiler = found["compiler"]
    assert "no C++ compiler was found" in found["kernels"]["found"] and found["kernels"]["remedy"]
    assert compiler["state"] == "missing"
    assert "eagerly" in compiler["remedy"]
    assert done.returncode == 0


def test_a_compiler_that_does_not_work_is_not_one(tmp_path: Path) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho no licence >&2\nexit 1\n")
    broken.chmod(0o755)
    assert compile_problem(str(broken)) == "no licence"
    assert compile_problem(str(tmp_path / "nothing")) is not None
    real = shutil.which("g++")
    if real is None:
        pytest.skip("g++ is not on this machine")
    assert compile_problem(real) is None


def test_a_full_or_closed_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHORL_WORKSPACE", str(tmp_path / "not" / "yet" / "there"))
    assert str(tmp_path) in checks.disk().found
    monkeypatch.setattr(checks, "NEEDED_DISK", 1 << 80)
    assert checks.disk().state == "missing"
    monkeypatch.setattr(checks, "NEEDED_MEMORY", 1 << 80)
    assert checks.memory().state == "missing"


def test_the_device_is_one_that_computes() -> None:
    assert self_test("cpu") is None
    assert choose_device("cpu") == torch.device("cpu")
    assert self_test(str(choose_device())) is None


def test_a_device_that_is_not_here_is_refused_with_the_reason() -> None:
    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(InputError, match=f"device {absent} does not work here: torch .* finds no {absent}"):
        choose_device(absent)
    with pytest.raises(InputError, match="'tpu' is not one of cuda, mps, cpu"):
        choose_device("tpu")

"""The built wheel is whole: installed into an empty folder elsewhere, the command runs from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder appears in the repository; without a network."""
    source, out = tmp_path_factory.mktemp("a source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT / "whorl", source / "whorl", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(source),
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(out),
    ]
    subprocess.run(pip, check=True)
    [path] = out.glob("whorl-*.whl")
    return path


def test_every_file_of_the_package_is_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "whorl").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT).as_posix() in names
    assert not any(name.startswith(("tests/", "bench/", "examples/")) for name in names)


def test_it_runs_from_an_empty_folder_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site with a space"
    pip = [sys.executable, "-m", "pip", "install", str(wheel), "--no-deps", "--target", str(site), "-q"]
    subprocess.run(pip, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "whorl"]
    shown = subprocess.run(
        [*command, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "quickstart" in shown.stdout
    shown = subprocess.run(
        [*command, "quickstart", "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--minutes" in shown.stdout
    where = [sys.executable, "-c", "import whorl; print(whorl.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip().startswith(str(site))
    # A report needs a file that is not Python.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").write_text("")
    subprocess.run(
        [*command, "runs", "report", "run"], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    assert (tmp_path / "run" / "report.html").is_file()

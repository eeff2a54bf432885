"""bootstrap.py: speaks to old Pythons, refuses in one line, and (soak) makes an environment."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCE = (ROOT / "bootstrap.py").read_text()


def test_it_parses_on_pythons_too_old_to_run_it() -> None:
    ast.parse(SOURCE, feature_version=(3, 7))


@pytest.mark.skipif(os.name == "nt", reason="Windows finds Python by its launcher")
def test_an_old_python_is_told_in_one_line(tmp_path: Path) -> None:
    names = {"__name__": "__main__", "__file__": str(ROOT / "bootstrap.py")}
    code = f"import sys; sys.version_info = (3, 9, 0); sys.argv = ['x', 'test']; exec({SOURCE!r}, {names!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.returncode == 2
    assert "Whorl needs Python 3.11 or newer" in done.stderr
    assert done.stderr.count("\n") == 1


def bootstrap(*words: str, where: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "bootstrap.py", *words], cwd=where, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["lint", "--room", "data"], "--room belongs to test and soak"), (["tset"], "invalid choice")],
)
def test_a_mistake_is_refused_before_anything_is_made(tmp_path: Path, words: list[str], said: str) -> None:
    shutil.copy(ROOT / "bootstrap.py", tmp_path)
    done = bootstrap(*words, where=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_folder_named_venv_that_is_none_is_left_alone(tmp_path: Path) -> None:
    for name in ("bootstrap.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "mine.txt").write_text("precious")
    done = bootstrap("install", where=tmp_path)
    assert done.returncode == 2
    assert "not a virtual environment" in done.stderr
    assert (tmp_path / ".venv" / "mine.txt").read_text() == "precious"


def test_an_installed_environment_is_taken_as_it_is(tmp_path: Path) -> None:
    """With the stamp in place the target runs at once; here its Python is a shell script that tells."""
    place = tmp_path / "a path with a space"
    (place / "tests" / "data").mkdir(parents=True)
    for name in ("bootstrap.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, place)
    python = place / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "ran: $@"\n')
    python.chmod(0o755)
    stamp = subprocess.run(
        [sys.executable, "-c", "import bootstrap; print(bootstrap.wanted(), end='')"],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (place / ".venv" / ".whorl-dev").write_text(stamp)
    done = bootstrap("test", "--room", "data", "--", "-k", "x", where=place)
    assert done.stdout == "ran: -m pytest tests/data -n 3 --dist loadfile --no-loadscope-reorder -k x\n"
    assert bootstrap("demo", where=place).stdout == "ran: -m whorl quickstart\n"
    done = bootstrap("test", "--room", "dat", where=place)
    assert done.returncode == 2
    assert "no room 'dat' under tests; rooms: data" in done.stderr


def test_constraints_pin_every_dependency_once() -> None:
    import re
    import tomllib

    pins = [
        line.partition("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line[:1] not in "#"
    ]
    names = [re.sub(r"[-_.]+", "-", name).lower() for name, _, _ in pins]
    assert len(names) == len(set(names))
    assert all(version and "+" not in version for _, _, version in pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for lines in project["optional-dependencies"].values():
        wanted += lines
    for line in wanted:
        name = re.match(r"[\w.-]+", line)
        assert name is not None
        if name[0] != "whorl":
            assert re.sub(r"[-_.]+", "-", name[0]).lower() in names, line

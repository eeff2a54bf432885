"""The walls of the house: import-linter's contracts hold, and they can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def lint(place: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=place, capture_output=True, text=True
    )


def test_imports_go_down_and_torch_stays_out() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


def test_a_broken_wall_is_found(tmp_path: Path) -> None:
    """A copy of the package with torch in a config and an import upwards does not pass."""
    shutil.copytree(ROOT / "whorl", tmp_path / "whorl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "whorl" / "data" / "config.py", "a") as file:
        file.write("\nimport torch\n")
    with open(tmp_path / "whorl" / "text" / "__init__.py", "a") as file:
        file.write("\nimport whorl.train\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "whorl.data.config -> torch" in done.stdout
    assert "whorl.text -> whorl.train" in done.stdout

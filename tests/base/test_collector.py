"""What is loaded is left out of collections, and a process still ends as it should."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, gc, sys, types
from whorl.base.collector import end_at_once, keep_loaded
atexit.register(lambda: print("last words", gc.get_freeze_count() > 0))
if sys.argv[1] == "triton":
    sys.modules["triton"] = types.ModuleType("triton")
atexit.register(print, "more")
end_at_once()
if sys.argv[2] == "now":
    keep_loaded()
print(gc.get_freeze_count() > 0)
sys.exit(3)
"""


@pytest.mark.parametrize(
    ("triton", "when", "frozen"),
    [("none", "now", True), ("none", "at its end", False), ("triton", "now", False)],
)
def test_what_is_loaded_is_left_alone_unless_triton_counts_it(triton: str, when: str, frozen: bool) -> None:
    command = [sys.executable, "-c", PROGRAM, triton, when]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and done.stderr == ""
    assert done.stdout.splitlines() == [str(frozen), "more", f"last words {triton == 'none'}"]

"""What every figure is kept with: when, and on what machine."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from whorl.base.files import JsonLines

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", path.read_text()) if path.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def keep(bench: str, found: dict[str, Any], libraries: Sequence[str]) -> None:
    """Append a record to bench/results/<bench>.jsonl; `libraries` are those whose versions matter."""
    log = JsonLines(RESULTS / f"{bench}.jsonl")
    log.append({
        "format": 1, "bench": bench, "time": datetime.now(UTC).isoformat(timespec="seconds"), **found,
        "processor": processor(), "cores": os.cpu_count(), "system": platform.system(),
        "python": platform.python_version(), "versions": {name: version(name) for name in libraries},
    })  # fmt: skip
    log.close()

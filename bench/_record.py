"""What every figure is kept with: when, on what machine, and of which code."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from whorl.base.files import JsonLines
from whorl.base.provenance import cpu_model, git_state
from whorl.cli.checks import ISA_FLAGS, cpu_flags

RESULTS = Path(__file__).parent / "results"


def installed(library: str) -> str | None:
    """Its version; None where it is not there, as a database's driver may be."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def keep(bench: str, found: dict[str, Any], libraries: Sequence[str]) -> None:
    """Append a record to bench/results/<bench>.jsonl; `libraries` are those whose versions matter."""
    log = JsonLines(RESULTS / f"{bench}.jsonl")
    (commit, changed), flags = git_state(), cpu_flags()
    log.append({
        "format": 1, "bench": bench, "time": datetime.now(UTC).isoformat(timespec="seconds"), **found,
        "commit": commit[:12] + "+" * changed,  # a plus where the code differs from it
        "processor": cpu_model(), "instructions": [name for flag, name in ISA_FLAGS.items() if flag in flags],
        "cores": os.cpu_count(), "system": platform.system(),
        "python": platform.python_version(), "versions": {name: installed(name) for name in libraries},
    })  # fmt: skip
    log.close()

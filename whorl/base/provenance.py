"""Where a run came from: the code, what was installed, the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import whorl
from whorl.base.files import sha256_json

PACKAGE = Path(whorl.__file__).parent


@cache
def provenance() -> dict[str, Any]:
    """The fields of a `start` event that say what ran: whorl, commit, dirty, code, dependencies,
    versions, python, machine."""
    versions = installed()
    commit, dirty = git_state()
    return {
        "whorl": whorl.__version__,
        "commit": commit,
        "dirty": dirty,
        "code": code_hash(),
        "dependencies": sha256_json(versions),
        "versions": versions,
        "python": sys.version.split()[0],
        "machine": machine(),
    }


def code_hash() -> str:
    """SHA-256 over the package's source files and their names."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def git_state() -> tuple[str, bool]:
    """(commit, whether the package differs from it); ("", False) where the package is installed
    from a wheel, or git is not there."""
    if not (PACKAGE.parent / ".git").exists():
        return "", False
    git = ["git", "-C", str(PACKAGE.parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--", "whorl"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "", False
    return commit.stdout.strip(), bool(status.stdout.strip())


def installed() -> dict[str, str]:
    """Installed distributions and their versions, by lower-case name."""
    found = {(dist.metadata["Name"] or "").lower(): dist.version for dist in metadata.distributions()}
    return dict(sorted((name, version) for name, version in found.items() if name))


def machine() -> dict[str, Any]:
    """System, CPU model, logical cores this process may use, and memory in bytes."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": cores(),
        "memory": psutil.virtual_memory().total,
    }


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """The CPU's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()

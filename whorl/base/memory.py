"""How much memory this process may still take: the machine's, or what its container leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
NO_LIMIT = 1 << 60  # bytes; cgroup 1 writes a number this large where there is none


@dataclass(frozen=True)
class _Files:
    """What a version of Linux's control groups calls its files."""

    limit: str
    used: str
    reclaimable: str  # of memory.stat: files' pages that the kernel gives up when memory is asked for


FIRST = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
SECOND = _Files("memory.max", "memory.current", "inactive_file")


def available_memory(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes that can be taken without swapping, within the limits of every control group."""
    left = [psutil.virtual_memory().available]
    for folder, files in _groups(root, membership):
        limit, used = _number(folder / files.limit), _number(folder / files.used)
        if limit is not None and used is not None:
            left.append(max(0, limit - used + _reclaimable(folder, files)))
    return min(left)


def cgroup_limit(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int | None:
    """Bytes a container is held to, None where it is not."""
    limits = [_number(folder / files.limit) for folder, files in _groups(root, membership)]
    return min((limit for limit in limits if limit is not None), default=None)


def _groups(root: Path, membership: Path) -> Iterator[tuple[Path, _Files]]:
    """This process's memory groups and those around them, as far as they are seen from here."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines or ["0::/"]:
        number, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        if number == "0":
            yield from _upwards(root, own, SECOND)
        elif "memory" in controllers.split(","):
            yield from _upwards(root / "memory", own, FIRST)


def _upwards(top: Path, own: str, files: _Files) -> Iterator[tuple[Path, _Files]]:
    """A group that is not seen from here (another namespace's name) is taken for the top."""
    folder = top / own.strip("/")
    if ".." in own or not folder.is_dir():
        folder = top
    yield folder, files
    while folder != top:
        folder = folder.parent
        yield folder, files


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < NO_LIMIT else None  # or "max"


def _reclaimable(folder: Path, files: _Files) -> int:
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{files.reclaimable} "))

"""Folders on their way: each is made under a hidden name and takes its own when it is whole."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import psutil

# What exports, dumps and backups hold first: a folder with anything else is not ours to remove.
_OURS = re.compile(
    r"arena_\w+\.jsonl|(?:preferences|conversations|traces)\.jsonl|(?:whorl-backup|manifest)\.json|store|files"
)


def fresh(target: Path) -> Path:
    """An empty folder for what will be `target`, for its owner's eyes alone. What processes that were killed
    left beside it, with what people said in it, goes."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    for other in part.parent.glob(".*.part"):
        number = re.fullmatch(r"\..+\.(\d+)\.part", other.name)
        if number is None or other.is_symlink() or not other.is_dir():
            continue
        ours = all(_OURS.fullmatch(entry.name) for entry in other.iterdir())
        if ours and not psutil.pid_exists(int(number[1])):
            shutil.rmtree(other, ignore_errors=True)
    return part

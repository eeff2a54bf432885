"""What `whorl quickstart` can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whorl.base.config import Config


class QuickstartConfig(Config):
    """The whole loop on this machine, fitted into a time."""

    minutes: float = Field(default=10.0, gt=0)
    """Minutes the run may take on this machine up to its figures; the round trip may take 50 % more."""
    data: tuple[str, ...] = ()
    """Your own files, folders and globs; none: Python's own documentation and sources."""
    workspace: str = ""
    """The folder for `runs/`; default: $WHORL_WORKSPACE, else the current directory."""
    name: str = "quickstart"
    """The run's name: `runs/<name>/`. An unfinished run of this name is resumed."""
    fresh: bool = False
    """Start over; an earlier run of this name is renamed to `<name>-1`, `-2`, …"""
    cases: int = Field(default=360, ge=1)
    """Maximum held-out cases per task, and maximum held-out documents; fewer are quicker but less precise."""
    no_round_trip: bool = False
    """Skip what follows the figures: the arena, DPO on its votes, and the new model in the arena."""
    no_serve: bool = False
    """On a terminal the run ends by starting the studio and the model's API on free ports; this skips
    that."""
    seed: int = Field(default=0, ge=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"

"""What `whorl quickstart` can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whorl.base.config import Config


class QuickstartConfig(Config):
    """The whole loop on this machine, fitted into a time."""

    minutes: float = Field(default=10.0, gt=0)
    """How long the run may take on this machine up to its figures; the round trip has half as long again."""
    data: tuple[str, ...] = ()
    """Your own files, folders and globs; none: the documentation and sources that came with Python."""
    workspace: str = ""
    """Where `runs/` is; default $WHORL_WORKSPACE, else the current directory."""
    name: str = "quickstart"
    """The run's name: `runs/<name>/`. An unfinished run of this name goes on."""
    fresh: bool = False
    """Begin anew: an earlier run of this name is put aside as `<name>-1`, `-2`, …"""
    cases: int = Field(default=360, ge=1)
    """Held-out cases of each task, and documents, at most; fewer are quicker and say less."""
    no_round_trip: bool = False
    """Leave out what follows the figures: the arena, DPO on its votes, and the new model in the arena."""
    no_serve: bool = False
    """On a terminal the run ends with the studio and its model's API on free ports; this leaves that out."""
    seed: int = Field(default=0, ge=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"

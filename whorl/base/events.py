"""Every kind of event a run can write, with its fields: the one place where they are listed.

`Logbook.event("checkpoint", step=40, path=…)` checks the kind and the fields against this file. To
add a kind, add a class here and name it in `KINDS`; a field may only be added with a default, since
older runs do not have it. `step` is the number of optimiser steps done when the event happened.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from whorl.base.config import Config


class Start(Config):
    """A process began to work on this run; with `resume` after it, it went on with an earlier one's."""

    command: list[str]
    """The command line."""
    whorl: str
    commit: str
    """Git commit of the code, empty outside a repository; `code` tells whether it was changed."""
    dirty: bool
    code: str
    """SHA-256 over the package's source files."""
    data: dict[str, str]
    """Name of each input → hash of its content (a dataset's manifest, a model's weights)."""
    dependencies: str
    """SHA-256 of `versions`."""
    versions: dict[str, str]
    """Installed distributions and their versions."""
    python: str
    machine: dict[str, Any]
    """System, CPU, cores, memory in bytes."""


class Measured(Config):
    """A choice made by measuring this machine; kept, and not measured again on resume."""

    what: str
    """What was chosen between: dtype, kernel, compile, threads …"""
    choice: str
    figures: dict[str, float] = {}
    """Candidate → its figure, in `unit`."""
    unit: str = ""
    reason: str = ""


class Compiled(Config):
    """torch.compile has built the step."""

    seconds: float
    graphs: int = 0


class Stage(Config):
    """A part of a longer run began or ended."""

    name: str
    state: str = "end"
    """"begin" or "end"."""
    seconds: float = 0.0
    budget: float = 0.0
    """Seconds it was meant to take."""
    memory: int = 0
    """Peak bytes of the process tree."""
    text: str = ""


class Data(Config):
    """What goes into the run: counts by name (documents, tokens, cut, dropped …)."""

    name: str
    counts: dict[str, float] = {}
    hash: str = ""


class Validated(Config):
    """Held-out figures after `step` steps; the same values are in metrics.jsonl."""

    step: int
    values: dict[str, float]


class Sample(Config):
    """What the model says to a prompt after `step` steps."""

    step: int
    prompt: str
    reply: str


class Checkpoint(Config):
    """A whole checkpoint is on disk."""

    step: int
    path: str
    bytes: int = 0
    seconds: float = 0.0


class Damaged(Config):
    """A checkpoint (or other file) did not match its hash and was not used."""

    path: str
    reason: str


class Resume(Config):
    """The run goes on from `step`; metrics past it are superseded."""

    step: int
    checkpoint: str = ""


class Torn(Config):
    """A file's last line had been cut short by a crash and was removed."""

    file: str
    bytes: int


class Signal(Config):
    """All ranks agreed to save and leave."""

    step: int
    signal: str
    rank: int = 0


class Fault(Config):
    """Something failed and the run went on or ended: lost rank, full disk, loss not a number."""

    text: str
    step: int = -1


class Note(Config):
    """A line worth keeping with the run."""

    text: str
    step: int = -1


class Result(Config):
    """A measured figure of the model this run made."""

    name: str
    value: float
    unit: str = ""
    error: float = 0.0
    """Standard error, in `unit`."""
    cases: int = 0
    floor: float | None = None
    """What it should at least be (at most, where `lower_is_better`)."""
    lower_is_better: bool = False


class Exported(Config):
    """A model or adapter directory was written."""

    path: str
    weights: str = ""
    """Weight version: hash of the safetensors manifest."""
    adapter: str = ""
    """An adapter's version: hash of its files."""
    step: int = -1


class Finish(Config):
    """The run ended by itself; `reason` is "done", "signal", "budget" or "fault"."""

    reason: str = "done"
    step: int = -1
    seconds: float = 0.0


KINDS: dict[str, type[Config]] = {
    "start": Start,
    "measured": Measured,
    "compiled": Compiled,
    "stage": Stage,
    "data": Data,
    "validated": Validated,
    "sample": Sample,
    "checkpoint": Checkpoint,
    "damaged": Damaged,
    "resume": Resume,
    "torn": Torn,
    "signal": Signal,
    "fault": Fault,
    "note": Note,
    "result": Result,
    "exported": Exported,
    "finish": Finish,
}


def check_event(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an event with its defaults filled in. A wrong kind or field is a bug in the
    caller: `TypeError`."""
    if kind not in KINDS:
        raise TypeError(
            f"no event kind {kind!r}; kinds are listed in whorl/base/events.py: {', '.join(KINDS)}"
        )
    try:
        return KINDS[kind].model_validate(fields).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise TypeError(f"event {kind!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error

"""What a run chose when it began: dtype, kernels, compilation, threads. Measured once, kept in the run.

A resumed run reads run/choices.json and measures nothing, so that it goes on bit for bit; where this
machine can no longer do what was chosen, that is said in a line.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from whorl.base.errors import DataError, InputError
from whorl.base.files import read_json, write_json
from whorl.base.logbook import Logbook
from whorl.base.progress import say
from whorl.kernels import native
from whorl.kernels.device import compiler_available
from whorl.models.config import ModelConfig
from whorl.parallel.group import Group
from whorl.train.config import TrainConfig
from whorl.train.measure import measure_rates

FORMAT = 1
FILE = "choices.json"


@dataclass(frozen=True)
class Choices:
    """Everything besides the seed and the data that a loss depends on in its last bits."""

    device: str  # kind: cpu, cuda, mps
    dtype: str
    compile: bool
    threads: int  # of each rank
    kernel: str  # "native", or why the portable kernels run
    world: int
    torch: str
    rates: dict[str, float] = field(default_factory=dict)  # dtype → FLOP/s of the model's widest matmul


def decide(
    model: ModelConfig,
    tokens: int,
    config: TrainConfig,
    device: torch.device,
    logbook: Logbook,
    group: Group,
) -> Choices:
    """The run's choices: those it began with, or measured now; every rank has the same.

    `tokens` is a batch's length. Explicit settings in `config` win over what is kept. Sets the number
    of threads.
    """
    kept = group.first(_read(logbook.path))
    same_ranks = kept is not None and kept.world == group.world
    threads = group.first(kept.threads if kept is not None and same_ranks else _own_threads(group))
    torch.set_num_threads(threads)
    candidates = ["float32", "bfloat16"] if config.dtype == "auto" else [config.dtype]
    known = dict(kept.rates) if kept is not None else {}
    if kept is not None and config.dtype == "auto":
        candidates = [kept.dtype]
    if missing := [name for name in candidates if name not in known]:
        group.barrier()  # so that the ranks measure while the others do too, as they will train
        known |= group.first(measure_rates(model, tokens, missing, device))
    dtype = max(candidates, key=lambda name: known[name])
    wanted = config.compile == "on" if config.compile != "auto" else kept.compile if kept else True
    compiler = _compiler(device) if wanted else None
    if wanted and compiler is None and config.compile == "on":
        raise InputError("train.compile is on, but no C++ compiler was found; install g++ or set it to auto")
    choices = Choices(
        device=device.type, dtype=dtype, compile=group.first(compiler is not None), threads=threads,
        kernel=group.first(native.status()), world=group.world, torch=str(torch.__version__), rates=known,
    )  # fmt: skip
    _tell(kept, choices, logbook, config)
    if choices != kept:
        _write(choices, logbook, group)
    return choices


def without_compile(choices: Choices, reason: str, logbook: Logbook, group: Group) -> Choices:
    """The compiler failed: the run goes on eagerly, now and when it is resumed."""
    say(f"running eagerly: torch.compile failed ({reason}); check the C++ compiler with whorl doctor")
    logbook.event("measured", what="compile", choice="off", reason=reason)
    choices = replace(choices, compile=False)
    _write(choices, logbook, group)
    return choices


def _write(choices: Choices, logbook: Logbook, group: Group) -> None:
    if group.rank == 0 and logbook.path is not None:
        write_json(logbook.path / FILE, {"format": FORMAT, **asdict(choices)})


def _own_threads(group: Group) -> int:
    """As many as the person asked for, else this machine's cores shared out among its ranks."""
    if "OMP_NUM_THREADS" in os.environ or group.local_world == 1:
        return torch.get_num_threads()
    return max(1, torch.get_num_threads() // group.local_world)


def _compiler(device: torch.device) -> str | None:
    return compiler_available() if device.type == "cpu" else "triton"


def _read(run: Path | None) -> Choices | None:
    if run is None or not (run / FILE).exists():
        return None
    place = run / FILE
    found: dict[str, Any] = read_json(place)
    if found.pop("format", FORMAT) > FORMAT:
        raise InputError(f"{place} was written by a newer Whorl; upgrade whorl")
    try:
        return Choices(**found)
    except TypeError as error:
        raise DataError(
            f"{place} is not a valid record of a run's choices ({error}); remove it to measure again"
        ) from error


def _tell(kept: Choices | None, now: Choices, logbook: Logbook, config: TrainConfig) -> None:
    if kept is not None:
        before, after = replace(kept, rates={}), replace(now, rates={})
        changed = [
            f"{name} {old} → {getattr(after, name)}"
            for name, old in asdict(before).items()
            if old != getattr(after, name)
        ]
        if changed:
            text = (
                "the run began with other choices, so its losses continue only within rounding:"
                f" {', '.join(changed)}"
            )
            say(text)
            logbook.event("note", text=text)
        return
    figures = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in now.rates.items())
    say(f"matmul {figures} GFLOP/s: {now.dtype}")
    logbook.event("measured", what="dtype", choice=now.dtype, figures=now.rates, unit="FLOP/s of matmul")
    reason = "" if now.compile else "asked for" if config.compile == "off" else "no C++ compiler was found"
    if not now.compile and config.compile != "off":
        say(f"running eagerly: {reason}; install g++ for a faster step")
    logbook.event("measured", what="compile", choice="on" if now.compile else "off", reason=reason)
    logbook.event("measured", what="kernel", choice=now.kernel)
    logbook.event("measured", what="threads", choice=str(now.threads))

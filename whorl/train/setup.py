"""Everything a run decides before its first step: device, dtype, compilation, wrapping, optimisers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from whorl.base.errors import InputError
from whorl.base.logbook import Logbook
from whorl.base.progress import say
from whorl.data.batch import Batch
from whorl.data.batches import Batches
from whorl.kernels.device import choose_device, compiler_available
from whorl.models.decoder import Decoder
from whorl.parallel.group import Group
from whorl.parallel.wrap import gradient_sync, wrap
from whorl.train.batches import MicroBatch
from whorl.train.config import TrainConfig
from whorl.train.measure import choose_dtype, flops_per_token
from whorl.train.objectives import Objective
from whorl.train.optim import build_optimisers


@dataclass
class Setup:
    """A model made ready: `wrapped` is what forwards go through, `model` what holds the weights."""

    model: Decoder
    wrapped: nn.Module
    optimisers: list[torch.optim.Optimizer]
    device: torch.device
    dtype: torch.dtype
    compiled: bool
    matmul_rate: float  # FLOP/s at `dtype`, all ranks together
    flops_per_token: float
    gradient_sync: Callable[[bool], AbstractContextManager[None]]


def prepare(
    model: Decoder,
    batches: Batches,
    objective: Objective,
    config: TrainConfig,
    logbook: Logbook,
    group: Group,
    measured: dict[str, str] | None = None,
) -> Setup:
    """Measure, wrap, compile. `measured` holds an earlier start's choices, which a resumed run keeps."""
    device = _device(config, group)
    example = batches.micro(0)
    kept = measured or {}
    forced = config.model_copy(update={"dtype": kept["dtype"]}) if "dtype" in kept else config
    dtype, rates = choose_dtype(model.config, batches.length, forced, device)
    name = str(dtype).removeprefix("torch.")
    if "dtype" not in kept:
        logbook.event("measured", what="dtype", choice=name, figures=rates, unit="FLOP/s of matmul")
        say(f"matmul {', '.join(f'{key} {rate / 1e9:.0f}' for key, rate in rates.items())} GFLOP/s: {name}")
    model.to(device).train()
    model.compute_dtype = dtype
    compiled = kept["compile"] == "on" if "compile" in kept else _wants_compile(config, logbook, device)
    wrapped = wrap(model, config.parallel, device, group)
    if compiled:
        _compile(model, wrapped, objective, example, device, logbook)
    return Setup(
        model=model,
        wrapped=wrapped,
        optimisers=build_optimisers(model, config.optim),
        device=device,
        dtype=dtype,
        compiled=compiled,
        matmul_rate=rates[name] * group.world,
        flops_per_token=flops_per_token(model.config, _mean_length(example)),
        gradient_sync=lambda last: gradient_sync(wrapped, last),
    )


def _device(config: TrainConfig, group: Group) -> torch.device:
    device = choose_device(None if config.device == "auto" else config.device)
    return torch.device(device.type, group.local_rank) if device.type == "cuda" else device


def _wants_compile(config: TrainConfig, logbook: Logbook, device: torch.device) -> bool:
    if config.compile == "off":
        return False
    compiler = compiler_available() if device.type == "cpu" else "triton"
    if compiler is None and config.compile == "on":
        raise InputError("train.compile is on, but no C++ compiler is found; install g++ or set it to auto")
    choice = "off" if compiler is None else "on"
    reason = "no C++ compiler is found; install g++ for a faster step" if compiler is None else str(compiler)
    logbook.event("measured", what="compile", choice=choice, reason=reason)
    if compiler is None:
        say(f"running eagerly: {reason}")
    return compiler is not None


def _compile(
    model: Decoder,
    wrapped: nn.Module,
    objective: Objective,
    example: Batch,
    device: torch.device,
    logbook: Logbook,
) -> None:
    """Compile each block (one graph serves all blocks of a shape) and run one step's worth to build it."""
    started = time.perf_counter()
    for layer in model.layers:
        layer.compile()
    loss = objective(wrapped, MicroBatch.of(example, device))
    (loss * 0.0).backward()
    model.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    logbook.event("compiled", seconds=seconds)
    say(f"compiled the step in {seconds:.0f} s")


def _mean_length(batch: Batch) -> float:
    """Mean context a token of the batch belongs to."""
    lengths = batch.lengths.astype(float)
    return float((lengths * lengths).sum() / lengths.sum())

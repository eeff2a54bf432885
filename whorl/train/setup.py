"""Everything a run decides before its first step: device, dtype, compilation, wrapping, optimisers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from whorl.base.errors import FaultError, InputError
from whorl.base.logbook import Logbook
from whorl.base.posix import keep_freed_memory
from whorl.base.progress import say
from whorl.data.batch import Batch
from whorl.data.batches import Batches
from whorl.kernels.device import choose_device, make_linkable
from whorl.models.decoder import Decoder
from whorl.parallel.group import Group
from whorl.parallel.wrap import gradient_sync, wrap
from whorl.train.batches import MicroBatch
from whorl.train.choices import Choices, decide, without_compile
from whorl.train.config import TrainConfig
from whorl.train.measure import flops_per_token
from whorl.train.objectives import Objective, loss_and_figures
from whorl.train.optim import build_optimisers


@dataclass
class Setup:
    """A model made ready: `wrapped` is what forwards go through, `model` what holds the weights."""

    model: Decoder
    wrapped: nn.Module
    optimisers: list[torch.optim.Optimizer]
    device: torch.device
    choices: Choices
    frozen: str  # hash of the weights that are not trained
    matmul_rate: float  # FLOP/s at the chosen dtype, all ranks together
    flops_per_token: float
    gradient_sync: Callable[[bool], AbstractContextManager[None]]


def prepare(
    model: Decoder,
    batches: Batches,
    objective: Objective,
    config: TrainConfig,
    logbook: Logbook,
    group: Group,
) -> Setup:
    """Choose or keep the run's choices, wrap, compile. A null logbook keeps none."""
    keep_freed_memory()
    device = run_device(config, group)
    example = batches.micro(0)
    choices = decide(model.config, batches.length, config, device, logbook, group)
    model.to(device).train()
    model.compute_dtype = getattr(torch, choices.dtype)
    frozen = hash_frozen(model)
    wrapped = wrap(model, config.parallel, device, group)
    if choices.compile and (failure := _compile(model, wrapped, objective, example, device, logbook)):
        if config.compile == "on" or group.world > 1:  # one rank alone cannot change its mind
            raise FaultError(f"torch.compile failed ({failure}); train with --train.compile off")
        choices = without_compile(choices, failure, logbook, group)
    return Setup(
        model=model,
        wrapped=wrapped,
        optimisers=build_optimisers(model, config.optim),
        device=device,
        choices=choices,
        frozen=frozen,
        matmul_rate=choices.rates[choices.dtype] * group.world,
        flops_per_token=flops_per_token(model.config, _mean_length(example)),
        gradient_sync=lambda last: gradient_sync(wrapped, last),
    )


def run_device(config: TrainConfig, group: Group) -> torch.device:
    """This rank's device; `InputError` where there are more ranks than GPUs."""
    device = choose_device(None if config.device == "auto" else config.device)
    if device.type != "cuda":
        return device
    if group.local_rank >= torch.cuda.device_count():
        raise InputError(
            f"{group.local_world} processes were requested, but this machine has {torch.cuda.device_count()}"
            " GPUs; lower --gpus, or train on the CPU with --train.device cpu"
        )
    torch.cuda.set_device(group.local_rank)
    return torch.device("cuda", group.local_rank)


def hash_frozen(model: Decoder) -> str:
    """SHA-256 of the weights that are not trained, hence not in a checkpoint; "" where there are none."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest() if any(not p.requires_grad for p in model.parameters()) else ""


def _compile(
    model: Decoder,
    wrapped: nn.Module,
    objective: Objective,
    example: Batch,
    device: torch.device,
    logbook: Logbook,
) -> str:
    """Compile each block (one graph serves all blocks of a shape) and the last norm, and run one
    step's worth to build them. Returns why that failed, if so; everything is eager again then."""
    from torch._dynamo.exc import TorchDynamoException  # a second to import
    from torch._inductor.exc import CppCompileError, InductorError

    started = time.perf_counter()
    make_linkable()
    parts = [part for part in (*model.layers, model.final_norm) if part is not None]
    for part in parts:
        part.compile()
    try:
        loss, _ = loss_and_figures(objective(wrapped, MicroBatch.of(example, device)))
        (loss * 0.0).backward()
    except (TorchDynamoException, InductorError, CppCompileError) as error:
        for part in parts:
            part._compiled_call_impl = None
        torch._dynamo.reset()
        return _first_line(error)
    finally:
        model.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    logbook.event("compiled", seconds=seconds)
    say(f"compiled the step in {seconds:.0f} s")
    return ""


def _first_line(error: Exception) -> str:
    """What went wrong, without torch's advice around it."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _mean_length(batch: Batch) -> float:
    """Mean context a token of the batch belongs to."""
    lengths = batch.lengths.astype(float)
    return float((lengths * lengths).sum() / lengths.sum())

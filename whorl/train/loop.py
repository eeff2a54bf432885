"""The one training loop: pre-training, chat training, preferences and adapters differ in their batches and
objective alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from whorl.base.errors import DataError, InputError
from whorl.base.logbook import Logbook
from whorl.base.progress import progress, say
from whorl.data.batch import Batch
from whorl.data.batches import Batches, prefetch
from whorl.models.decoder import Decoder
from whorl.parallel.group import Group
from whorl.parallel.wrap import is_sharded, reshard
from whorl.train.batches import MicroBatch, seed_forward
from whorl.train.checkpoint import Checkpoints
from whorl.train.config import TrainConfig
from whorl.train.faults import LeaveSignals, check_finite, told
from whorl.train.objectives import Measure, Objective, likelihood, loss_and_figures
from whorl.train.optim import clip_gradients, set_lr
from whorl.train.schedule import lr_share
from whorl.train.setup import Setup, prepare

Sampler = Callable[[Decoder], Sequence[tuple[str, str]]]
"""model → (prompt, reply) pairs, shown while training."""


@dataclass
class TrainState:
    """Where a run stands: what is saved, and what `fit` returns."""

    step: int = 0
    tokens: int = 0  # target tokens learnt from
    loss: float = float("nan")  # the last step's, divided by its weight
    validation_loss: float = float("nan")
    left: str = ""  # the signal the run left on, "" when it ended
    losses: list[float] = field(default_factory=list)  # of this process's steps


def fit(
    model: Decoder,
    batches: Batches,
    objective: Objective,
    config: TrainConfig,
    logbook: Logbook,
    *,
    validation: Sequence[Batch] = (),
    measure: Measure = likelihood,
    sample: Sampler | None = None,
) -> TrainState:
    """Train `model` in place for `config.steps` steps, going on from the run's last checkpoint.

    Every loss is divided by the step's target weight over all micro-batches and ranks, so that
    accumulation and data parallelism equal the large batch. `measure` is what is asked about `validation`.
    Leaves early, saved, on SIGINT, SIGTERM or SIGUSR1 to any rank; the returned state's `left` then names
    the signal.
    """
    group = Group.current()
    if batches.steps is not None and batches.steps < config.steps:
        raise InputError(
            f"steps is {config.steps}, but the data ends after {batches.steps}; lower it or add epochs"
        )
    setup = prepare(model, batches, objective, config, logbook, group)
    checkpoints = Checkpoints(logbook, config, batches.fingerprint, setup, group)
    state = checkpoints.restore(TrainState())
    with (
        told(logbook, state, checkpoints),
        LeaveSignals(group) as leaving,
        prefetch(batches, state.step, rank=group.rank, world=group.world) as steps,
        progress(config.steps, "training", "steps", done=state.step) as bar,
    ):
        while state.step < config.steps:
            micro_batches = next(steps)
            started = time.perf_counter()
            values = train_step(setup, micro_batches, objective, config, state, group)
            values["tokens_per_second"] = values["tokens"] / (time.perf_counter() - started)
            values["matmul_share"] = values["tokens_per_second"] * setup.flops_per_token / setup.matmul_rate
            last = state.step == config.steps
            state.left = "" if last else leaving.agreed()  # at the end there is nothing to come back for
            if last or state.step % config.log_every == 0:
                logbook.metric(state.step, **values)
            if validation and (last or _due(state.step, config.eval_every)) and not state.left:
                figures = evaluate(setup, validation, group, measure)
                state.validation_loss = figures["loss"]
                logbook.metric(state.step, **{f"validation_{name}": figures[name] for name in figures})
            if sample is not None and _due(state.step, config.sample_every) and not state.left:
                _show_samples(model, sample, state.step, logbook, group)
            if last or state.left or _due(state.step, config.checkpoint_every):
                checkpoints.save(state)
            bar.advance(1, loss=values["loss"], lr=values["lr"], **{"tok/s": values["tokens_per_second"]})
            if state.left:
                logbook.event("signal", signal=state.left, step=state.step)
                say(f"{state.left}: saved at step {state.step}; run the same command to continue")
                break
    return state


def train_step(
    setup: Setup,
    batches: Sequence[Batch],
    objective: Objective,
    config: TrainConfig,
    state: TrainState,
    group: Group,
) -> dict[str, float]:
    """One optimiser step over this rank's micro-batches; returns what is worth recording.

    `DataError` where no rank has a target, `FaultError` where loss or gradient is not a number; either
    way the weights are as they were.
    """
    weight = group.sum(sum(batch.weight for batch in batches))
    if weight <= 0:
        raise DataError(f"step {state.step + 1} has no target tokens: every weight in its batches is 0")
    total, sums = 0.0, dict[str, float]()
    for number, batch in enumerate(batches):
        seed_forward(config.seed, state.step, group.rank + number * group.world)
        with setup.gradient_sync(number + 1 == len(batches)):
            result = objective(setup.wrapped, MicroBatch.of(batch, setup.device))
            loss, figures = loss_and_figures(result)
            (loss * (group.world / weight)).backward()  # the wrappers average over ranks
        total += float(loss.detach())
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    loss_mean = group.sum(total) / weight
    norm = clip_gradients(setup.model, config.optim.clip)
    check_finite(state.step + 1, loss_mean, norm)
    share = lr_share(state.step, config.steps, config.schedule)
    set_lr(setup.optimisers, share)
    for optimiser in setup.optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    state.step += 1
    state.tokens += round(group.sum(float(sum(np.count_nonzero(batch.weights) for batch in batches))))
    state.loss = loss_mean
    state.losses.append(loss_mean)
    tokens = group.sum(float(sum(len(batch.tokens) for batch in batches)))
    means = {name: group.sum(value) / weight for name, value in sums.items()}
    return {"loss": loss_mean, "lr": config.optim.lr * share, "grad_norm": norm, "tokens": tokens} | means


def evaluate(
    setup: Setup, batches: Sequence[Batch], group: Group, measure: Measure = likelihood
) -> dict[str, float]:
    """What `measure` says of the batches, divided by their weight; they are shared out among the ranks.

    It runs with gradients enabled and throws them away: under `no_grad` every compiled block would
    be compiled a second time. Past DDP's wrapper, which would wait for the backward.
    """
    sums, weight = dict[str, float](), 0.0
    with _without_dropout(setup.model):
        for number in range(group.rank, -(-len(batches) // group.world) * group.world, group.world):
            batch = batches[number] if number < len(batches) else Batch.empty(len(batches[0].tokens))
            micro = MicroBatch.of(batch, setup.device)
            for name, value in measure(setup.model, micro).items():
                sums[name] = sums.get(name, 0.0) + float(value)
            weight += batch.weight
    reshard(setup.model)
    whole = max(group.sum(weight), 1e-9)
    return {name: group.sum(value) / whole for name, value in sums.items()}


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Dropout off, and nothing else: a compiled model in eval mode would be built a second time."""
    layers = [module for module in model.modules() if isinstance(module, nn.Dropout) and module.p > 0]
    for layer in layers:
        layer.eval()
    yield
    for layer in layers:
        layer.train()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _show_samples(model: Decoder, sample: Sampler, step: int, logbook: Logbook, group: Group) -> None:
    """Rank 0 samples; of a sharded model every rank takes part. Eagerly: each length would be compiled."""
    if group.rank > 0 and not is_sharded(model):
        return
    model.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        pairs = list(sample(model))
    model.train()
    reshard(model)
    for prompt, reply in pairs:
        logbook.event("sample", step=step, prompt=prompt, reply=reply)
        say(f"  step {step}: {prompt} → {reply}")

"""The loop against slow references: accumulation, clipping, optimisers, schedules, faults."""

from __future__ import annotations

import math
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whorl.base.errors import DataError, FaultError, InputError
from whorl.base.logbook import Logbook, read_events, read_metrics, series
from whorl.data.batch import Batch
from whorl.models.config import LoraConfig
from whorl.models.decoder import Decoder
from whorl.parallel.group import Group
from whorl.train.batches import MicroBatch
from whorl.train.config import OptimConfig, ScheduleConfig
from whorl.train.loop import TrainState, evaluate, fit, train_step
from whorl.train.objectives import next_token
from whorl.train.optim import Muon, build_optimisers, clip_gradients, orthogonalise
from whorl.train.schedule import lr_share
from whorl.train.setup import prepare

sys.path.insert(0, str(Path(__file__).parent))
from tiny import LENGTH, TinyBatches, tiny_config, tiny_model


class Joined(TinyBatches):
    """The same step as one large micro-batch."""

    def __init__(self, parts: TinyBatches) -> None:
        super().__init__(1, parts.seed, parts.images)
        self.parts, self.length = parts, parts.length * parts.micro_batches

    def micro(self, number: int) -> Batch:
        found = self.parts.at(number)

        def joined(name: str) -> Any:
            return np.concatenate([getattr(batch, name) for batch in found])

        shift = np.arange(len(found)) * self.parts.length
        pixels = [batch.pixels for batch in found if batch.pixels is not None]
        return Batch(
            tokens=joined("tokens"), targets=joined("targets"), weights=joined("weights"),
            lengths=joined("lengths"), ids=tuple(name for batch in found for name in batch.ids),
            pixels=np.concatenate(pixels) if pixels else None, grids=joined("grids"),
            image_positions=np.concatenate(
                [batch.image_positions + at for batch, at in zip(found, shift, strict=True)]
            ),
        )  # fmt: skip


@pytest.mark.parametrize("images", [False, True])
def test_accumulation_equals_the_large_batch(images: bool) -> None:
    parts = TinyBatches(micro_batches=4, images=images)
    assert len({batch.weight for batch in parts.at(0)}) > 1
    models = [tiny_model(images=images) for _ in range(2)]
    states = [
        fit(model, batches, next_token, tiny_config(), Logbook.null())
        for model, batches in zip(models, (parts, Joined(parts)), strict=True)
    ]
    np.testing.assert_allclose(states[0].losses, states[1].losses, atol=1e-5)
    assert states[0].tokens == states[1].tokens
    for name, value in models[0].state_dict().items():
        torch.testing.assert_close(value, models[1].state_dict()[name], rtol=1e-3, atol=1e-4)


def test_loss_and_gradient_are_the_mean_over_target_tokens() -> None:
    batches, model = TinyBatches(), tiny_model()
    setup = prepare(model, batches, next_token, tiny_config(), Logbook.null(), Group())
    losses, weights = [], []
    with torch.no_grad():
        for batch in batches.at(0):
            micro = MicroBatch.of(batch, torch.device("cpu"))
            logits = model.logits(model(micro.tokens, micro.context)).double()
            losses.append(torch.nn.functional.cross_entropy(logits, micro.targets, reduction="none"))
            weights.append(micro.weights.double())
    loss, weight = torch.cat(losses), torch.cat(weights)
    values = train_step(setup, batches.at(0), next_token, tiny_config(), TrainState(), Group())
    assert values["loss"] == pytest.approx(float((loss * weight).sum() / weight.sum()), rel=1e-6)


def test_a_batch_of_weight_zero_changes_nothing() -> None:
    class Padded(TinyBatches):
        def at(self, step: int, *, rank: int = 0, world: int = 1) -> list[Batch]:
            return [*super().at(step), Batch.empty(self.length)]

    plain = fit(tiny_model(), TinyBatches(), next_token, tiny_config(), Logbook.null())
    padded = fit(tiny_model(), Padded(), next_token, tiny_config(), Logbook.null())
    assert plain.losses == padded.losses


def test_a_step_without_targets_is_an_error_that_names_it() -> None:
    class Empty(TinyBatches):
        def micro(self, number: int) -> Batch:
            return super().micro(number) if number < 8 else Batch.empty(LENGTH)

    with pytest.raises(DataError, match="step 3 has no target tokens"):
        fit(tiny_model(), Empty(), next_token, tiny_config(), Logbook.null())


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    def diverging(model: torch.nn.Module, batch: MicroBatch) -> torch.Tensor:
        calls.append(0)
        loss = next_token(model, batch)
        return loss * math.nan if len(calls) > 4 * 7 else loss

    calls: list[int] = []
    model = tiny_model()
    with Logbook(tmp_path) as logbook, pytest.raises(FaultError) as error:
        fit(model, TinyBatches(), diverging, tiny_config(checkpoint_every=5), logbook)
    text = str(error.value)
    assert "the loss of step 8 is nan" in text and "step-00000005 is saved" in text
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    faults = [event for event in read_events(tmp_path) if event["kind"] == "fault"]
    assert len(faults) == 1 and faults[0]["step"] == 7
    state = fit(tiny_model(), TinyBatches(), next_token, tiny_config(), Logbook(tmp_path))
    assert state.step == 20 and len(state.losses) == 15


def test_data_that_ends_too_soon_is_said_before_training() -> None:
    batches = TinyBatches()
    batches.total = 40
    with pytest.raises(InputError, match="steps is 20, but the data ends after 10"):
        fit(tiny_model(), batches, next_token, tiny_config(), Logbook.null())


def test_validation_and_samples_are_recorded(tmp_path: Path) -> None:
    batches = TinyBatches()
    held_out = [batches.micro(10**6 + number) for number in range(3)]
    config = tiny_config(eval_every=8, sample_every=10)

    def sample(model: Decoder) -> list[tuple[str, str]]:
        assert not model.training and not torch.is_grad_enabled()
        return [("1 2 3", "4")]

    model = tiny_model()
    with Logbook(tmp_path) as logbook:
        state = fit(model, batches, next_token, config, logbook, validation=held_out, sample=sample)
    steps, values = series(read_metrics(tmp_path), "validation_loss")
    assert steps == [8, 16, 20] and values[-1] == state.validation_loss < values[0]
    samples = [event for event in read_events(tmp_path) if event["kind"] == "sample"]
    assert [(event["step"], event["reply"]) for event in samples] == [(10, "4"), (20, "4")]
    weight, total = 0.0, 0.0
    for batch in held_out:
        micro = MicroBatch.of(batch, torch.device("cpu"))
        with torch.no_grad():
            total += float(next_token(model, micro))
        weight += batch.weight
    assert state.validation_loss == pytest.approx(total / weight, rel=1e-5)


def test_validation_is_without_dropout() -> None:
    batches, model = TinyBatches(), tiny_model(lora=LoraConfig(rank=4, dropout=0.5))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_b" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    setup = prepare(model, batches, next_token, tiny_config(), Logbook.null(), Group())
    held_out = batches.at(0)
    assert evaluate(setup, held_out, Group()) == evaluate(setup, held_out, Group())
    assert all(module.training for module in model.modules())


@pytest.mark.soak  # compiling takes most of a minute
def test_compiled_equals_eager_to_rounding() -> None:
    from whorl.kernels.device import compiler_available

    if compiler_available() is None:
        pytest.skip("no C++ compiler was found")
    few = tiny_config(steps=3, compile="on")
    compiled = fit(tiny_model(n_layers=1), TinyBatches(), next_token, few, Logbook.null())
    eager = fit(tiny_model(n_layers=1), TinyBatches(), next_token, tiny_config(steps=3), Logbook.null())
    np.testing.assert_allclose(compiled.losses, eager.losses, atol=1e-4)


# -- clipping and optimisers ----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.0, 0.5, 1e6])
def test_clipping_against_the_formula(limit: float) -> None:
    layer = torch.nn.Linear(5, 3)
    for number, parameter in enumerate(layer.parameters()):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    before = torch.cat([p.grad.flatten() for p in layer.parameters()])
    norm = float(before.double().norm())
    assert clip_gradients(layer, limit) == pytest.approx(norm, rel=1e-6)
    after = torch.cat([p.grad.flatten() for p in layer.parameters()])
    scale = min(1.0, limit / (norm + 1e-6)) if limit else 1.0
    torch.testing.assert_close(after, before * scale)


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (20, 20)])
def test_orthogonalise_moves_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    x = values / matrix.double().norm()
    for _ in range(5):  # the quintic acts on each singular value alone
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    expected = u @ torch.diag(x) @ v
    found = orthogonalise(matrix[None], torch.float32)[0]
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    assert torch.linalg.svdvals(found)[: min(shape) - 2].min() > 0.3


def test_muon_against_torch_and_a_slow_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(24, 8, generator=generator)
    gradients = [torch.randn(24, 8, generator=generator) for _ in range(5)]
    mine = torch.nn.Parameter(start.clone())
    optimiser = Muon([mine], lr=0.02, momentum=0.95, weight_decay=0.1, dtype=torch.float32)
    weight, momentum = start.double(), torch.zeros(24, 8).double()
    for gradient in gradients:
        mine.grad = gradient.clone()
        optimiser.step()
        momentum = 0.95 * momentum + 0.05 * gradient.double()
        nesterov = 0.05 * gradient.double() + 0.95 * momentum
        update = orthogonalise(nesterov[None], torch.float64)[0]
        weight = weight * (1 - 0.02 * 0.1) - 0.02 * (24 / 8) ** 0.5 * update
    torch.testing.assert_close(mine.detach().double(), weight, atol=1e-5, rtol=1e-5)
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon of its own")
    theirs = torch.nn.Parameter(start.clone())
    other = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.1, nesterov=True)
    for gradient in gradients:
        theirs.grad = gradient.clone()
        other.step()
    torch.testing.assert_close(mine.detach(), theirs.detach(), atol=5e-3, rtol=0)  # theirs iterates in bf16


def test_who_gets_which_optimiser() -> None:
    model = tiny_model(images=True, tied=False)
    names = {parameter: name for name, parameter in model.named_parameters()}

    def of(group: dict[str, Any]) -> set[str]:
        return {names[parameter] for parameter in group["params"]}

    adamw, muon = build_optimisers(model, OptimConfig(lr=1e-3, muon_lr=2e-2, weight_decay=0.1))
    decayed, plain = adamw.param_groups
    assert of(decayed) == {"head.weight", "projector.first.weight", "projector.second.weight"}
    assert decayed["weight_decay"] == 0.1 and plain["weight_decay"] == 0
    assert {"embed.weight", "final_norm.weight", "vision.patch_embed.weight"} <= of(plain)
    matrices = of(muon.param_groups[0])
    assert "layers.0.attention.q.weight" in matrices and "vision.layers.0.mlp.up.weight" in matrices
    assert of(decayed) | of(plain) | matrices == set(names.values())
    adapted = tiny_model(lora=LoraConfig(rank=2))
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    names = {parameter: name for name, parameter in adapted.named_parameters()}
    (only,) = build_optimisers(adapted, OptimConfig())
    assert set().union(*(of(group) for group in only.param_groups)) == trainable


# -- schedules ------------------------------------------------------------------------------------


def test_schedules_at_their_corners() -> None:
    def shares(**given: Any) -> list[float]:
        return [lr_share(step, 100, ScheduleConfig(**given)) for step in range(101)]

    wsd = shares(name="wsd", warmup=10, decay=0.4, floor=0.1)
    assert wsd[0] == pytest.approx(0.1) and wsd[9] == wsd[10] == wsd[60] == 1.0
    assert wsd[80] == pytest.approx(0.1 + 0.9 * 0.5) and wsd[100] == pytest.approx(0.1)
    cosine = shares(name="cosine", warmup=20, floor=0.0)
    assert cosine[20] == 1.0 and cosine[60] == pytest.approx(0.5) and cosine[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(cosine[20:]))
    assert shares(name="constant", warmup=0) == [1.0] * 101


def test_the_rates_used_are_the_schedules(tmp_path: Path) -> None:
    config = tiny_config(optim={"lr": 1e-3}, schedule={"name": "cosine", "warmup": 4})
    with Logbook(tmp_path) as logbook:
        fit(tiny_model(), TinyBatches(), next_token, config, logbook)
    _, rates = series(read_metrics(tmp_path), "lr")
    assert rates == [1e-3 * lr_share(step, 20, config.schedule) for step in range(20)]


def test_a_signal_at_the_last_step_finds_the_run_done(tmp_path: Path) -> None:
    def sample(model: Decoder) -> list[tuple[str, str]]:
        signal.raise_signal(signal.SIGTERM)
        return []

    def at(step: int, path: Path) -> TrainState:
        config = tiny_config(steps=6, sample_every=step)
        with Logbook(path) as logbook:
            return fit(tiny_model(), TinyBatches(), next_token, config, logbook, sample=sample)

    early = at(4, tmp_path / "early")
    assert early.left == "SIGTERM" and early.step == 5  # the step after the one in flight
    late = at(5, tmp_path / "late")
    assert late.left == "" and late.step == 6

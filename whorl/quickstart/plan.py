"""How big a model, how many steps: the machine is measured and the time shared out before training."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace

import numpy as np

from whorl.base.logbook import Logbook
from whorl.base.progress import duration, say
from whorl.data.batch import Batch
from whorl.data.batches import Batches
from whorl.models.config import ModelConfig, VisionConfig
from whorl.models.decoder import Decoder
from whorl.models.init import init_weights
from whorl.parallel.group import Group
from whorl.quickstart.config import QuickstartConfig
from whorl.text.config import ImageConfig
from whorl.train.config import TrainConfig
from whorl.train.loop import TrainState, train_step
from whorl.train.measure import flops_per_token
from whorl.train.objectives import next_token
from whorl.train.setup import prepare

VOCABULARY = 4096
BATCH_TOKENS = 4096
SEQUENCE = 512
IMAGES = ImageConfig(patch_size=8, max_size=32, breaks=False)
# (d_model, layers, d_ff), the largest first. The first of MEASURED and those after it whose training
# fits is taken; the ones before it need twice the time to spare. A run that is too short for any but the last
# measures that one: measuring must not take longer than the run.
SHAPES = ((448, 8, 1216), (320, 6, 864), (256, 5, 704), (192, 4, 512))
MEASURED, SHORT_MINUTES = 1, 1.0
# Share of the run's time each part may take; what is left over is a margin for a noisy machine.
SHARES = {"data": 0.05, "pretrain": 0.17, "chat": 0.43, "figures": 0.13}
WANTED = {"pretrain": 800_000, "chat": 1_500_000}  # tokens below which the floors were not met in trials
MEASURED_STEPS, LEAST_STEPS = 7, 10
# Small layers use a machine less well: 2.65 times the tokens/s were seen at 3.36 times fewer FLOPs.
SMALLER = 0.8
# Of the time, for what surrounds the chat's steps (compiling, making samples, saving, a machine that turns
# slower meanwhile); and times the planned steps, which are more than enough where it turns out to be faster.
MARGIN, MOST_CHAT = 0.08, 2.0
# Half of a chat's tokens, its prompts, need no logits: 1.16 times pre-training's tokens/s were seen at the
# smallest shape, where these cost most.
CHAT_FASTER = 1.1
# The round trip comes on top: shares of the same time, and how many battles are fought in ten minutes' run.
ROUND_TRIP = {"arena": 0.08, "dpo": 0.06, "rematch": 0.06}
BATTLES = {"train": 200, "rate": 150, "rematch": 250}
USUAL_MINUTES, LEAST_BATTLES = 10.0, 6


@dataclass(frozen=True)
class Plan:
    """What will be done: the model's shape, the steps of each part, and the budget in seconds of each."""

    d_model: int
    layers: int
    d_ff: int
    pretrain_steps: int
    chat_steps: int
    tokens_per_second: float
    parameters: int
    dtype: str
    budget: dict[str, float]
    warning: str = ""

    def model(self, image_token: int, vocabulary: int = VOCABULARY) -> ModelConfig:
        return model_config((self.d_model, self.layers, self.d_ff), image_token, vocabulary)

    @property
    def minutes(self) -> float:
        """What the run was given when it was planned."""
        return self.budget["data"] / SHARES["data"] / 60

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def lines(self) -> list[str]:
        """What to expect, for people."""
        told = [
            f"model: {self.parameters / 1e6:.1f}M parameters, {self.layers} layers of {self.d_model}; "
            f"{self.tokens_per_second:,.0f} tokens/s measured",
            f"plan: {self.pretrain_steps} pre-training steps and {self.chat_steps} chat steps of "
            f"{BATCH_TOKENS:,} tokens; "
            + ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.budget.items()),
        ]
        return told + ([f"note: {self.warning}"] if self.warning else [])


@dataclass(frozen=True)
class RoundTripPlan:
    """The battles of each round, and the budget in seconds of each stage."""

    battles: dict[str, int]
    budget: dict[str, float]

    def line(self) -> str:
        """What comes on top, for people."""
        return (
            f"then the round trip, {duration(sum(self.budget.values()))} more: "
            + ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.budget.items())
            + f"; {sum(self.battles.values())} battles (--no-round-trip skips it)"
        )


def plan_chat(plan: Plan, spent: float, rate: float) -> Plan:
    """The plan with the chat steps that fit into the time left before the figures, `spent` seconds into the
    run, given the tokens/s that pre-training reached: a few steps measured beforehand may tell another rate
    than minutes of them."""
    rate *= CHAT_FASTER
    surroundings = MARGIN * 60 * plan.minutes
    left = 60 * plan.minutes - plan.budget["figures"] - spent
    fitting = int((left - surroundings) * rate / BATCH_TOKENS)
    steps = max(LEAST_STEPS, min(fitting, int(MOST_CHAT * plan.chat_steps)))
    budget = plan.budget | {"chat": steps * BATCH_TOKENS / rate + surroundings}
    return replace(plan, chat_steps=steps, budget=budget)


def plan_round_trip(minutes: float) -> RoundTripPlan:
    """For a run of so many minutes: shorter ones have fewer battles, longer ones no more."""
    share = min(1.0, minutes / USUAL_MINUTES)
    battles = {name: max(LEAST_BATTLES, round(share * count)) for name, count in BATTLES.items()}
    return RoundTripPlan(battles, {name: share * 60 * minutes for name, share in ROUND_TRIP.items()})


def model_config(shape: tuple[int, int, int], image_token: int, vocabulary: int = VOCABULARY) -> ModelConfig:
    """A Qwen3-shaped decoder with a small Pixtral tower: a llava directory that transformers loads."""
    d_model, layers, d_ff = shape
    heads = d_model // 64
    return ModelConfig(
        vocab_size=vocabulary, d_model=d_model, n_layers=layers, n_heads=heads, n_kv_heads=heads, head_dim=64,
        d_ff=d_ff, context=1024, qk_norm=True,
        vision=VisionConfig(
            d_model=96, n_layers=2, n_heads=3, head_dim=32, d_ff=256, patch_size=IMAGES.patch_size,
            image_size=IMAGES.max_size, image_token=image_token,
        ),
    )  # fmt: skip


def make_plan(config: QuickstartConfig, logbook: Logbook) -> Plan:
    """Measure one shape's training step, scale to the others by their FLOPs (to smaller ones by less), and
    take the largest that sees enough tokens in its time."""
    seconds = config.minutes * 60
    budget = {name: share * seconds for name, share in SHARES.items()}
    probed = MEASURED if config.minutes >= SHORT_MINUTES else len(SHAPES) - 1
    rate, dtype = measure(SHAPES[probed], config, logbook)
    measured_flops = _flops(SHAPES[probed])
    for number, shape in enumerate(SHAPES):
        spare = 2.0 if number < MEASURED else 1.0
        times = measured_flops / _flops(shape)
        scaled = rate * (times**SMALLER if times > 1 else times)
        enough = all(scaled * budget[name] >= spare * wanted for name, wanted in WANTED.items())
        if enough:
            break
    warning = ""
    if not enough:
        minutes = max(wanted / (scaled * SHARES[name]) for name, wanted in WANTED.items()) / 60
        warning = (
            f"{config.minutes:g} minutes are too few to reach all targets here; --minutes"
            f" {minutes:.0f} would do"
        )
    steps = {name: max(LEAST_STEPS, int(scaled * budget[name] / BATCH_TOKENS)) for name in WANTED}
    parameters = sum(p.numel() for p in Decoder(model_config(shape, image_token=0)).parameters())
    return Plan(*shape, steps["pretrain"], steps["chat"], scaled, parameters, dtype, budget, warning)


def _flops(shape: tuple[int, int, int]) -> float:
    return flops_per_token(model_config(shape, image_token=0), SEQUENCE / 2)


def measure(shape: tuple[int, int, int], config: QuickstartConfig, logbook: Logbook) -> tuple[float, str]:
    """Tokens/s of a real training step at this shape, compiled first, and its dtype."""
    model = Decoder(model_config(shape, image_token=0))
    init_weights(model, config.seed)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    train = TrainConfig(steps=10**6, seed=config.seed, dtype=config.dtype, compile=config.compile)
    batch = _random_batch(config.seed)
    setup = prepare(model, _Always(batch), next_token, train, logbook, Group())
    times = []
    for _ in range(MEASURED_STEPS + 1):
        started = time.perf_counter()
        train_step(setup, [batch], next_token, train, TrainState(), Group())
        times.append(time.perf_counter() - started)
    rate = BATCH_TOKENS / sorted(times[1:])[1]  # what else runs now slows some of them down
    share = rate * flops_per_token(model.config, SEQUENCE / 2) / setup.matmul_rate
    say(f"a step of {parameters / 1e6:.1f}M parameters: {rate:,.0f} tokens/s, {share:.0%} of the matmul rate")
    return rate, setup.choices.dtype


class _Always(Batches):
    """The same batch at every step."""

    micro_batches = per_epoch = 1
    fingerprint = "always"

    def __init__(self, batch: Batch) -> None:
        self.batch, self.length = batch, len(batch.tokens)

    def micro(self, number: int) -> Batch:
        return self.batch

    def micro_ids(self, number: int) -> tuple[str, ...]:
        return self.batch.sample_ids


def _random_batch(seed: int) -> Batch:
    """Tokens from a seeded generator: their values do not change how long a step takes."""
    tokens = np.random.Generator(np.random.Philox(key=[seed, 1])).integers(
        1, VOCABULARY, BATCH_TOKENS + 1, dtype=np.int32
    )
    documents = BATCH_TOKENS // SEQUENCE
    return Batch(
        tokens=tokens[:-1], targets=tokens[1:], weights=np.ones(BATCH_TOKENS, np.float32),
        lengths=np.full(documents, SEQUENCE, np.int32), ids=tuple(str(i) for i in range(documents)),
    )  # fmt: skip

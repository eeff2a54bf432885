"""What `whorl sft` and `whorl dpo` do: a model, chats or preferences, and how it learns from them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from whorl.base.config import Config
from whorl.models.config import LoraConfig
from whorl.train.config import OptimConfig, ScheduleConfig, TrainConfig


class SftTrainConfig(TrainConfig):
    """As for pre-training, gentler: the model has learnt before."""

    steps: int = Field(default=0, ge=0)
    """0: as many as the epochs take."""
    optim: OptimConfig = OptimConfig(lr=5e-4, muon_lr=5e-3)
    schedule: ScheduleConfig = ScheduleConfig(decay=0.5)


class SftConfig(Config):
    """Chat training: the assistant's replies are learnt, everything else is read."""

    model: str
    """The model directory to start from."""
    chats: tuple[str, ...]
    """Files or folders of chats: ShareGPT, OpenAI or Alpaca, as .jsonl(.gz, .zst), .json or .parquet."""
    name: str = "sft"
    """The run's name."""
    runs: str = "runs"
    """The folder runs are in."""
    lora: LoraConfig | None = None
    """Train an adapter instead of the weights."""
    too_long: Literal["stop", "cut", "drop"] = "stop"
    """What becomes of samples over max_length; "stop" stops where they are more than 1 %."""
    max_length: int = Field(default=0, ge=0)
    """Tokens of a sample at most; 0: what fits a batch and the model's context."""
    length: int = Field(default=4096, ge=2)
    """Tokens of a micro-batch: conversations side by side."""
    micro_batches: int = Field(default=1, ge=1)
    """Micro-batches of a step."""
    epochs: float = Field(default=3.0, gt=0)
    """How often every conversation is seen, unless train.steps says how long to train."""
    validation: float = Field(default=0.02, ge=0, lt=1)
    """The share of conversations held out, by their content's hash."""
    template_args: dict[str, Any] = {}
    """Arguments of the chat template; they are stored with the model and are the server's defaults."""
    train: SftTrainConfig = SftTrainConfig()
    """The optimiser, the schedule, and what is kept."""


PreferenceLoss = Literal["sigmoid", "sigmoid_norm", "ipo"]
BETAS: dict[PreferenceLoss, float] = {"sigmoid": 0.1, "sigmoid_norm": 5.0, "ipo": 0.1}
"""The loss's usual beta: DPO's, Tülu 3's and IPO's. A mean over tokens is that much smaller than a sum."""


class DpoTrainConfig(TrainConfig):
    """Gentler again: what is learnt is a difference."""

    steps: int = Field(default=0, ge=0)
    """0: as many as the epochs take."""
    optim: OptimConfig = OptimConfig(lr=5e-5, muon_lr=5e-4, weight_decay=0.0)
    schedule: ScheduleConfig = ScheduleConfig(decay=0.5)


class DpoConfig(Config):
    """Preference training: of two replies the chosen one becomes likelier than the rejected one."""

    model: str
    """The model directory to start from."""
    pairs: tuple[str, ...]
    """Files or folders of pairs: prompt, chosen, rejected, as .jsonl(.gz, .zst), .json or .parquet."""
    reference: str = ""
    """The model directory to stay near; empty: the model as it starts."""
    name: str = "dpo"
    """The run's name."""
    runs: str = "runs"
    """The folder runs are in."""
    loss: PreferenceLoss = "sigmoid"
    """DPO, the same over mean log-ratios (sigmoid_norm), or IPO."""
    beta: float = Field(default=0.0, ge=0)
    """How strictly the reference is kept to; 0: the loss's usual, 0.1 (sigmoid_norm: 5)."""
    nll: float = Field(default=0.0, ge=0)
    """Weight of the chosen replies' own loss, in nats a token, beside it."""
    lora: LoraConfig | None = None
    """Train an adapter instead of the weights."""
    too_long: Literal["stop", "cut", "drop"] = "stop"
    """What becomes of pairs that do not fit; "stop" stops where they are more than 1 %."""
    max_length: int = Field(default=0, ge=0)
    """Tokens of a prompt with its reply at most; 0: what the model's context takes."""
    length: int = Field(default=4096, ge=2)
    """Tokens of a micro-batch: pairs side by side, both replies with their prompts."""
    micro_batches: int = Field(default=1, ge=1)
    """Micro-batches of a step."""
    epochs: float = Field(default=1.0, gt=0)
    """How often every pair is seen, unless train.steps says how long to train."""
    validation: float = Field(default=0.02, ge=0, lt=1)
    """The share of prompts held out, by their content's hash."""
    template_args: dict[str, Any] = {}
    """Arguments of the chat template; they are stored with the model and are the server's defaults."""
    train: DpoTrainConfig = DpoTrainConfig()
    """The optimiser, the schedule, and what is kept."""

"""What `whorl sft` and `whorl dpo` do: a model, chats or preferences, and how it learns from them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from whorl.base.config import Config
from whorl.base.runs import default_runs
from whorl.models.config import LoraConfig
from whorl.train.config import OptimConfig, ScheduleConfig, TrainConfig


class SftTrainConfig(TrainConfig):
    """As for pre-training, gentler: the model has learnt before."""

    steps: int = Field(default=0, ge=0)
    """0: as many steps as the epochs take."""
    optim: OptimConfig = OptimConfig(lr=5e-4, muon_lr=5e-3)
    schedule: ScheduleConfig = ScheduleConfig(decay=0.5)
    """In a short run, warm-up is at most a quarter of the steps."""


class SftConfig(Config):
    """Chat training: the assistant's replies are learnt, everything else is read."""

    model: str
    """The model directory to start from."""
    chats: tuple[str, ...]
    """Files or folders of chats: ShareGPT, OpenAI or Alpaca, as .jsonl(.gz, .zst), .json or .parquet."""
    name: str = "sft"
    """The run's name."""
    runs: str = Field(default_factory=default_runs)
    """The folder for runs, inside $WHORL_WORKSPACE if that is set."""
    lora: LoraConfig | None = None
    """Train an adapter instead of the weights."""
    too_long: Literal["stop", "cut", "drop"] = "stop"
    """What to do with samples over max_length; "stop" stops if they are more than 1 %."""
    max_length: int = Field(default=0, ge=0)
    """Maximum tokens per sample; 0: what fits a batch and the model's context."""
    length: int = Field(default=4096, ge=2)
    """Tokens per micro-batch; conversations are packed."""
    micro_batches: int = Field(default=1, ge=1)
    """Micro-batches per step."""
    epochs: float = Field(default=3.0, gt=0)
    """How many times every conversation is seen, unless train.steps is set."""
    validation: float = Field(default=0.02, ge=0, lt=1)
    """The share of conversations held out for validation, chosen by content hash."""
    template_args: dict[str, Any] = {}
    """Chat template arguments; stored with the model and used as the server's defaults."""
    train: SftTrainConfig = SftTrainConfig()
    """Optimiser, schedule and checkpoints."""


PreferenceLoss = Literal["sigmoid", "sigmoid_norm", "ipo"]
BETAS: dict[PreferenceLoss, float] = {"sigmoid": 0.1, "sigmoid_norm": 5.0, "ipo": 0.1}
"""The loss's default beta: DPO's, Tülu 3's and IPO's. A mean over tokens is that much smaller than a sum."""


class DpoTrainConfig(TrainConfig):
    """Gentler again: what is learnt is a difference."""

    steps: int = Field(default=0, ge=0)
    """0: as many steps as the epochs take."""
    optim: OptimConfig = OptimConfig(lr=5e-5, muon_lr=5e-4, weight_decay=0.0)
    schedule: ScheduleConfig = ScheduleConfig(decay=0.5)


class DpoConfig(Config):
    """Preference training: of two replies the chosen one becomes likelier than the rejected one."""

    model: str
    """The model directory to start from."""
    pairs: tuple[str, ...]
    """Files or folders of pairs: prompt, chosen, rejected, as .jsonl(.gz, .zst), .json or .parquet."""
    reference: str = ""
    """The reference model's directory; empty: the starting model."""
    name: str = "dpo"
    """The run's name."""
    runs: str = Field(default_factory=default_runs)
    """The folder for runs, inside $WHORL_WORKSPACE if that is set."""
    loss: PreferenceLoss = "sigmoid"
    """DPO, the same over mean log-ratios (sigmoid_norm), or IPO."""
    beta: float = Field(default=0.0, ge=0)
    """KL strength (beta): higher stays closer to the reference; 0: the loss's default, 0.1 (sigmoid_norm:
    5)."""
    nll: float = Field(default=0.0, ge=0)
    """Weight of an added loss on the chosen replies, in nats per token."""
    lora: LoraConfig | None = None
    """Train an adapter instead of the weights."""
    too_long: Literal["stop", "cut", "drop"] = "stop"
    """What to do with pairs that do not fit; "stop" stops if they are more than 1 %."""
    max_length: int = Field(default=0, ge=0)
    """Maximum tokens of a prompt with its reply; 0: the model's context."""
    length: int = Field(default=4096, ge=2)
    """Tokens per micro-batch; pairs are packed, both replies with their prompts."""
    micro_batches: int = Field(default=1, ge=1)
    """Micro-batches per step."""
    epochs: float = Field(default=1.0, gt=0)
    """How many times every pair is seen, unless train.steps is set."""
    validation: float = Field(default=0.02, ge=0, lt=1)
    """The share of prompts held out for validation, chosen by content hash."""
    template_args: dict[str, Any] = {}
    """Chat template arguments; stored with the model and used as the server's defaults."""
    train: DpoTrainConfig = DpoTrainConfig()
    """Optimiser, schedule and checkpoints."""

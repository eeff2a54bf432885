"""What `whorl sft` does: a model, chats, and how it learns from them."""

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

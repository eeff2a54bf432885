"""What `whorl train` does: a model, tokens, batches, and how it is trained."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from whorl.base.config import Config
from whorl.models.config import ModelConfig
from whorl.train.config import TrainConfig


class NewModel(ModelConfig):
    """The axes of a model that begins at random; what the tokens decide may be left out."""

    vocab_size: int = 0
    """0: the tokens' own."""
    context: int = 0
    """Longest text the model is said to take; 0: batch.sequence."""


class BatchConfig(Config):
    """A step is `micro_batches` batches of `length` tokens, on however many ranks."""

    length: int = Field(default=4096, ge=2)
    """Tokens of a micro-batch: documents side by side."""
    sequence: int = Field(default=512, ge=1)
    """Longer documents are cut into windows of it."""
    micro_batches: int = Field(default=1, ge=1)
    """Micro-batches of a step."""


class TrainRecipe(Config):
    """`whorl train`: tokens in, a run directory with a model in it out."""

    name: str = ""
    """The run's name; unless given, the recipe file's."""
    runs: str = "runs"
    """The folder runs are in."""
    tokens: tuple[str, ...] = ()
    """Directories that `whorl data tokenize` wrote, all by one tokenizer."""
    weights: tuple[float, ...] = ()
    """Shares of the directories in the mixture; empty: by their size."""
    epochs: float | None = Field(default=None, gt=0)
    """How often each directory may be seen; none: as often as the steps take."""
    start: str = ""
    """A model directory to go on from, instead of [model]."""
    model: NewModel | None = None
    """The axes of a new model."""
    batch: BatchConfig = BatchConfig()
    validation_batches: int = Field(default=8, ge=0)
    """Held-out batches of each directory to measure on."""
    prompts: tuple[str, ...] = ()
    """Beginnings that the model goes on from every train.sample_every steps."""
    sample_tokens: int = Field(default=48, ge=1)
    """Tokens of each such sample at most."""
    train: TrainConfig

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.tokens:
            raise ValueError("tokens is empty; name a directory that whorl data tokenize wrote")
        if bool(self.start) == (self.model is not None):
            raise ValueError("give either start (a model directory) or [model] (a new one's axes)")
        if self.weights and len(self.weights) != len(self.tokens):
            raise ValueError(
                f"{len(self.weights)} weights are given for {len(self.tokens)} tokens directories"
            )
        if self.batch.sequence > self.batch.length:
            raise ValueError(
                f"batch.sequence {self.batch.sequence} is longer than batch.length {self.batch.length}"
            )
        return self

"""What `whorl train` does: a model, tokens, batches, and how it is trained."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from whorl.base.config import Config
from whorl.base.runs import default_runs
from whorl.models.config import ModelConfig
from whorl.train.config import TrainConfig


class NewModel(ModelConfig):
    """The axes of a model that begins at random; what the tokens decide may be left out."""

    vocab_size: int = 0
    """0: the vocabulary of the tokens."""
    context: int = 0
    """The context length stored with the model; 0: batch.sequence."""


class BatchConfig(Config):
    """A step is `micro_batches` batches of `length` tokens, on however many ranks."""

    length: int = Field(default=4096, ge=2)
    """Tokens per micro-batch; documents are packed."""
    sequence: int = Field(default=512, ge=1)
    """Longer documents are cut into windows of this many tokens."""
    micro_batches: int = Field(default=1, ge=1)
    """Micro-batches per step."""


class TrainRecipe(Config):
    """`whorl train`: tokens in, a run directory with a model in it out."""

    name: str = ""
    """The run's name; default: the recipe file's name."""
    runs: str = Field(default_factory=default_runs)
    """The folder for runs, inside $WHORL_WORKSPACE if that is set."""
    tokens: tuple[str, ...] = ()
    """Directories written by `whorl data tokenize`, all with the same tokenizer."""
    weights: tuple[float, ...] = ()
    """Shares of the directories in the mixture; empty: proportional to size."""
    epochs: float | None = Field(default=None, gt=0)
    """How many times each directory may be seen; none: as often as the steps need."""
    start: str = ""
    """A model directory to start from, instead of [model]."""
    model: NewModel | None = None
    """The dimensions of a new model."""
    batch: BatchConfig = BatchConfig()
    validation_batches: int = Field(default=8, ge=0)
    """Number of held-out batches per directory for validation."""
    prompts: tuple[str, ...] = ()
    """Prompts that the model continues every --train.sample-every steps."""
    sample_tokens: int = Field(default=48, ge=1)
    """Maximum tokens of each such sample."""
    train: TrainConfig

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.tokens:
            raise ValueError("tokens is empty; name a directory that whorl data tokenize wrote")
        if bool(self.start) == (self.model is not None):
            raise ValueError("give either start (a model directory) or [model] (the dimensions of a new one)")
        if self.weights and len(self.weights) != len(self.tokens):
            raise ValueError(
                f"{len(self.weights)} weights are given for {len(self.tokens)} tokens directories"
            )
        if self.batch.sequence > self.batch.length:
            raise ValueError(
                f"batch.sequence {self.batch.sequence} is longer than batch.length {self.batch.length}"
            )
        return self

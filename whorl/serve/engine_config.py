"""How an engine is set up."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whorl.base.config import Config


class EngineConfig(Config):
    """One model's engine. What is not given is measured or taken from the model."""

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of weights, cache and matmuls; auto: the model's own."""
    quantize: Literal["none", "int8", "int4"] = "none"
    """Quantise the blocks' matrices and the output matrix while loading; see also whorl model quantize."""
    context: int | None = Field(default=None, ge=16)
    """Maximum tokens of a prompt and its reply together; none: the model's own limit."""
    memory: float | None = Field(default=None, gt=0)
    """GB for the key-value cache; none: half of the free memory, but no more than `most` full conversations
    need."""
    page: int = Field(default=32, ge=1)
    """Tokens per page; prefixes are shared in whole pages."""
    budget: int = Field(default=512, ge=1)
    """Maximum tokens per step, prompts and replies together."""
    most: int = Field(default=64, ge=1)
    """Maximum number of sequences that run at once."""
    step_seconds: float = Field(default=300.0, gt=0)
    """A step (or the loading of an adapter) that takes longer than this counts as hung: the engine's process
    is killed and replaced."""
    adapters: dict[str, str] = {}
    """Adapters loaded at the start: name → PEFT directory."""

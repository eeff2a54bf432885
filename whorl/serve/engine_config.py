"""How an engine is set up."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whorl.base.config import Config


class EngineConfig(Config):
    """One model's engine. What is not given is measured or taken from the model."""

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights, cache and matmuls; auto: what the model computes in."""
    quantize: Literal["none", "int8", "int4"] = "none"
    """Of the blocks' matrices and the output matrix, when they are loaded; see also whorl model quantize."""
    context: int | None = Field(default=None, ge=16)
    """Tokens of a prompt and its reply together; none: the model's own."""
    memory: float | None = Field(default=None, gt=0)
    """GB for the cache of keys and values; none: half of what is free, and no more than `most` full
    conversations need."""
    page: int = Field(default=32, ge=1)
    """Tokens of a page: what is shared of a prefix is whole pages."""
    budget: int = Field(default=512, ge=1)
    """Tokens of a step, prompts and replies together."""
    most: int = Field(default=64, ge=1)
    """Sequences that run at once."""
    adapters: dict[str, str] = {}
    """Adapters loaded at the start: name → PEFT directory."""

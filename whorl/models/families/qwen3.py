"""Qwen 3 (arXiv 2505.09388): normed queries and keys, a head size of its own."""

from __future__ import annotations

from typing import Any

from whorl.models.config import ModelConfig
from whorl.models.families.family import Family, need, with_base
from whorl.models.families.fields import Fields
from whorl.models.families.llamalike import read_common, tensors, windows, write_common, write_windows
from whorl.models.families.qwen2 import DEFAULTS as QWEN2

DEFAULTS = {**QWEN2, "head_dim": 128, "attention_bias": False}


def read(fields: Fields) -> ModelConfig:
    fields = fields.over(DEFAULTS)
    bias = fields.flag("attention_bias")
    slide = windows(fields, fields.size("num_hidden_layers"))
    return read_common(fields, qk_norm=True, qkv_bias=bias, out_bias=bias, **slide)


def write(config: ModelConfig) -> dict[str, Any]:
    need(config.qkv_bias == config.out_bias, "qkv_bias apart from out_bias")
    return {**write_common(config), "attention_bias": config.qkv_bias, **write_windows(config)}


FAMILY = Family("qwen3", "Qwen3ForCausalLM", read, write, tensors, alias=with_base("model."))

"""Qwen 2 and 2.5 (arXiv 2407.10671): biases on queries, keys and values; windows from some layer on."""

from __future__ import annotations

from typing import Any

from whorl.models.config import ModelConfig
from whorl.models.families.family import Family, with_base
from whorl.models.families.fields import Fields
from whorl.models.families.llamalike import read_common, tensors, windows, write_common, write_windows

DEFAULTS = {
    "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_act": "silu",
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
    "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
    "tie_word_embeddings": False,
}  # fmt: skip


def read(fields: Fields) -> ModelConfig:
    fields = fields.over(DEFAULTS)
    return read_common(fields, qkv_bias=True, **windows(fields, fields.size("num_hidden_layers")))


def write(config: ModelConfig) -> dict[str, Any]:
    return {**write_common(config), **write_windows(config)}


FAMILY = Family("qwen2", "Qwen2ForCausalLM", read, write, tensors, alias=with_base("model."))

"""Mistral (arXiv 2310.06825): Llama without biases, every layer within a sliding window."""

from __future__ import annotations

from typing import Any

from whorl.models.config import ModelConfig
from whorl.models.families.family import Family, need, with_base
from whorl.models.families.fields import Fields
from whorl.models.families.llamalike import read_common, tensors, write_common

DEFAULTS = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
    "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
    "sliding_window": 4096, "tie_word_embeddings": False,
}  # fmt: skip


def read(fields: Fields) -> ModelConfig:
    fields = fields.over(DEFAULTS)
    window, layers = fields.optional_size("sliding_window"), fields.size("num_hidden_layers")
    return read_common(fields, window=window, windowed_layers=tuple(range(layers)) if window else ())


def write(config: ModelConfig) -> dict[str, Any]:
    every = not config.windowed_layers or len(set(config.windowed_layers)) == config.n_layers
    need(every, "windowed_layers that are some of the layers")
    return {**write_common(config), "sliding_window": config.window}


FAMILY = Family("mistral", "MistralForCausalLM", read, write, tensors, alias=with_base("model."))

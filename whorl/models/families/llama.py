"""Llama 2 and 3 (arXiv 2307.09288, 2407.21783)."""

from __future__ import annotations

from typing import Any

from whorl.models.config import ModelConfig
from whorl.models.families.family import Family, need, with_base
from whorl.models.families.fields import Fields
from whorl.models.families.llamalike import equal_share, read_common, tensors, write_common

DEFAULTS = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
}  # fmt: skip


def read(fields: Fields) -> ModelConfig:
    fields = fields.over(DEFAULTS)
    bias = fields.flag("attention_bias")
    return read_common(fields, qkv_bias=bias, out_bias=bias, mlp_bias=fields.flag("mlp_bias"))


def write(config: ModelConfig) -> dict[str, Any]:
    equal_share(config)
    need(config.qkv_bias == config.out_bias, "qkv_bias apart from out_bias")
    return {**write_common(config), "attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}


FAMILY = Family("llama", "LlamaForCausalLM", read, write, tensors, alias=with_base("model."))

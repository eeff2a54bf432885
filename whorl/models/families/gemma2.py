"""Gemma 2 (arXiv 2408.00118): norms before and after, soft caps, every other layer within a window."""

from __future__ import annotations

from typing import Any

from whorl.models.config import ModelConfig
from whorl.models.families.family import Family, need, scale_of, with_base
from whorl.models.families.fields import Fields
from whorl.models.families.llamalike import equal_share, layer_kinds, read_common, tensors, write_common

DEFAULTS = {
    "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0, "tie_word_embeddings": True, "attention_bias": False,
    "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
}  # fmt: skip


def read(fields: Fields) -> ModelConfig:
    fields = fields.over(DEFAULTS)
    layers = fields.size("num_hidden_layers")
    sliding = fields.layer_types(layers)
    if sliding is None:
        sliding = tuple(range(0, layers, 2))
    return read_common(fields, **gemma_axes(fields, sliding))


def gemma_axes(fields: Fields, sliding: tuple[int, ...]) -> dict[str, Any]:
    """What Gemma 2 and 3 share. The activation is `hidden_activation`'s: beside it lies a
    `hidden_act` that transformers does not read."""
    window, bias = fields.optional_size("sliding_window"), fields.flag("attention_bias")
    if window is None:
        sliding = ()
    dim = fields.size("head_dim")
    return {
        "norm_offset": True,
        "norm_place": "sandwich",
        "activation": fields.activation("hidden_activation"),
        "embed_scale": fields.size("hidden_size") ** 0.5,
        "attention_scale": scale_of(fields.number("query_pre_attn_scalar") ** -0.5, dim),
        "attention_soft_cap": fields.optional_number("attn_logit_softcapping") or None,
        "logit_soft_cap": fields.optional_number("final_logit_softcapping") or None,
        "window": window if sliding else None,
        "windowed_layers": sliding,
        "qkv_bias": bias,
        "out_bias": bias,
    }


def write_gemma(config: ModelConfig) -> dict[str, Any]:
    equal_share(config)
    need(config.qkv_bias == config.out_bias, "qkv_bias apart from out_bias")
    scale = config.attention_scale
    return {
        **write_common(config, activation="hidden_activation"),
        "attention_bias": config.qkv_bias,
        "query_pre_attn_scalar": config.head_dim if scale is None else round(scale**-2),
        "attn_logit_softcapping": config.attention_soft_cap,
        "final_logit_softcapping": config.logit_soft_cap,
        # transformers makes a mask of this even where no layer slides
        "sliding_window": config.window if config.window is not None else config.context,
        "layer_types": layer_kinds(config),
    }


FAMILY = Family("gemma2", "Gemma2ForCausalLM", read, write_gemma, tensors, alias=with_base("model."))

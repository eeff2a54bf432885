"""Gemma 3's text model (arXiv 2503.19786): normed queries and keys, and windowed layers that turn
at a frequency of their own."""

from __future__ import annotations

from typing import Any

from whorl.models.config import ModelConfig
from whorl.models.families.family import Family, with_base
from whorl.models.families.fields import Fields
from whorl.models.families.gemma2 import DEFAULTS as GEMMA2
from whorl.models.families.gemma2 import gemma_axes, write_gemma
from whorl.models.families.llamalike import read_common, tensors
from whorl.models.families.rope import read_layer_ropes

DEFAULTS = {
    **GEMMA2, "vocab_size": 262_208, "max_position_embeddings": 131_072, "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6,
    "final_logit_softcapping": None, "attn_logit_softcapping": None,
}  # fmt: skip


def read(fields: Fields) -> ModelConfig:
    fields = fields.over(DEFAULTS)
    layers = fields.size("num_hidden_layers")
    sliding = fields.layer_types(layers)
    if sliding is None:
        pattern = fields.size("sliding_window_pattern")
        sliding = tuple(layer for layer in range(layers) if (layer + 1) % pattern)
    axes = gemma_axes(fields, sliding)
    rope, local = read_layer_ropes(fields)
    apart = axes["windowed_layers"] and local != rope
    return read_common(fields, qk_norm=True, rope=rope, local_rope=local if apart else None, **axes)


def write(config: ModelConfig) -> dict[str, Any]:
    written = write_gemma(config)  # raises where there is no rope at all
    local = config.local_rope or config.rope
    assert local is not None
    return {**written, "rope_local_base_freq": local.theta}


FAMILY = Family("gemma3_text", "Gemma3ForCausalLM", read, write, tensors, alias=with_base("model."))

"""GPT-2: LayerNorms, learned positions, biases everywhere, one fused [in, out] matrix for q, k and v."""

from __future__ import annotations

from typing import Any

from whorl.models.config import ModelConfig
from whorl.models.families.family import Family, Stored, need, scale_of, with_base
from whorl.models.families.fields import ACTIVATION_WRITTEN, Fields

DEFAULTS = {
    "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True,
    "tie_word_embeddings": True,
}  # fmt: skip
ALIASES = {
    "hidden_size": "n_embd", "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head", "num_hidden_layers": "n_layer",
}  # fmt: skip


def read(fields: Fields) -> ModelConfig:
    values = {ALIASES.get(name, name): value for name, value in fields.values.items()}
    fields = Fields(values, fields.where, DEFAULTS)
    fields.refuse("scale_attn_by_inverse_layer_idx", "add_cross_attention", "quantization_config")
    width, heads, positions = fields.size("n_embd"), fields.size("n_head"), fields.size("n_positions")
    if width % heads:
        raise fields.wrong("n_embd", f"a multiple of the {heads} attention heads")
    dim = width // heads
    return ModelConfig(
        vocab_size=fields.size("vocab_size"), d_model=width, n_layers=fields.size("n_layer"),
        n_heads=heads, n_kv_heads=heads, head_dim=dim, d_ff=fields.size("n_inner", default=4 * width),
        context=positions, learned_positions=positions, rope=None,
        norm="layer", norm_eps=fields.number("layer_norm_epsilon"),
        mlp="plain", activation=fields.activation("activation_function"),
        qkv_bias=True, out_bias=True, mlp_bias=True,
        attention_scale=scale_of(None if fields.flag("scale_attn_weights") else 1.0, dim),
        tied=fields.flag("tie_word_embeddings"),
    )  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    need(config.learned_positions > 0, "model without learned positions")
    need(config.n_heads * config.head_dim == config.d_model, "heads that do not fill d_model")
    need(config.n_kv_heads == config.n_heads, "shared key and value heads")
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.learned_positions,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.d_ff,
        "activation_function": ACTIVATION_WRITTEN[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "scale_attn_weights": config.attention_scale is None,
        "tie_word_embeddings": config.tied,
    }


def tensors(config: ModelConfig) -> list[Stored]:
    found = [
        Stored("transformer.wte.weight", ("embed.weight",)),
        Stored("transformer.wpe.weight", ("position_embed.weight",)),
    ]
    for layer in range(config.n_layers):
        theirs, ours = f"transformer.h.{layer}", f"layers.{layer}"
        for end in ("weight", "bias"):
            flip = end == "weight"
            qkv = tuple(f"{ours}.attention.{kind}.{end}" for kind in "qkv")
            found += [
                Stored(f"{theirs}.ln_1.{end}", (f"{ours}.attention_norm.{end}",)),
                Stored(f"{theirs}.attn.c_attn.{end}", qkv, transposed=flip),
                Stored(f"{theirs}.attn.c_proj.{end}", (f"{ours}.attention.o.{end}",), transposed=flip),
                Stored(f"{theirs}.ln_2.{end}", (f"{ours}.mlp_norm.{end}",)),
                Stored(f"{theirs}.mlp.c_fc.{end}", (f"{ours}.mlp.up.{end}",), transposed=flip),
                Stored(f"{theirs}.mlp.c_proj.{end}", (f"{ours}.mlp.down.{end}",), transposed=flip),
            ]
    found += [Stored(f"transformer.ln_f.{end}", (f"final_norm.{end}",)) for end in ("weight", "bias")]
    if not config.tied:
        found.append(Stored("lm_head.weight", ("head.weight",)))
    return found


# Older checkpoints hold the causal mask of every layer.
FAMILY = Family(
    "gpt2", "GPT2LMHeadModel", read, write, tensors,
    alias=with_base("transformer."), buffers=(".attn.bias", ".attn.masked_bias"),
)  # fmt: skip

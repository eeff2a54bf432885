"""What Llama's descendants share: field names, tensor names, and where they differ as arguments."""

from __future__ import annotations

from typing import Any

from whorl.models.config import ModelConfig
from whorl.models.families.family import Stored, head_dim, need
from whorl.models.families.fields import ACTIVATION_WRITTEN, Fields
from whorl.models.families.rope import read_rope, write_rope

REFUSED = ("quantization_config", "is_encoder_decoder", "add_cross_attention", "use_bidirectional_attention")
BIASES = ("attention_bias", "mlp_bias")  # fields of some; said to a family without them, they are a mistake


def read_common(fields: Fields, **axes: Any) -> ModelConfig:
    """The axes every Llama-like config names alike; `axes` are the family's own, and win."""
    fields.refuse(*REFUSED, *(name for name in BIASES if name not in fields.defaults))
    width, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    values: dict[str, Any] = {
        "vocab_size": fields.size("vocab_size"),
        "d_model": width,
        "n_layers": fields.size("num_hidden_layers"),
        "n_heads": heads,
        "n_kv_heads": fields.optional_size("num_key_value_heads") or heads,
        "head_dim": head_dim(fields, width, heads),
        "d_ff": fields.size("intermediate_size"),
        "context": fields.size("max_position_embeddings"),
        "norm_eps": fields.number("rms_norm_eps"),
        "tied": fields.flag("tie_word_embeddings"),
    }
    if "rope" not in axes:
        values["rope"] = read_rope(fields)
    if "activation" not in axes:
        values["activation"] = fields.activation("hidden_act")
    return ModelConfig(**{**values, **axes})


def write_common(config: ModelConfig, *, activation: str = "hidden_act") -> dict[str, Any]:
    """The fields every Llama-like config names alike; `UnfitError` for axes that none of them has."""
    need(config.norm == "rms", f"norm {config.norm!r}")
    need(config.norm_place in ("pre", "sandwich"), f"norm_place {config.norm_place!r}")
    need(config.final_norm, "final_norm off")
    need(config.mlp == "gated", f"mlp {config.mlp!r}")
    need(config.rope is not None, "no rope")
    need(config.learned_positions == 0, "learned_positions")
    need(config.d_embed is None, "d_embed")
    assert config.rope is not None
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.d_ff,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        activation: ACTIVATION_WRITTEN[config.activation],
        "tie_word_embeddings": config.tied,
        **write_rope(config.rope),
    }


def windows(fields: Fields, layers: int) -> dict[str, Any]:
    """Qwen's three fields about windows, and `layer_types`, which wins over them."""
    size = fields.optional_size("sliding_window") if fields.flag("use_sliding_window") else None
    given = fields.layer_types(layers)
    if size is None:
        if given:
            raise fields.wrong(
                "sliding_window", "a window and use_sliding_window, as layer_types has sliding layers"
            )
        return {}
    first = fields.raw("max_window_layers")
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise fields.wrong("max_window_layers", "the number of the first layer with a window")
    layers_with = given if given is not None else tuple(range(min(first, layers), layers))
    return {"window": size, "windowed_layers": layers_with} if layers_with else {}


def write_windows(config: ModelConfig) -> dict[str, Any]:
    sliding = set(config.windowed_layers)
    first = min(sliding, default=config.n_layers)
    return {
        "use_sliding_window": bool(sliding),
        "sliding_window": config.window,
        "max_window_layers": first,
        "layer_types": layer_kinds(config),
    }


def layer_kinds(config: ModelConfig) -> list[str]:
    sliding = set(config.windowed_layers)
    return ["sliding_attention" if layer in sliding else "full_attention" for layer in range(config.n_layers)]


def equal_share(config: ModelConfig) -> None:
    """transformers' class demands it, whatever `head_dim` says."""
    need(
        config.d_model % config.n_heads == 0,
        f"d_model {config.d_model} that {config.n_heads} heads do not divide",
    )


NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
SANDWICH = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "attention_post_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "mlp_post_norm",
}


def tensors(config: ModelConfig) -> list[Stored]:
    """Every tensor of a Llama-like checkpoint."""
    found = [Stored("model.embed_tokens.weight", ("embed.weight",))]
    for layer in range(config.n_layers):
        theirs, ours = f"model.layers.{layer}", f"layers.{layer}"
        for kind in "qkvo":
            bias = config.out_bias if kind == "o" else config.qkv_bias
            for end in ("weight", "bias") if bias else ("weight",):
                found.append(
                    Stored(f"{theirs}.self_attn.{kind}_proj.{end}", (f"{ours}.attention.{kind}.{end}",))
                )
        if config.qk_norm:
            for kind in "qk":
                name = f"{kind}_norm.weight"
                found.append(Stored(f"{theirs}.self_attn.{name}", (f"{ours}.attention.{name}",)))
        for kind in ("gate", "up", "down"):
            for end in ("weight", "bias") if config.mlp_bias else ("weight",):
                found.append(Stored(f"{theirs}.mlp.{kind}_proj.{end}", (f"{ours}.mlp.{kind}.{end}",)))
        for name, norm in (SANDWICH if config.norm_place == "sandwich" else NORMS).items():
            found.append(Stored(f"{theirs}.{name}.weight", (f"{ours}.{norm}.weight",)))
    found.append(Stored("model.norm.weight", ("final_norm.weight",)))
    if not config.tied:
        found.append(Stored("lm_head.weight", ("head.weight",)))
    return found

"""OPT (arXiv 2205.01068): learned positions from row 2 on; the 350M has its norms after each
addition, none at the end, and a narrower embedding between two projections."""

from __future__ import annotations

from typing import Any

from whorl.models.config import ModelConfig
from whorl.models.families.family import Family, Stored, need, with_base
from whorl.models.families.fields import ACTIVATION_WRITTEN, Fields

DEFAULTS = {
    "vocab_size": 50272, "hidden_size": 768, "num_hidden_layers": 12, "ffn_dim": 3072,
    "max_position_embeddings": 2048, "do_layer_norm_before": True, "_remove_final_layer_norm": False,
    "num_attention_heads": 12, "activation_function": "relu", "enable_bias": True,
    "layer_norm_elementwise_affine": True, "tie_word_embeddings": True,
}  # fmt: skip
FIRST_ROW = 2
NORM_EPS = 1e-5


def read(fields: Fields) -> ModelConfig:
    fields = fields.over(DEFAULTS)
    fields.refuse("quantization_config", "add_cross_attention")
    if not fields.flag("layer_norm_elementwise_affine"):
        raise fields.wrong("layer_norm_elementwise_affine", "true: Whorl's norms have weights")
    width, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if width % heads:
        raise fields.wrong("hidden_size", f"a multiple of the {heads} attention heads")
    before, bias = fields.flag("do_layer_norm_before"), fields.flag("enable_bias")
    embed, positions = (
        fields.size("word_embed_proj_dim", default=width),
        fields.size("max_position_embeddings"),
    )
    return ModelConfig(
        vocab_size=fields.size("vocab_size"), d_model=width, n_layers=fields.size("num_hidden_layers"),
        n_heads=heads, n_kv_heads=heads, head_dim=width // heads, d_ff=fields.size("ffn_dim"),
        context=positions, learned_positions=positions + FIRST_ROW, position_offset=FIRST_ROW, rope=None,
        norm="layer", norm_eps=NORM_EPS, norm_place="pre" if before else "post",
        final_norm=before and not fields.flag("_remove_final_layer_norm"),
        mlp="plain", activation=fields.activation("activation_function"),
        qkv_bias=bias, out_bias=bias, mlp_bias=bias,
        d_embed=None if embed == width else embed, tied=fields.flag("tie_word_embeddings"),
    )  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    need(config.learned_positions > FIRST_ROW, "model without learned positions")
    need(config.n_heads * config.head_dim == config.d_model, "heads that do not fill d_model")
    need(config.n_kv_heads == config.n_heads, "shared key and value heads")
    need(config.norm_eps == NORM_EPS, f"norm_eps {config.norm_eps}")
    need(config.position_offset == FIRST_ROW, f"position_offset {config.position_offset}")
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "ffn_dim": config.d_ff,
        "max_position_embeddings": config.learned_positions - FIRST_ROW,
        "do_layer_norm_before": config.norm_place == "pre",
        "_remove_final_layer_norm": config.norm_place == "pre" and not config.final_norm,
        "word_embed_proj_dim": config.d_embed or config.d_model,
        "activation_function": ACTIVATION_WRITTEN[config.activation],
        "enable_bias": config.qkv_bias,
        "tie_word_embeddings": config.tied,
    }


def tensors(config: ModelConfig) -> list[Stored]:
    found = [
        Stored("model.decoder.embed_tokens.weight", ("embed.weight",)),
        Stored("model.decoder.embed_positions.weight", ("position_embed.weight",)),
    ]
    if config.d_embed is not None:
        found += [
            Stored(f"model.decoder.project_{way}.weight", (f"project_{way}.weight",)) for way in ("in", "out")
        ]
    linears = {f"self_attn.{kind}_proj": f"attention.{kind}" for kind in "qkv"}
    linears |= {"self_attn.out_proj": "attention.o", "fc1": "mlp.up", "fc2": "mlp.down"}
    norms = {"self_attn_layer_norm": "attention_norm", "final_layer_norm": "mlp_norm"}
    for layer in range(config.n_layers):
        for name, ours in (linears | norms).items():
            for end in ("weight", "bias") if config.qkv_bias or name in norms else ("weight",):
                found.append(
                    Stored(f"model.decoder.layers.{layer}.{name}.{end}", (f"layers.{layer}.{ours}.{end}",))
                )
    if config.final_norm:
        for end in ("weight", "bias"):
            found.append(Stored(f"model.decoder.final_layer_norm.{end}", (f"final_norm.{end}",)))
    if not config.tied:
        found.append(Stored("lm_head.weight", ("head.weight",)))
    return found


FAMILY = Family("opt", "OPTForCausalLM", read, write, tensors, alias=with_base("model."), buffers=())

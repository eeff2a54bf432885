"""A model family: how its `config.json` and its tensors' names map to ours. No code of the model.

Phi-3 (arXiv 2404.14219) is a Llama whose checkpoints stack q, k and v in one tensor, and gate and up
in another. To make a family permanent, put the file into `whorl/models/families/` and name its
`FAMILY` in `FAMILIES` there, and add a case to `tests/models/oracles.py`: the tests then hold its
logits to transformers'.
"""

from typing import Any

from whorl.models.config import ModelConfig
from whorl.models.families.family import Family, Stored, need, with_base
from whorl.models.families.fields import Fields
from whorl.models.families.llamalike import read_common, tensors, write_common

# What transformers assumes for a field that config.json leaves out.
DEFAULTS = {
    "vocab_size": 32_064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "hidden_act": "silu",
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
    "tie_word_embeddings": False, "sliding_window": None,
}  # fmt: skip
STACKED = {
    "self_attn.q_proj": ("self_attn.qkv_proj", "qkv"),
    "mlp.gate_proj": ("mlp.gate_up_proj", ("gate", "up")),
}
INSIDE = ("self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj")


def read(fields: Fields) -> ModelConfig:
    fields = fields.over(DEFAULTS)
    fields.refuse("sliding_window")  # a window is another axis; this example leaves it out
    return read_common(fields)


def write(config: ModelConfig) -> dict[str, Any]:
    need(not config.windowed_layers, "sliding window")
    need(not config.qk_norm, "qk_norm")
    need(not (config.qkv_bias or config.out_bias or config.mlp_bias), "biases")
    need(config.norm_place == "pre", f"norm_place {config.norm_place!r}")
    return {**write_common(config), "sliding_window": None}


def stacked(config: ModelConfig) -> list[Stored]:
    """Llama's tensors, with those that Phi-3 keeps together put together."""
    found: list[Stored] = []
    for one in tensors(config):
        name = one.name.removesuffix(".weight")
        if name.endswith(INSIDE):
            continue  # a part of the tensor named before it
        for end, (together, kinds) in STACKED.items():
            if name.endswith(end):
                theirs = name.removesuffix(end) + together + ".weight"
                ours = one.parts[0].removesuffix(".weight").rpartition(".")[0]
                one = Stored(theirs, tuple(f"{ours}.{kind}.weight" for kind in kinds))
        found.append(one)
    return found


FAMILY = Family("phi3", "Phi3ForCausalLM", read, write, stacked, alias=with_base("model."))

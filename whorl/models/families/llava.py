"""LLaVA's directory (arXiv 2310.03744) around a text family, with Pixtral's tower (arXiv 2410.07073).

GPT-2 and OPT are no text families for it: transformers looks for `embed_tokens` where they have none.

The text family's own soft cap on logits is not applied by transformers inside a llava model, so a
config read from such a directory has none. Around Gemma 2 transformers 4 and 5 differ (4 scales image
features like embeddings); we do as 5 does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from whorl.models.config import ModelConfig, VisionConfig
from whorl.models.families.family import Family, Stored, need
from whorl.models.families.fields import ACTIVATION_WRITTEN, Fields

DEFAULTS = {
    "image_token_index": 32000, "projector_hidden_act": "gelu", "vision_feature_select_strategy": "default",
    "vision_feature_layer": -2, "multimodal_projector_bias": True, "tie_word_embeddings": False,
}  # fmt: skip
TOWER_DEFAULTS = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_channels": 3, "image_size": 1024, "patch_size": 16, "hidden_act": "gelu", "rope_theta": 10_000.0,
}  # fmt: skip


def wrap(text: Family) -> Family:
    """The llava family around one text family."""
    return Family(
        model_type="llava",
        architecture="LlavaForConditionalGeneration",
        read=lambda fields: read(fields, text),
        write=lambda config: write(config, text),
        tensors=lambda config: tensors(config, text),
        alias=older_name,
        buffers=(*text.buffers, "patch_positional_embedding.inv_freq"),
    )


def read(fields: Fields, text: Family) -> ModelConfig:
    fields = fields.over(DEFAULTS)
    fields.refuse("quantization_config")
    inner = fields.part("text_config")
    config = text.read(inner)
    tied = fields.flag("tie_word_embeddings") or config.tied
    return config.model_copy(update={"logit_soft_cap": None, "tied": tied, "vision": read_vision(fields)})


def read_vision(fields: Fields) -> VisionConfig:
    if fields.raw("vision_feature_select_strategy") != "full":
        raise fields.wrong(
            "vision_feature_select_strategy", '"full": a pixtral tower has no class token to drop'
        )
    tower = fields.part("vision_config").over(TOWER_DEFAULTS)
    if tower.raw("model_type") != "pixtral":
        raise tower.wrong("model_type", '"pixtral", the one vision tower Whorl has')
    layers, feature = tower.size("num_hidden_layers"), fields.raw("vision_feature_layer")
    if isinstance(feature, bool) or not isinstance(feature, int) or not -layers - 1 <= feature <= layers:
        raise fields.wrong("vision_feature_layer", f"one layer, from {-layers - 1} to {layers}")
    token = (
        fields.raw("image_token_id") if "image_token_id" in fields.values else fields.raw("image_token_index")
    )
    if isinstance(token, bool) or not isinstance(token, int) or token < 0:
        raise fields.wrong("image_token_index", "a token id")
    width, heads = tower.size("hidden_size"), tower.size("num_attention_heads")
    if width % (4 * heads):
        raise tower.wrong("hidden_size", f"a multiple of 4 × {heads} heads, for rotations in two dimensions")
    return VisionConfig(
        d_model=width, n_layers=layers, n_heads=heads, head_dim=width // heads,
        d_ff=tower.size("intermediate_size"), patch_size=_square(tower, "patch_size"),
        image_size=_square(tower, "image_size"), channels=tower.size("num_channels"),
        activation=tower.activation("hidden_act"), rope_theta=_tower_theta(tower),
        projector_activation=fields.activation("projector_hidden_act"),
        projector_bias=fields.flag("multimodal_projector_bias"), feature_layer=feature, image_token=token,
    )  # fmt: skip


def _square(tower: Fields, name: str) -> int:
    """A size that may be written as a pair of equals."""
    value = tower.raw(name)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        tower = Fields({name: value[0]}, tower.where)
    return tower.size(name)


def _tower_theta(tower: Fields) -> float:
    part = tower.part("rope_parameters")
    kind = part.raw("rope_type") or "axial"
    if kind not in ("axial", "default"):
        raise part.wrong("rope_type", '"axial"')
    theta = part.optional_number("rope_theta")
    return theta if theta is not None else tower.number("rope_theta")


def write(config: ModelConfig, text: Family) -> dict[str, Any]:
    vision = config.vision
    assert vision is not None
    need(config.logit_soft_cap is None, "logit_soft_cap in a model with images")
    need(vision.n_heads * vision.head_dim == vision.d_model, "vision heads that do not fill its d_model")
    return {
        "text_config": {
            "model_type": text.model_type,
            **text.write(config.model_copy(update={"vision": None})),
        },
        "vision_config": {
            "model_type": "pixtral",
            "hidden_size": vision.d_model,
            "num_hidden_layers": vision.n_layers,
            "num_attention_heads": vision.n_heads,
            "head_dim": vision.head_dim,
            "intermediate_size": vision.d_ff,
            "patch_size": vision.patch_size,
            "image_size": vision.image_size,
            "num_channels": vision.channels,
            "hidden_act": ACTIVATION_WRITTEN[vision.activation],
            "rope_theta": vision.rope_theta,
        },
        "image_token_index": vision.image_token,
        "projector_hidden_act": ACTIVATION_WRITTEN[vision.projector_activation],
        "multimodal_projector_bias": vision.projector_bias,
        "vision_feature_layer": vision.feature_layer,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": config.tied,
    }


def tensors(config: ModelConfig, text: Family) -> list[Stored]:
    """Named as transformers writes them, 4 and 5 alike: `language_model.model.…`, `vision_tower.…`."""
    inner = [replace(stored, name=f"language_model.{stored.name}") for stored in text.tensors(config)]
    return inner + _tower(config) + _projector(config)


def _tower(config: ModelConfig) -> list[Stored]:
    vision = config.vision
    assert vision is not None
    start = "vision_tower"
    patch = (vision.d_model, vision.channels, vision.patch_size, vision.patch_size)
    found = [
        Stored(f"{start}.patch_conv.weight", ("vision.patch_embed.weight",), shape=patch),
        Stored(f"{start}.ln_pre.weight", ("vision.pre_norm.weight",)),
    ]
    for layer in range(vision.n_layers):
        theirs, ours = f"{start}.transformer.layers.{layer}", f"vision.layers.{layer}"
        for kind in "qkvo":
            found.append(
                Stored(f"{theirs}.attention.{kind}_proj.weight", (f"{ours}.attention.{kind}.weight",))
            )
        for kind in ("gate", "up", "down"):
            found.append(Stored(f"{theirs}.feed_forward.{kind}_proj.weight", (f"{ours}.mlp.{kind}.weight",)))
        found.append(Stored(f"{theirs}.attention_norm.weight", (f"{ours}.attention_norm.weight",)))
        found.append(Stored(f"{theirs}.ffn_norm.weight", (f"{ours}.mlp_norm.weight",)))
    return found


def _projector(config: ModelConfig) -> list[Stored]:
    assert config.vision is not None
    start = "multi_modal_projector"
    return [
        Stored(f"{start}.linear_{number}.{end}", (f"projector.{name}.{end}",))
        for number, name in ((1, "first"), (2, "second"))
        for end in (("weight", "bias") if config.vision.projector_bias else ("weight",))
    ]


def older_name(name: str) -> str:
    """A checkpoint's name as we write it, from the spelling inside transformers 5 (`lm_head.…`,
    `model.language_model.…`, `model.vision_tower.…`), which some tools save as it is."""
    for part in ("language_model.", "vision_tower.", "multi_modal_projector."):
        if name.startswith(f"model.{part}"):
            name = name.removeprefix("model.")
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    if name.startswith("language_model.") and not name.startswith(
        ("language_model.model.", "language_model.lm_head.")
    ):
        return name.replace("language_model.", "language_model.model.", 1)
    return name

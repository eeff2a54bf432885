"""Any point of the axes: a family writes it and reads the same point back, or none can and that is said."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from whorl.base.errors import InputError
from whorl.models import Decoder, ModelConfig
from whorl.models.families import FAMILIES, config_from_hf, config_to_hf
from whorl.models.families.family import canonical

LAYERS = 3
ROPES = st.one_of(
    st.none(),
    st.builds(dict, theta=st.sampled_from([500.0, 1e4, 1e6])),
    st.builds(dict, theta=st.just(1e4), scaling=st.just("linear"), factor=st.sampled_from([2.0, 8.0])),
    st.builds(
        dict,
        theta=st.just(5e5),
        scaling=st.just("llama3"),
        factor=st.just(32.0),
        original_context=st.just(64),
    ),
)
BASES: dict[str, dict[str, Any]] = {  # near the families, so that many of the points are somebody's
    "llama": {},
    "gemma": {
        "norm_offset": True, "norm_place": "sandwich", "activation": "gelu_tanh", "embed_scale": 32**0.5,
    },
    "gpt2": {
        "norm": "layer", "norm_eps": 1e-5, "mlp": "plain", "rope": None, "learned_positions": 64,
        "qkv_bias": True, "out_bias": True, "mlp_bias": True, "n_kv_heads": 4,
    },
    "opt": {
        "norm": "layer", "norm_eps": 1e-5, "mlp": "plain", "rope": None, "learned_positions": 66,
        "position_offset": 2, "activation": "relu", "n_kv_heads": 4,
    },
}  # fmt: skip
VISION = {
    "d_model": 32, "n_layers": 2, "n_heads": 4, "head_dim": 8, "d_ff": 40, "patch_size": 4, "image_size": 32,
    "image_token": 5,
}  # fmt: skip
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "n_kv_heads": st.sampled_from([1, 2, 4]),
        "head_dim": st.sampled_from([8, 10]),
        "norm_eps": st.sampled_from([1e-6, 1e-5]),
        "norm_place": st.sampled_from(["pre", "post", "sandwich"]),
        "final_norm": st.booleans(),
        "rope": ROPES,
        "local_rope": ROPES,
        "activation": st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"]),
        "qkv_bias": st.booleans(),
        "out_bias": st.booleans(),
        "mlp_bias": st.booleans(),
        "qk_norm": st.booleans(),
        "attention_scale": st.sampled_from([None, 1.0, 8**-0.5, 17**-0.5, 0.3]),
        "attention_soft_cap": st.sampled_from([None, 50.0]),
        "logit_soft_cap": st.sampled_from([None, 30.0]),
        "d_embed": st.sampled_from([None, 20, 32]),
        "tied": st.booleans(),
        "vision": st.sampled_from([None, VISION]),
    },
)


@given(
    base=st.sampled_from(sorted(BASES)),
    change=CHANGES,
    layers=st.sets(st.integers(0, LAYERS - 1)),
    prefer=st.sampled_from([None, *FAMILIES]),
)
@settings(max_examples=300, deadline=None)
def test_what_is_written_reads_back_as_the_same_model(
    base: str, change: dict[str, Any], layers: set[int], prefer: str | None
) -> None:
    axes = {
        "vocab_size": 67, "d_model": 32, "n_layers": LAYERS, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8,
        "d_ff": 48, "context": 64, **BASES[base], **change,
    }  # fmt: skip
    if layers:
        axes |= {"window": 7, "windowed_layers": tuple(sorted(layers))}
    try:
        config = ModelConfig(**axes)
    except ValidationError:
        return
    try:
        written, family = config_to_hf(config, prefer)
    except InputError as error:
        assert "no Hugging Face family can express this model" in str(error)
        assert str(error).count(" has no ") >= len(FAMILIES) - 2
        return
    back, again = config_from_hf(json.loads(json.dumps(written)))
    assert back == canonical(config)
    assert again.model_type == family.model_type

    # every parameter is in the checkpoint, once
    with torch.device("meta"):
        names = {name for name, _ in Decoder(back).named_parameters()}
    parts = Counter(part for stored in family.tensors(back) for part in stored.parts)
    assert set(parts) == names
    assert set(parts.values()) == {1}

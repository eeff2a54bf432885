"""Rotary positions in `config.json`, in the older spelling (`rope_theta`, `rope_scaling`) and the
newer (`rope_parameters`, also one per layer type). We write the older, which every version reads."""

from __future__ import annotations

from typing import Any

from whorl.base.errors import InputError
from whorl.models.config import RopeConfig
from whorl.models.families.fields import Fields

KNOWN = ("default", "linear", "llama3")
KEYS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}  # fmt: skip


def read_rope(fields: Fields) -> RopeConfig:
    """The one rotation of all layers. transformers lets `rope_scaling` win over `rope_parameters`."""
    part = fields.part("rope_scaling")
    if not part.values:
        part = fields.part("rope_parameters")
    return _read(part, fields, "rope_theta")


def read_layer_ropes(fields: Fields) -> tuple[RopeConfig, RopeConfig]:
    """Gemma 3's two: of the layers that see everything, and of the windowed ones."""
    newer = fields.part("rope_parameters")
    full, sliding = newer.part("full_attention"), newer.part("sliding_attention")
    scaling = fields.part("rope_scaling")
    if scaling.values:
        full = Fields({**full.values, **scaling.values}, scaling.where)
    return _read(full, fields, "rope_theta"), _read(sliding, fields, "rope_local_base_freq")


def _read(part: Fields, fields: Fields, theta_name: str) -> RopeConfig:
    kind = part.raw("rope_type") or part.raw("type") or "default"
    if kind not in KNOWN:
        raise InputError(f"{part.where}: rope type {kind!r} is not supported; use one of {', '.join(KNOWN)}")
    if (
        part.optional_number("partial_rotary_factor")
        or fields.optional_number("partial_rotary_factor")
        or 1.0
    ) != 1.0:
        raise InputError(f"{part.where}: partial_rotary_factor other than 1 is not supported")
    extra = sorted(
        set(part.values) - KEYS[kind] - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    )
    # transformers puts the trained length beside types that have no use for it
    extra = [name for name in extra if name != "original_max_position_embeddings"]
    if extra:
        raise InputError(f"{part.where}: {extra[0]} has no meaning for rope type {kind!r}")
    theta = part.optional_number("rope_theta")
    values: dict[str, Any] = {"theta": theta if theta is not None else fields.number(theta_name)}
    if kind == "default":
        return RopeConfig(**values)
    values |= {"scaling": kind, "factor": part.number("factor")}
    if kind == "llama3":
        context = part.optional_size("original_max_position_embeddings")
        values |= {
            "low_freq_factor": part.number("low_freq_factor"),
            "high_freq_factor": part.number("high_freq_factor"),
            "original_context": context or fields.size("max_position_embeddings"),
        }
    return RopeConfig(**values)


def write_rope(rope: RopeConfig) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of one rotation."""
    scaling: dict[str, Any] | None = None
    if rope.scaling != "default":
        scaling = {"rope_type": rope.scaling, "factor": rope.factor}
    if rope.scaling == "llama3":
        assert scaling is not None
        scaling |= {
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_context,
        }
    return {"rope_theta": rope.theta, "rope_scaling": scaling}

"""Weights in 8 or 4 bits, applied to a decoder, and how a Hugging Face directory says so.

On disk it is compressed-tensors' "pack-quantized", which vLLM and transformers read: each quantised
`X.weight` is `X.weight_packed`, `X.weight_scale` and `X.weight_shape`. Embeddings, norms, the vision
tower and the output head stay as they are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from whorl.base.errors import InputError
from whorl.kernels.quantise import BITS, GROUPS
from whorl.models.decoder import Decoder
from whorl.models.families.family import Stored
from whorl.models.layers import Linear
from whorl.models.lora_layer import ending, refuse_adapted
from whorl.models.quant_layer import QuantLinear

Kind = Literal["int8", "int4"]
FIELD = "quantization_config"
EMBEDDINGS = ("embed", "position_embed")
SUFFIXES = ("_packed", "_scale", "_shape")  # of a weight's name
REMEDY = "use the unquantised model, and quantise it with: whorl model quantize"


@dataclass(frozen=True)
class Scheme:
    """`group` elements of a row share a scale; 0 is the whole row, which is int8's."""

    kind: Kind
    group: int

    @property
    def bits(self) -> int:
        return BITS[self.kind]

    def __str__(self) -> str:
        return f"{self.kind} in groups of {self.group}" if self.group else f"{self.kind} by row"


def scheme(kind: str, group: int = 32) -> Scheme:
    """InputError where there is no such kind or group."""
    if kind == "int8":
        return Scheme("int8", 0)
    if kind != "int4":
        raise InputError(f"there is no quantisation {kind!r}; choose one of {', '.join(BITS)}")
    if group not in GROUPS:
        raise InputError(f"int4 has no group size {group}; choose one of {', '.join(map(str, GROUPS))}")
    return Scheme("int4", group)


# -- a model --------------------------------------------------------------------------------------


def quantise(model: Decoder, kind: str, group: int = 32, *, head: bool = False) -> Decoder:
    """Put every linear layer of the decoder's blocks into 8 or 4 bits, in place; returns `model`.

    int8 has a scale for each output row, int4 for each `group` (32, 64, 128) of a row. Embeddings,
    norms and vision stay. `head` adds a quantised copy of the output matrix that `Projection` uses;
    it is not saved. InputError names the layer whose width is no multiple of `group`, or says that
    the model is quantised or adapted already; nothing has changed then.
    """
    refuse_adapted(model)
    chosen = scheme(kind, group)
    linears = _linears(model)
    if any(isinstance(module, QuantLinear) for _, module in linears):
        raise InputError("the model is already quantised; load its unquantised form")
    output = model.embed if model.head is None else model.head
    widths = [(name, module.in_features) for name, module in linears]
    _check_widths([*widths, ("head", output.weight.shape[1])] if head else widths, chosen)
    for name, module in linears:
        model.set_submodule(name, QuantLinear.of(module, chosen.bits, chosen.group))
    if head:
        model.packed_head = QuantLinear.of(output, chosen.bits, chosen.group, persistent=False)
    return model.eval()


def frame(model: Decoder, chosen: Scheme) -> Decoder:
    """Layers of the scheme in place of the model's, without values: what `load` fills."""
    linears = _linears(model)
    _check_widths([(name, module.in_features) for name, module in linears], chosen)
    for name, module in linears:
        rows, inner = module.out_features, module.in_features
        packed = torch.empty(rows, -(-inner * chosen.bits // 32), dtype=torch.int32, device="meta")
        scale = torch.empty(rows, inner // (chosen.group or inner), dtype=torch.bfloat16, device="meta")
        layer = QuantLinear(packed, scale, inner, chosen.bits, module.bias)
        model.set_submodule(name, layer)
    return model


def _linears(model: Decoder) -> list[tuple[str, Linear]]:
    return [
        (f"layers.{name}", module)
        for name, module in model.layers.named_modules()
        if isinstance(module, Linear)
    ]


def _check_widths(widths: Iterable[tuple[str, int]], chosen: Scheme) -> None:
    for name, inner in widths:
        if chosen.group and inner % chosen.group:
            fit = [group for group in GROUPS if inner % group == 0]
            remedy = f"groups of {fit[-1]} fit" if fit else "int8 needs no groups"
            raise InputError(
                f"{name} is {inner} wide, which is not a multiple of the group {chosen.group}; {remedy}"
            )


# -- a directory ----------------------------------------------------------------------------------


def read_scheme(values: Mapping[str, Any], where: str | Path) -> Scheme | None:
    """The scheme that a config.json states; None without one, InputError for one that is not ours."""
    stated = values.get(FIELD)
    if stated in (None, {}):
        return None
    place = f"{where}: {FIELD}"
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    if method != "compressed-tensors":
        raise InputError(f"{place} is {method or stated!r}, which Whorl does not read; {REMEDY}")
    if stated.get("format") != "pack-quantized" or stated.get("kv_cache_scheme"):
        what = stated.get("format") if not stated.get("kv_cache_scheme") else "a quantised KV cache"
        raise InputError(f"{place} is compressed-tensors with {what}, not plain pack-quantized; {REMEDY}")
    groups = stated.get("config_groups")
    group = next(iter(groups.values())) if isinstance(groups, dict) and len(groups) == 1 else None
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(group, dict) or not isinstance(weights, dict):
        raise InputError(f"{place}.config_groups is not one group of quantised weights; {REMEDY}")
    if group.get("input_activations") or group.get("output_activations"):
        raise InputError(f"{place} quantises activations too; {REMEDY}")
    return _read_weights(weights, place)


def _read_weights(weights: Mapping[str, Any], place: str) -> Scheme:
    plain = (
        weights.get("type", "int") == "int"
        and weights.get("symmetric", True)
        and not weights.get("dynamic")
        and not weights.get("actorder")
    )
    bits, strategy, size = (weights.get(name) for name in ("num_bits", "strategy", "group_size"))
    if plain and bits == 8 and strategy == "channel":
        return Scheme("int8", 0)
    if plain and bits == 4 and strategy == "group" and size in GROUPS:
        return Scheme("int4", int(size))
    given = ", ".join(f"{name} {value}" for name, value in weights.items() if value not in (None, {}, False))
    raise InputError(
        f"{place} has weights of {given}; Whorl reads symmetric int8 by channel and int4 by group of"
        f" {', '.join(map(str, GROUPS))}; {REMEDY}"
    )


def write_scheme(chosen: Scheme, ignore: Sequence[str]) -> dict[str, Any]:
    """The `quantization_config` of it; `ignore` are the modules of theirs that are as they were."""
    weights = {
        "num_bits": chosen.bits, "type": "int", "symmetric": True, "dynamic": False, "actorder": None,
        "strategy": "group" if chosen.group else "channel", "group_size": chosen.group or None,
        "block_structure": None, "observer": "minmax", "observer_kwargs": {},
    }  # fmt: skip
    group = {
        "targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": list(ignore), "kv_cache_scheme": None,
    }  # fmt: skip


def scheme_of(state: Mapping[str, Tensor]) -> Scheme | None:
    """The scheme of a state dict, from the shapes of its first packed weight."""
    for name, packed in state.items():
        if name.endswith(".weight_packed"):
            base = name.removesuffix("_packed")
            inner, groups = int(state[f"{base}_shape"][1]), state[f"{base}_scale"].shape[1]
            return Scheme("int8", 0) if packed.shape[1] == -(-inner // 4) else Scheme("int4", inner // groups)
    return None


def stored_packed(wanted: Sequence[Stored], names: Iterable[str]) -> list[Stored]:
    """A family's tensors, with three in place of each weight that is packed among `names` (ours)."""
    packed = {name.removesuffix("_packed") for name in names if name.endswith(".weight_packed")}
    made: list[Stored] = []
    for stored in wanted:
        if not packed.intersection(stored.parts):
            made.append(stored)
        elif stored.transposed or len(stored.parts) > 1:
            raise InputError(
                f"{stored.name} is stored transposed or fused in this family, for which compressed-tensors"
                " has no form; serve it with --quantize, which quantises while loading"
            )
        else:
            made += [Stored(stored.name + end, (stored.parts[0] + end,)) for end in SUFFIXES]
    return made


def unquantised(wanted: Sequence[Stored], state: Mapping[str, Tensor]) -> list[str]:
    """Names, as theirs, of the linear layers that stay as they are."""
    plain = {
        name
        for name, tensor in state.items()
        if name.endswith(".weight")
        and tensor.ndim == 2
        and ending(name.removesuffix(".weight")) not in EMBEDDINGS
    }
    kept = [stored.name.removesuffix(".weight") for stored in wanted if plain.intersection(stored.parts)]
    return sorted({*kept, "lm_head"})

"""Adapters on disk: a PEFT directory, `adapter_config.json` and `adapter_model.safetensors`.

Its tensors are named after the modules of the Hugging Face model that the base would be saved as.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from whorl.base.errors import DataError, InputError
from whorl.base.files import atomic_write, read_json, sha256_file, sha256_json, write_json
from whorl.models.decoder import Decoder
from whorl.models.families import Family, Stored, config_to_hf
from whorl.models.layers import Linear
from whorl.models.lora_layer import LoraLinear, adapters, ending, refuse_adapted

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# Options of PEFT's LoraConfig that Whorl reads, and those that do not change what an adapter computes
# once it is trained (which modules have tensors is read off the file). Any other must be unset.
READ = {"peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "bias",
        "init_lora_weights"}  # fmt: skip
HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform",
    "loftq_config", "megatron_core", "peft_version", "qalora_group_size", "revision", "target_modules",
    "task_type",
}  # fmt: skip
DEFAULTS = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "use_rslora": False}  # PEFT's
INITS = (True, False, None, "gaussian", "orthogonal", "eva")  # the others change the base's weights too


@dataclass(frozen=True)
class _Layer:
    """A linear layer of theirs: its name in PEFT's files, and the layers of ours stacked in it."""

    name: str
    stored: str  # its name in a checkpoint
    ours: tuple[str, ...]
    transposed: bool


def adapter_version(directory: str | Path) -> str:
    """What a PEFT directory's adapter is, as one hash: of its files' names and contents. InputError
    where it is no folder or a file cannot be read."""
    files = sorted(file for file in _folder(directory).glob("adapter_*") if file.is_file())
    try:
        return sha256_json({file.name: sha256_file(file) for file in files})
    except OSError as error:
        raise InputError(f"adapter {directory} cannot be read: {error}") from error


def _folder(directory: str | Path) -> Path:
    path = Path(directory)
    if not str(directory) or not path.is_dir():
        raise InputError(
            f"adapter {str(directory)!r} does not exist or is not a folder; give a PEFT directory"
            f" with {CONFIG_FILE}"
        )
    return path


def _layers(model: Decoder) -> tuple[list[_Layer], Family]:
    """Every layer an adapter may lie on."""
    _, family = config_to_hf(model.config, model.family)
    names = {name for name, module in model.named_modules() if isinstance(module, Linear | LoraLinear)}
    found = []
    for stored in family.tensors(model.config):
        ours = tuple(part.removesuffix(".weight") for part in stored.parts)
        if stored.shape is None and names.issuperset(ours) and ours != ("head",):
            found.append(
                _Layer(_inside(stored, family), stored.name.removesuffix(".weight"), ours, stored.transposed)
            )
    return found, family


def _inside(stored: Stored, family: Family) -> str:
    """A module's name inside transformers' model: for llava that is not the name in its files."""
    name = stored.name.removesuffix(".weight")
    if family.model_type != "llava":
        return name
    if name.startswith("language_model.model."):
        return name.replace("language_model.model.", "model.language_model.", 1)
    return f"model.{name}"


def save_adapter(model: Decoder, path: str | Path, *, base_model: str | None = None) -> None:
    """Write the adapters as a PEFT directory that `peft` and `load_adapter` read.

    `base_model` is recorded as what it belongs to. A layer that transformers keeps fused (GPT-2's
    c_attn) gets one adapter of the parts' ranks together. Raises InputError without adapters.
    """
    found = dict(adapters(model))
    if not found:
        raise InputError("the model has no adapter to save; use whorl.models.save for full models")
    layers, _ = _layers(model)
    first = next(iter(found.values()))
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    adapted = [layer for layer in layers if any(name in found for name in layer.ours)]
    for layer in adapted:
        a, b, scale = _fuse([model.get_submodule(name) for name in layer.ours])
        rank = a.shape[0]
        ranks[layer.name], alphas[layer.name] = rank, scale * (math.sqrt(rank) if first.rslora else rank)
        tensors[f"{PREFIX}{layer.name}.lora_A.weight"] = a.detach().cpu().contiguous()
        tensors[f"{PREFIX}{layer.name}.lora_B.weight"] = b.detach().cpu().contiguous()
    rank, rank_pattern = _patterns(ranks)
    alpha, alpha_pattern = _patterns({name: _whole(value) for name, value in alphas.items()})
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model,
        "r": rank, "lora_alpha": alpha, "lora_dropout": first.dropout.p, "use_rslora": first.rslora,
        "rank_pattern": rank_pattern, "alpha_pattern": alpha_pattern,
        "target_modules": _targets(adapted, layers), "bias": "none", "modules_to_save": None,
        "fan_in_fan_out": any(layer.transposed for layer in adapted),
        "init_lora_weights": True, "inference_mode": True, "use_dora": False,
    }  # fmt: skip
    with atomic_write(Path(path) / WEIGHTS_FILE, "wb") as file:
        file.write(to_bytes(tensors, metadata={"format": "pt"}))
    write_json(Path(path) / CONFIG_FILE, settings)


def _fuse(parts: Sequence[nn.Module]) -> tuple[Tensor, Tensor, float]:
    """A [R, in], B [out, R] and scale of one adapter that does what the parts' adapters do.

    Parts with the same A share it; else the A are stacked and B is block-diagonal, with rows of
    zeros for parts without an adapter.
    """
    found = [part for part in parts if isinstance(part, LoraLinear)]
    first, scale = found[0].lora_a.weight, found[0].scale
    blocks = [part.lora_b.weight * (part.scale / scale) for part in found]
    if len(found) == len(parts) and all(torch.equal(part.lora_a.weight, first) for part in found):
        return first, torch.cat(blocks), scale
    rank, start = sum(part.rank for part in found), 0
    rows = []
    for part in parts:
        if isinstance(part, LoraLinear):
            block = blocks.pop(0)
            rows.append(nn.functional.pad(block, (start, rank - start - part.rank)))
            start += part.rank
        else:
            assert isinstance(part, Linear)
            rows.append(first.new_zeros(part.out_features, rank))
    return torch.cat([part.lora_a.weight for part in found]), torch.cat(rows), scale


def _whole(value: float) -> float | int:
    """As PEFT writes it: an integer where it is one."""
    return round(value) if math.isclose(value, round(value), rel_tol=1e-12) else value


def _patterns(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The most common value, and PEFT's pattern → value for the layers that differ."""
    common = Counter(values.values()).most_common(1)[0][0]
    by_ending: dict[str, set[Any]] = defaultdict(set)
    for name, value in values.items():
        by_ending[ending(name)].add(value)
    pattern = {}
    for name, value in values.items():
        if value != common:
            pattern[ending(name) if len(by_ending[ending(name)]) == 1 else re.escape(name)] = value
    return common, pattern


def _targets(adapted: Sequence[_Layer], layers: Sequence[_Layer]) -> list[str]:
    """Endings where every layer with that ending is adapted, else full names."""
    others = {ending(layer.name) for layer in layers} & {
        ending(layer.name) for layer in layers if layer not in adapted
    }
    names = (layer.name if ending(layer.name) in others else ending(layer.name) for layer in adapted)
    return list(dict.fromkeys(names))


def load_adapter(model: Decoder, path: str | Path) -> Decoder:
    """Put a PEFT directory's LoRA on `model`, in place, and freeze all else.

    Raises InputError for another kind of adapter, or an option that changes the result and that
    Whorl does not have; DataError for tensors that do not fit. Both name the file; the model is
    touched only when all fits.
    """
    refuse_adapted(model)
    directory = _folder(path)
    settings = _read_settings(directory / CONFIG_FILE)
    pairs = _read_pairs(directory)
    layers, family = _layers(model)
    by_name = {layer.name: layer for layer in layers} | {layer.stored: layer for layer in layers}
    file = directory / WEIGHTS_FILE
    made: dict[str, LoraLinear] = {}
    for name, (a, b) in pairs.items():
        layer = by_name.get(name) or by_name.get(family.alias(f"{name}.weight").removesuffix(".weight"))
        if layer is None:
            raise InputError(
                f"{file}: this model has no layer {name} that takes an adapter; check the adapter's base"
                " model"
            )
        made |= _attach(model, layer, a, b, settings, f"{file}: {name}")
    model.requires_grad_(False)
    for name, adapter in made.items():
        model.set_submodule(name, adapter)
    return model


def _attach(
    model: Decoder, layer: _Layer, a: Tensor, b: Tensor, settings: dict[str, Any], where: str
) -> dict[str, LoraLinear]:
    """The adapters of our layers that one adapter of theirs makes: B's rows shared out among them."""
    parts = [model.get_submodule(name) for name in layer.ours]
    assert all(isinstance(part, Linear) for part in parts)
    linears = [part for part in parts if isinstance(part, Linear)]
    rank, width, rows = a.shape[0], linears[0].in_features, sum(part.out_features for part in linears)
    if a.shape != (rank, width) or b.shape != (rows, rank):
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        raise DataError(f"{where} has lora_A and lora_B of {shapes}, but the layer is [{rows}, {width}]")
    if rank != (said := _pattern(settings, "rank_pattern", "r", layer)):
        raise DataError(f"{where} has rank {rank}, but {CONFIG_FILE} says {said}")
    alpha = float(_pattern(settings, "alpha_pattern", "lora_alpha", layer))
    made = {}
    pieces = b.split([part.out_features for part in linears])
    for name, part, piece in zip(layer.ours, linears, pieces, strict=True):
        adapter = LoraLinear(part, rank, alpha, settings["lora_dropout"], settings["use_rslora"])
        with torch.no_grad():
            adapter.lora_a.weight.copy_(a)
            adapter.lora_b.weight.copy_(piece)
        made[name] = adapter
    return made


def _pattern(settings: dict[str, Any], patterns: str, default: str, layer: _Layer) -> Any:
    """A layer's own value where a pattern matches its name, as PEFT matches it."""
    for pattern, value in (settings.get(patterns) or {}).items():
        if re.match(_matching(pattern), layer.name):
            return value
    return settings[default]


def _matching(pattern: str) -> str:
    """PEFT's regular expression for the layers that a pattern means."""
    return rf"(.*\.)?({pattern})$"


def _read_settings(file: Path) -> dict[str, Any]:
    settings = read_json(file, what="adapter config")
    if not isinstance(settings, dict):
        raise DataError(f"{file} is not a JSON object")
    if settings.get("peft_type") != "LORA":
        raise InputError(f"{file}: peft_type is {settings.get('peft_type')!r}; Whorl reads LORA")
    if settings.get("init_lora_weights", True) not in INITS:
        kind = settings["init_lora_weights"]
        raise InputError(
            f"{file}: init_lora_weights {kind!r} changes the base model too; convert it with peft"
        )
    for name, value in settings.items():
        if name not in READ | HARMLESS and value not in (None, False, "none") and value != {} and value != []:
            raise InputError(
                f"{file}: {name} = {json.dumps(value)[:60]} is not supported; merge it with peft"
            )
    if settings.get("bias", "none") != "none":
        raise InputError(f"{file}: bias = {settings['bias']!r} is not supported; only none is")
    checked = {**DEFAULTS, **settings}
    for name in ("r", "lora_alpha"):
        if not _positive(checked[name]):
            raise DataError(f"{file}: {name} is {_shown(checked[name])}; it must be a number above 0")
    dropout = checked["lora_dropout"]
    if dropout != 0 and not (_positive(dropout) and dropout <= 1):
        raise DataError(f"{file}: lora_dropout is {_shown(dropout)}; it must be a number from 0 to 1")
    if not isinstance(checked["use_rslora"], bool):
        raise DataError(f"{file}: use_rslora is {_shown(checked['use_rslora'])}; it must be true or false")
    for name in ("rank_pattern", "alpha_pattern"):
        _check_patterns(checked.get(name), f"{file}: {name}")
    return checked


def _positive(value: Any) -> bool:
    """A number above 0 that a float holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]


def _check_patterns(patterns: Any, where: str) -> None:
    if patterns is None:
        return
    if not isinstance(patterns, dict):
        raise DataError(f"{where} is {_shown(patterns)}; it must be an object of layers' names")
    for pattern, value in patterns.items():
        if not _positive(value):
            raise DataError(f"{where}: {pattern} is {_shown(value)}; it must be a number above 0")
        try:
            re.compile(_matching(pattern))
        except (re.error, RecursionError, OverflowError) as error:
            raise DataError(
                f"{where}: {_shown(pattern)} is not a regular expression for layer names: {error}"
            ) from error


def _read_pairs(directory: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer's name in the file → (A, B), both in fp32."""
    file = directory / WEIGHTS_FILE
    if not file.is_file():
        pickled = directory / "adapter_model.bin"
        hint = f"; {pickled.name} is a pickle file, which Whorl does not read" if pickled.exists() else ""
        raise InputError(f"{file} does not exist{hint}; save the adapter as safetensors")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DataError(f"{file} is not a safetensors file or is damaged: {error}") from error
    halves: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_(A|B)\.weight", key)
        if match is None or tensor.ndim != 2:
            raise InputError(f"{file}: {key} is not a matrix of a LoRA on linear layers; merge it with peft")
        halves[match[1]][match[2]] = tensor.float()
    for name, half in halves.items():
        if len(half) != 2:
            raise DataError(
                f"{file}: {name} has lora_{next(iter(half))} alone; the file is truncated or edited"
            )
    if not halves:
        raise DataError(f"{file} contains no adapter")
    return {name: (half["A"], half["B"]) for name, half in halves.items()}

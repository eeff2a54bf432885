"""The model families Whorl reads and writes: one small file each, listed here.

To add one, write a file with a `FAMILY` and name it in `FAMILIES`; where the axes of `ModelConfig`
express the model, nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from whorl.base.errors import InputError
from whorl.models.config import ModelConfig
from whorl.models.families import gemma2, gemma3, gpt2, llama, llava, mistral, opt, qwen2, qwen3
from whorl.models.families.family import Family, Stored, canonical
from whorl.models.families.fields import Fields, UnfitError

__all__ = ["FAMILIES", "Family", "Stored", "check_family", "config_from_hf", "config_to_hf", "family_of"]

# Where several express a model, the first one names it.
FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        llama.FAMILY, mistral.FAMILY, qwen2.FAMILY, qwen3.FAMILY,
        gemma2.FAMILY, gemma3.FAMILY, gpt2.FAMILY, opt.FAMILY,
    )
}  # fmt: skip
LLAVA = "llava"
WITHOUT_IMAGES = ("gpt2", "opt")


def family_of(values: Mapping[str, Any], where: str | Path) -> Family:
    """The family of a `config.json`; `InputError` lists those Whorl has."""
    kind = values.get("model_type")
    if kind == LLAVA:
        text = values.get("text_config")
        inner = text.get("model_type", "llama") if isinstance(text, dict) else "llama"
        return _llava(_known(inner, f"{where}: text_config"))
    return _known(kind, str(where))


def _known(kind: Any, where: str) -> Family:
    if kind not in FAMILIES:
        says = "is missing" if kind is None else f"is {kind!r}"
        raise InputError(f"{where}: model_type {says}; Whorl reads {', '.join([*FAMILIES, LLAVA])}")
    return FAMILIES[kind]


def _llava(text: Family) -> Family:
    if text.model_type in WITHOUT_IMAGES:
        raise InputError(
            f"a llava model around {text.model_type!r} is not supported by transformers or Whorl"
        )
    return llava.wrap(text)


def config_from_hf(
    values: Mapping[str, Any], where: str | Path = "config.json"
) -> tuple[ModelConfig, Family]:
    """Our config and the family of theirs. `InputError` names the field that cannot be honoured."""
    family = family_of(values, where)
    try:
        config = family.read(Fields(values, str(where)))
    except ValidationError as error:
        raise InputError(f"{where}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    return canonical(config), family


def config_to_hf(config: ModelConfig, prefer: str | None = None) -> tuple[dict[str, Any], Family]:
    """Their config of ours and its family: `prefer` (a `model_type`) where it expresses every axis,
    else the first that does. `InputError` says, for each family, which axis it lacks."""
    reasons = []
    names = list(FAMILIES)
    if prefer in names:
        names.remove(prefer)
        names.insert(0, prefer)
    for name in names:
        if config.vision is not None and name in WITHOUT_IMAGES:
            continue
        family = llava.wrap(FAMILIES[name]) if config.vision is not None else FAMILIES[name]
        reason = _misfit(config, family)
        if reason is None:
            head = {"architectures": [family.architecture], "model_type": family.model_type}
            return {**head, **family.write(canonical(config))}, family
        reasons.append(f"{name} has no {reason}")
    raise InputError(f"no Hugging Face family can express this model: {'; '.join(reasons)}")


def check_family(config: ModelConfig, name: str) -> None:
    """`InputError` unless the family of that `model_type` expresses the model."""
    if config.vision is not None and name in WITHOUT_IMAGES:
        raise InputError(f"a llava model around {name!r} is not supported by transformers or Whorl")
    text = _known(name, "--family")
    reason = _misfit(config, llava.wrap(text) if config.vision is not None else text)
    if reason is not None:
        raise InputError(f"--family {name} has no {reason}")


def _misfit(config: ModelConfig, family: Family) -> str | None:
    """The axis `family` cannot express, or None: what it writes must read back as the same model."""
    wanted = canonical(config)
    try:
        written = family.write(wanted)
    except UnfitError as unfit:
        return str(unfit)
    back = canonical(family.read(Fields({"model_type": family.model_type, **written}, family.model_type)))
    for axis in ModelConfig.model_fields:
        mine, theirs = getattr(wanted, axis), getattr(back, axis)
        if mine != theirs:
            return f"{axis} {mine!r}"
    return None

"""What a family is: how its `config.json` and its tensors' names map to ours, both ways.

A family holds no code of the model: it is a point in the space of `ModelConfig`'s axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from whorl.models.config import ModelConfig
from whorl.models.families.fields import Fields, UnfitError


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint: its name there, and the parameters of ours that it holds.

    Several `parts` are stacked along their first axis. `transposed` is GPT-2's [in, out] order;
    `shape` is the shape in the file where it is not simply ours (a convolution's).
    """

    name: str
    parts: tuple[str, ...]
    transposed: bool = False
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    `read` makes a config of ours from theirs and raises `InputError` for what it cannot honour;
    `write` gives the fields of theirs and raises `UnfitError` where an axis has no field; `tensors` lists
    every tensor of a checkpoint, named as transformers writes it. `alias` gives that name for the other
    spellings in use; names ending in one of `buffers` hold no weights.
    """

    model_type: str
    architecture: str
    read: Callable[[Fields], ModelConfig]
    write: Callable[[ModelConfig], dict[str, Any]]
    tensors: Callable[[ModelConfig], list[Stored]]
    alias: Callable[[str], str] = str
    buffers: tuple[str, ...] = ("rotary_emb.inv_freq",)


def with_base(base: str) -> Callable[[str], str]:
    """Checkpoints of the bare model, without a head, leave the prefix out."""
    return lambda name: name if name.startswith((base, "lm_head.")) else base + name


def head_dim(fields: Fields, width: int, heads: int) -> int:
    """`head_dim` where given, else an equal share of the width."""
    given = fields.optional_size("head_dim")
    if given is None and width % heads:
        raise fields.wrong("hidden_size", f"a multiple of the {heads} attention heads")
    return given if given is not None else width // heads


def scale_of(value: float | None, dim: int) -> float | None:
    """An attention scale as our axis has it: None where it is the usual one."""
    return None if value is None or value == dim**-0.5 else value


def canonical(config: ModelConfig) -> ModelConfig:
    """The one spelling among configs that mean the same model."""
    changes: dict[str, Any] = {"attention_scale": scale_of(config.attention_scale, config.head_dim)}
    if not config.windowed_layers:
        changes |= {"window": None, "local_rope": None}
    if config.local_rope == config.rope:
        changes["local_rope"] = None
    if config.d_embed == config.d_model:
        changes["d_embed"] = None
    for name in ("attention_soft_cap", "logit_soft_cap"):
        if not getattr(config, name):
            changes[name] = None
    return config.model_copy(update=changes)


def need(condition: bool, axis: str) -> None:
    """Raise `UnfitError` naming the axis unless the family can express it."""
    if not condition:
        raise UnfitError(axis)

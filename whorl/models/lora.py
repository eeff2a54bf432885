"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): injected, trained alone, merged or kept apart."""

from __future__ import annotations

import torch

from whorl.base.errors import InputError
from whorl.models.adapter import load_adapter, save_adapter
from whorl.models.config import LoraConfig
from whorl.models.decoder import Decoder
from whorl.models.layers import Linear
from whorl.models.lora_layer import LoraLinear, adapters, ending, refuse_adapted

__all__ = ["LoraConfig", "LoraLinear", "adapters", "inject", "load_adapter", "merge", "save_adapter"]


def inject(model: Decoder, config: LoraConfig, *, seed: int = 0) -> Decoder:
    """Put adapters on the decoder's blocks and freeze all else; the model computes as before.

    `config.targets` are names of our linear layers (q, k, v, o, gate, up, down), None all of them.
    Initial values depend on `seed` alone. Raises InputError where a target is in no block, or where
    the model has adapters already. Returns `model`, changed in place.
    """
    refuse_adapted(model)
    linears = {name: module for name, module in model.layers.named_modules() if isinstance(module, Linear)}
    known = {ending(name) for name in linears}
    targets = known if config.targets is None else set(config.targets)
    if missing := sorted(targets - known):
        raise InputError(f"lora.targets: no block has {missing[0]!r}; it has {', '.join(sorted(known))}")
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for name, module in linears.items():
        if ending(name) in targets:
            adapter = LoraLinear(module, config.rank, config.alpha, config.dropout, config.rslora)
            adapter.reset(generator)
            model.layers.set_submodule(name, adapter)
    return model


def merge(model: Decoder) -> Decoder:
    """Add every adapter to the weight under it and leave an ordinary, trainable model, in place."""
    found = list(adapters(model))
    if not found:
        raise InputError("the model has no adapter to merge; load one with adapter=")
    for name, adapter in found:
        model.set_submodule(name, adapter.merged())
    return model.requires_grad_(True)

"""A model's first weights: every residual branch begins at zero, so the model begins as its embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from whorl.base.errors import InputError
from whorl.models.decoder import Decoder
from whorl.models.layers import Norm
from whorl.models.lora_layer import adapters

EMBEDDING_STD = 0.02  # as GPT-2's (Radford et al. 2019)
BRANCH_ENDS = ("attention.o.weight", "mlp.down.weight")  # what a block adds to the residual stream


@torch.no_grad()
def init_weights(model: Decoder, seed: int) -> Decoder:
    """Draw `model`'s weights in place from `seed`; returns it.

    Embeddings are normal with std 0.02, matrices with std 1 / √fan_in, the matrices that end a
    residual branch zero (ReZero, arXiv 2003.04887, for the matrix), biases zero and norms
    at identity; the vision tower and projector likewise. Each tensor is drawn from (seed, its name),
    so its values do not depend on the others, and on the CPU, so not on the device either.
    """
    if any(True for _ in adapters(model)):
        raise InputError("init_weights is for a model without adapters; inject them afterwards")
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    norms = {id(module.weight): module.offset for module in model.modules() if isinstance(module, Norm)}
    for name, parameter in model.named_parameters():
        if id(parameter) in norms:
            parameter.fill_(0.0 if norms[id(parameter)] else 1.0)
        elif parameter.ndim < 2 or name.endswith(BRANCH_ENDS):
            parameter.zero_()
        else:
            std = EMBEDDING_STD if id(parameter) in tables else parameter.shape[1] ** -0.5
            drawn = torch.randn(parameter.shape, generator=_generator(seed, name)) * std
            parameter.copy_(drawn)
    return model


@contextmanager
def without_values() -> Iterator[None]:
    """Modules made meanwhile have shapes and no memory (torch's "meta" device)."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """torch's modules draw first weights on the meta device too, where there is nothing to draw: for that
    it imports its compiler, a second and a half and 150 MB in every process that loads a model."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))

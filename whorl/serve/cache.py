"""The paged cache of keys and values, and the context that reads and writes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from whorl.kernels.paged_attention import paged_attention, store
from whorl.kernels.spec import AttentionSpec
from whorl.models.config import ModelConfig


@dataclass(frozen=True)
class PagedContext:
    """New tokens of several sequences side by side in [T], each seeing all of its own sequence.

    `positions` [T] count from 0 in each sequence; `slots` [T] is where each token's key and value go,
    page · size + place in the page, -1 for padding; `offsets` [N + 1] delimit the sequences,
    `tables` [N, M] are their pages in order and `lengths` [N] all their tokens, these included.
    `keys` and `values` hold one [pages, key heads, size, head dim] for each layer.
    """

    positions: Tensor
    slots: Tensor
    offsets: Tensor
    tables: Tensor
    lengths: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, layer: int) -> Tensor:
        keys, values = self.keys[layer], self.values[layer]
        store(k, v, keys, values, self.slots)
        return paged_attention(q, keys, values, self.tables, self.offsets, self.lengths, spec)


torch.utils._pytree.register_dataclass(PagedContext)


def page_bytes(config: ModelConfig, size: int, dtype: torch.dtype) -> int:
    """Memory of one page of `size` tokens: keys and values of all layers."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * size * dtype.itemsize


class Cache:
    """Keys and values of `count` pages; one more page behind them is where padding reads."""

    def __init__(
        self, config: ModelConfig, count: int, size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.count, self.size = count, size
        shape = (count + 1, config.n_kv_heads, size, config.head_dim)
        layers = range(config.n_layers)
        self.keys = tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in layers)
        self.values = tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in layers)

    @property
    def padding_page(self) -> int:
        return self.count

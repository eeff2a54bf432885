"""The paged cache of keys and values, and the context that reads and writes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from whorl.base.errors import InputError
from whorl.base.memory import available_memory
from whorl.base.progress import say
from whorl.kernels.paged_attention import paged_attention, store
from whorl.kernels.spec import AttentionSpec
from whorl.models.config import ModelConfig
from whorl.serve.engine_config import EngineConfig

GB = 1e9
LOGIT_ROWS = 64  # of a step, held at a time in fp32 with what is made of them


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


def fit_cache(
    model: ModelConfig,
    config: EngineConfig,
    dtype: torch.dtype,
    device: torch.device,
    free: int | None = None,
) -> tuple[int, int]:
    """(context, pages): what the device's memory has room for, of which `free` bytes are free (None:
    they are looked up). A context or a cache that does not fit is lowered, and said."""
    own = model.context
    if model.learned_positions:
        own = min(own, model.learned_positions - model.position_offset)
    context = min(config.context or own, own)
    if config.context is not None and config.context > own:
        say(f"context lowered from {config.context} to {own} tokens: that is the model's maximum")
    one = page_bytes(model, config.page, dtype)
    wanted = -(-context // config.page) * config.most
    free = free_memory(device) if free is None else free
    most = max(0, free - step_bytes(model, config, dtype))
    given = min(free / 2, most) if config.memory is None else config.memory * GB
    count = int(min(given // one, wanted))
    if config.memory is not None and count * one > most:
        say(
            f"--memory lowered from {given / GB:.2f} GB to {most / GB:.2f} GB: that is all that is free"
            f" on {device}"
        )
        given = most
        count = int(given // one)
    if count < 1:
        raise InputError(
            f"--memory: {given / GB:.2f} GB cannot hold a page of {config.page} tokens"
            f" ({one / GB:.3f} GB per page); give more"
        )
    if count * config.page < context:
        lowered = count * config.page
        say(
            f"context lowered from {context} to {lowered} tokens: {given / GB:.2f} GB hold only that"
            " many; see --memory"
        )
        context = lowered
    say(
        f"cache: {count * config.page:,} tokens in {count * one / GB:.2f} GB,"
        f" {count * config.page / context:.1f} full conversations of {context:,}"
    )
    return context, count


def free_memory(device: torch.device) -> int:
    """Bytes that the device has free, and that this process may take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def step_bytes(model: ModelConfig, config: EngineConfig, dtype: torch.dtype) -> int:
    """What a step needs beside the cache, from above: a block's activations for every token of the
    budget, some of them in fp32, and the logits of the rows that are sampled at once."""
    tokens = max(config.budget, config.most)
    widths = 4 * model.d_model + 3 * model.d_ff + 2 * (model.n_heads + 2 * model.n_kv_heads) * model.head_dim
    rows = max(config.most, LOGIT_ROWS)
    return 2 * tokens * widths * max(4, dtype.itemsize) + 3 * rows * model.vocab_size * 4

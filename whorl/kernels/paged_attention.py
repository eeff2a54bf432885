"""Attention of new tokens over sequences whose keys and values lie in pages.

The cache of a layer is `k_pages` and `v_pages` [P, K, S, D]: pages, key heads, places of a page, head
dim. `tables` int32 [N, M] are the pages of each sequence in order, `offsets` int32 [N + 1] delimit the
new tokens of the sequences in [T], `lengths` int32 [N] count all tokens of each, the new ones included:
query j of sequence i stands at position lengths[i] − n_i + j and sees what is not after it.

Two registered ops whose tables, offsets and lengths are data: whatever the lengths, a compiled model
sees one node. On CUDA they are Triton's (`triton_paged`). `reference` is the specification.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from whorl.kernels import native, triton_paged
from whorl.kernels.attention import FLASH_FORWARD
from whorl.kernels.spec import AttentionSpec
from whorl.kernels.wide import widened

QUERY_BLOCK = 256  # queries of the portable path at a time: bounds its scores


def reference(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Tensor, offsets: Tensor, lengths: Tensor,
    spec: AttentionSpec,
) -> Tensor:  # fmt: skip
    """The specification: each sequence's keys gathered, one dense mask, softmax in fp32.

    q [T, H, D] with H a multiple of K; returns [T, H, D] in q's dtype.
    """
    out = torch.zeros_like(q)
    for start, stop, keys, values, length in _sequences(k_pages, v_pages, tables, offsets, lengths):
        group = q.shape[1] // keys.shape[0]
        query = q[start:stop].float().transpose(0, 1)  # [H, n, D]
        wide_keys, wide_values = (x.float().repeat_interleave(group, 0) for x in (keys, values))
        scores = query @ wide_keys.transpose(1, 2) * spec.scale
        if spec.soft_cap is not None:
            scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
        scores = scores.masked_fill(~_seen(stop - start, length, spec.window or 0, q.device), float("-inf"))
        out[start:stop] = (scores.softmax(-1) @ wide_values).transpose(0, 1).to(q.dtype)
    return out


def paged_attention(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Tensor, offsets: Tensor, lengths: Tensor,
    spec: AttentionSpec,
) -> Tensor:  # fmt: skip
    """As `reference`, the fast way."""
    given = (
        q,
        k_pages,
        v_pages,
        tables,
        offsets,
        lengths,
        spec.scale,
        spec.window or 0,
        spec.soft_cap or 0.0,
    )
    if torch.compiler.is_compiling():
        return torch.ops.whorl.paged_attention(*given)
    return _attend(*given)  # a registered op's call costs more than a small step's attention


def store(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
    """Write k and v [T, K, D] into the pages, in place: token t goes to page slots[t] // S, place
    slots[t] % S; a slot of −1 is padding and goes nowhere."""
    if torch.compiler.is_compiling():
        torch.ops.whorl.paged_store(k, v, k_pages, v_pages, slots)
    else:
        _write(k, v, k_pages, v_pages, slots)


def _sequences(
    k_pages: Tensor, v_pages: Tensor, tables: Tensor, offsets: Tensor, lengths: Tensor
) -> Iterator[tuple[int, int, Tensor, Tensor, int]]:
    """(first query, query after the last, keys [K, L, D], values [K, L, D], L) of each that has queries."""
    size = k_pages.shape[2]
    bounds, counts = offsets.tolist(), lengths.tolist()
    for number, length in enumerate(counts):
        start, stop = bounds[number], bounds[number + 1]
        if stop > start:
            pages = tables[number, : -(-length // size)].long().to(k_pages.device)
            keys, values = (
                pool.index_select(0, pages).transpose(0, 1).flatten(1, 2)[:, :length]
                for pool in (k_pages, v_pages)
            )
            yield start, stop, keys, values, length


def _seen(queries: int, length: int, window: int, device: torch.device) -> Tensor:
    """Which of `length` tokens each of the last `queries` of them sees: [queries, length]."""
    at = torch.arange(length - queries, length, device=device)[:, None]
    distance = at - torch.arange(length, device=device)[None, :]
    seen = distance >= 0
    return seen & (distance < window) if window else seen


def _write(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
    if triton_paged.asked(k_pages.device):
        if write := triton_paged.store_for(k_pages, v_pages):
            return write(k, v, k_pages, v_pages, slots)
    elif k.device.type == "cpu" and (kernels := native.kernels().elementwise):
        tensors = (k, v, k_pages, v_pages)
        alike = len({part.dtype for part in tensors}) == 1 and k.dtype in (torch.bfloat16, torch.float32)
        if alike and all(part.is_contiguous() for part in (*tensors, slots)):
            return kernels.store(k, v, k_pages, v_pages, slots)
    real = slots >= 0
    if not bool(real.all()):
        k, v, slots = k[real], v[real], slots[real]
    size = k_pages.shape[2]
    page, place = slots // size, slots % size
    k_pages[page, :, place] = k.to(k_pages.dtype)
    v_pages[page, :, place] = v.to(v_pages.dtype)
    return None


_store = torch.library.custom_op("whorl::paged_store", _write, mutates_args=("k_pages", "v_pages"))


@_store.register_fake
def _(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
    return None


def _attend(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Tensor, offsets: Tensor, lengths: Tensor,
    scale: float, window: int, soft_cap: float,
) -> Tensor:  # fmt: skip
    if triton_paged.asked(q.device):
        if run := triton_paged.attention_for(q, k_pages, v_pages, soft_cap):
            return run(q, k_pages, v_pages, tables, offsets, lengths, scale, window, soft_cap)
    elif q.device.type == "cpu" and (attend := native.kernels().paged_attention):
        made = attend(q, k_pages, v_pages, tables, offsets, lengths, scale, window, soft_cap)
        if made is not None:
            return made
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    for start, stop, keys, values, length in _sequences(k_pages, v_pages, tables, offsets, lengths):
        out[start:stop] = _portable(q[start:stop], keys, values, length, scale, window, soft_cap)
    return out


_op = torch.library.custom_op("whorl::paged_attention", _attend, mutates_args=())


@_op.register_fake
def _(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Tensor, offsets: Tensor, lengths: Tensor,
    scale: float, window: int, soft_cap: float,
) -> Tensor:  # fmt: skip
    return q.new_empty(q.shape)


def _portable(
    q: Tensor, keys: Tensor, values: Tensor, length: int, scale: float, window: int, soft_cap: float
) -> Tensor:
    """One sequence in torch's own ops: q [n, H, D], keys and values [K, L, D]."""
    kind, (q, keys, values) = q.dtype, (widened(x) for x in (q, keys, values))
    queries, heads, _ = q.shape
    group = heads // keys.shape[0]
    whole = queries == length and (not window or length <= window)
    if whole and not soft_cap and q.device.type == "cpu" and queries > 1:  # as in training
        wide_keys, wide_values = (x.repeat_interleave(group, 0)[None] for x in (keys, values))
        query = q.transpose(0, 1)[None]
        made = FLASH_FORWARD(query, wide_keys, wide_values, 0.0, True, attn_mask=None, scale=scale)[0]
        return made[0].transpose(0, 1).to(kind)
    # The query heads of a key head stand one under the other, so that its keys are read once.
    folded = q.unflatten(1, (-1, group)).permute(1, 2, 0, 3)  # [K, group, n, D]
    blocks = []
    for start in range(0, queries, QUERY_BLOCK):
        block = folded[:, :, start : start + QUERY_BLOCK]
        count = block.shape[2]
        stop = length - queries + start + count  # what comes after is not seen
        scores = (block.flatten(1, 2) @ keys[:, :stop].transpose(1, 2)).float() * scale
        if soft_cap:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        if count > 1 or window:
            seen = _seen(count, stop, window, q.device)
            scores = scores.unflatten(1, (group, count)).masked_fill(~seen, float("-inf")).flatten(1, 2)
        weights = scores.softmax(-1).to(values.dtype)
        blocks.append((weights @ values[:, :stop]).unflatten(1, (group, count)))
    return torch.cat(blocks, 2).permute(2, 0, 1, 3).flatten(1, 2).to(kind)

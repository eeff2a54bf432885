"""The Triton attention over paged keys and values, planned, launched and tested on its device.

It runs on CUDA tensors; on CPU tensors only where the interpreter is asked for (`TRITON_INTERPRET=1`),
which is how the tests check it against the reference. **It has not run on a GPU yet**: what is known is
that it is right in the interpreter and that it compiles for NVIDIA's 8.0 and 9.0; so each shape of model
is compared with the reference on its own device before it is used, and where that fails torch's ops run.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from whorl.base.progress import say
from whorl.kernels.native_paged import formula

FEW_ROWS = 16  # rows up to which a sequence's keys are split: the smallest tile of the tensor cores
TILE_BYTES = 128  # of one column of a prompt's tile: 64 rows of two bytes, 32 of four
BLOCK_BYTES = 16 << 10  # of keys at a time: those on their way fit beside those in use on small cards, too
SPLIT = 256  # keys of a split
STORE_BLOCK = 1024
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}  # stated, since triton's defaults change
EVERYTHING = 2**31 - 1  # a window that hides nothing
TYPES = (torch.float32, torch.float16, torch.bfloat16)

PagedAttention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float, int, float], Tensor]
"""(q, k_pages, v_pages, tables, offsets, lengths, scale, window, soft cap; 0 is none) → [T, H, D]."""
Store = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]
"""(k, v, k_pages, v_pages, slots)."""


@dataclass(frozen=True)
class Shape:
    """What a program is compiled for: each is tested by itself."""

    device: torch.device
    dtype: torch.dtype
    heads: int
    key_heads: int
    slots: int
    dim: int
    capped: bool


def asked(device: torch.device) -> bool:
    """Whether tensors of this device are Triton's."""
    return device.type == "cuda" or (device.type == "cpu" and interpreted())


def interpreted() -> bool:
    """As triton reads it when it is imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def attention_for(q: Tensor, k_pages: Tensor, v_pages: Tensor, soft_cap: float) -> PagedAttention | None:
    """The kernel where it passed its test for these shapes, else None, with the reason said once."""
    same = q.dtype == k_pages.dtype == v_pages.dtype and q.dtype in TYPES
    if not same or k_pages.stride() != v_pages.stride() or k_pages.stride(3) != 1:
        return None
    _, key_heads, slots, dim = k_pages.shape
    shape = Shape(q.device, q.dtype, q.shape[1], key_heads, slots, dim, soft_cap > 0)
    return attend if _passed(problem(shape)) else None


def store_for(k_pages: Tensor, v_pages: Tensor) -> Store | None:
    """Likewise for `store`."""
    if k_pages.dtype not in TYPES or k_pages.stride() != v_pages.stride() or k_pages.stride(3) != 1:
        return None
    return store if _passed(store_problem(k_pages.device, k_pages.dtype)) else None


# -- one call --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Which programs run: made on the host from the lengths, and the same for each sequence whatever its
    neighbours. `tiles` [·, 2] are (sequence, first query) of those with many queries; `splits` [·, 2] are
    (sequence, number of the split) of those with few, `few` [·, 3] are (sequence, its first row in
    `splits`, how many) and `widest` the most queries of one of them."""

    tiles: Tensor
    splits: Tensor
    few: Tensor
    widest: int


def plan(offsets: Tensor, lengths: Tensor, group: int, window: int, dtype: torch.dtype) -> Plan:
    """`offsets` [N + 1] and `lengths` [N] on the host; a key head has `group` query heads."""
    counts = offsets.diff()
    few_rows, tile_rows = tile_sizes(group, dtype)
    few = ((counts > 0) & (counts * group <= few_rows)).nonzero()[:, 0]
    many = (counts * group > few_rows).nonzero()[:, 0]
    earliest = (lengths - counts - (window or EVERYTHING) + 1).clamp(min=0)
    first = (earliest // SPLIT)[few]
    number = -(-lengths[few] // SPLIT) - first
    splits, start = _repeated(few, number)
    of_tile = tile_rows // group
    tiles, tile_start = _repeated(many, -(-counts[many] // of_tile))
    return Plan(
        tiles=torch.stack([tiles, (torch.arange(len(tiles)) - tile_start) * of_tile], 1).int(),
        splits=torch.stack([splits, torch.arange(len(splits)) - start + _spread(first, number)], 1).int(),
        few=torch.stack([few, number.cumsum(0) - number, number], 1).int(),
        widest=int(counts[few].max()) if len(few) else 0,
    )


def tile_sizes(group: int, dtype: torch.dtype) -> tuple[int, int]:
    """Rows of a tile of few queries and of a prompt's: powers of 2 that hold the heads of one query."""
    least = power_of_2(group)
    return max(FEW_ROWS, least), max(TILE_BYTES // dtype.itemsize, least)


def key_block(dim: int, dtype: torch.dtype) -> int:
    """Keys at a time; the product of two tiles needs 16 of them."""
    return min(64, max(16, BLOCK_BYTES // (width(dim) * dtype.itemsize)))


def width(dim: int) -> int:
    return max(16, power_of_2(dim))


def power_of_2(least: int) -> int:
    return 1 << (least - 1).bit_length()


def attend(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Tensor, offsets: Tensor, lengths: Tensor,
    scale: float, window: int, soft_cap: float,
) -> Tensor:  # fmt: skip
    """Tables, offsets and lengths may lie on the host: that is where the programs are planned."""
    q = q if q.stride(2) == 1 else q.contiguous()
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)  # behind the last sequence is padding
    _, key_heads, slots, dim = k_pages.shape
    group = q.shape[1] // key_heads
    made = plan(offsets.cpu().long(), lengths.cpu().long(), group, window, q.dtype)
    tables = tables.to(q.device, torch.int32).contiguous()
    offsets, lengths = (x.to(q.device, torch.int32).contiguous() for x in (offsets, lengths))
    programs = _programs()
    few_rows, tile_rows = tile_sizes(group, q.dtype)
    sizes = {
        "SLOTS": slots, "GROUP": group, "BLOCK": key_block(dim, q.dtype), "D": dim,
        "WIDTH": width(dim), "CAPPED": soft_cap > 0,
        "WIDE": interpreted() and q.dtype == torch.bfloat16, **OPTIONS,
    }  # fmt: skip
    settings = (tables.stride(0), window or EVERYTHING)
    strides = (scale, soft_cap, q.stride(0), q.stride(1), *k_pages.stride()[:3])
    with torch.cuda.device_of(q):
        if len(made.tiles):
            programs.prompt_tiles[len(made.tiles), key_heads](
                q, k_pages, v_pages, out, tables, offsets, lengths, made.tiles.to(q.device), *settings,
                *strides, *out.stride()[:2], ROWS=tile_rows, **sizes,
            )  # fmt: skip
        if len(made.few):
            rows = (len(made.splits), key_heads, made.widest * group)
            sums = torch.empty(*rows, dim, device=q.device)
            best, total = torch.empty(2, *rows, device=q.device)
            programs.decode_splits[len(made.splits), key_heads](
                q, k_pages, v_pages, sums, best, total, tables, offsets, lengths, made.splits.to(q.device),
                *settings, made.widest, *strides, ROWS=few_rows, SPLIT=SPLIT, **sizes,
            )  # fmt: skip
            programs.combine_splits[len(made.few) * made.widest, q.shape[1]](
                sums, best, total, out, offsets, made.few.to(q.device), made.widest, key_heads,
                *out.stride()[:2], GROUP=group, D=dim, WIDTH=width(dim), **OPTIONS,
            )  # fmt: skip
    return out


def store(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
    if not k.numel():
        return
    _, heads, size, dim = k_pages.shape
    k, v = k.to(k_pages.dtype), v.to(v_pages.dtype)
    with torch.cuda.device_of(k_pages):
        _programs().store_rows[len(k), -(-heads * dim // STORE_BLOCK)](
            k, v, k_pages, v_pages, slots.to(k_pages.device).contiguous(), *k.stride(), *v.stride(),
            *k_pages.stride()[:3], SLOTS=size, HEADS=heads, D=dim, BLOCK=STORE_BLOCK, **OPTIONS,
        )  # fmt: skip


def _programs() -> Any:
    return import_module("whorl.kernels.triton_paged_kernels")


def _repeated(values: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Each value so many times, and where its row of them begins."""
    return values.repeat_interleave(times), _spread(times.cumsum(0) - times, times)


def _spread(values: Tensor, times: Tensor) -> Tensor:
    return values.repeat_interleave(times)


# -- its test --------------------------------------------------------------------------------------


@cache
def _passed(problem: str) -> bool:
    """Cached, so that each problem is said once."""
    if problem:
        say(f"Triton's paged attention is off, torch's own ops run instead: {problem}")
    return not problem


@cache
def problem(shape: Shape) -> str:
    """Compare with the formula in fp32 over a prompt, a decode step of two splits and one with a window;
    "" when equal, else why the kernel is not used."""
    return _tried(lambda: _difference(shape))


@cache
def store_problem(device: torch.device, dtype: torch.dtype) -> str:
    return _tried(lambda: _store_difference(device, dtype))


def _tried(test: Callable[[], str]) -> str:
    try:
        errors = import_module("triton.errors").TritonError
    except ImportError as error:
        return f"{error}; pip install triton"
    try:
        return test()
    # What triton raises where it cannot compile, and torch and the driver where it cannot run.
    except (errors, RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _difference(shape: Shape) -> str:
    generator = torch.Generator().manual_seed(0)
    cap, dim, slots = 3.0 if shape.capped else 0.0, shape.dim, shape.slots
    few_rows, _ = tile_sizes(shape.heads // shape.key_heads, shape.dtype)
    many = few_rows // (shape.heads // shape.key_heads) + 1
    lengths, counts = [many + 21, SPLIT + 30, 9], [many, 1, 1]
    wide = -(-max(lengths) // slots)
    tables = torch.randperm(3 * wide, generator=generator).view(3, wide)
    pools = torch.randn(2, 3 * wide, shape.key_heads, slots, dim, generator=generator).to(shape.dtype)
    q = torch.randn(sum(counts), shape.heads, dim, generator=generator).to(shape.dtype)
    offsets = torch.tensor([0, *counts]).cumsum(0)
    share = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}[shape.dtype]
    worst = 0.0
    for window in (0, 17):
        query, keys, values = (part.to(shape.device) for part in (q, *pools))
        given = attend(
            query, keys, values, tables, offsets, torch.tensor(lengths), dim**-0.5, window, cap
        )  # fmt: skip
        # On the host, where no setting of torch rounds matmuls to TF32.
        wanted = torch.cat(
            [
                formula(part, pools[0], pools[1], table, length, dim**-0.5, window, cap)
                for part, table, length in zip(q.split(counts), tables, lengths, strict=True)
            ]
        )
        worst = max(worst, float((given.cpu().float() - wanted).abs().max()) / share)
    return "" if worst <= 1 else f"its self-test is {worst:.2g} times its tolerance off"


def _store_difference(device: torch.device, dtype: torch.dtype) -> str:
    new = torch.arange(1, 2 * 3 * 2 * 16 + 1).view(2, 3, 2, 16).to(device, dtype)
    pages = torch.zeros(2, 3, 2, 8, 16, device=device, dtype=dtype)
    store(new[0], new[1], pages[0], pages[1], torch.tensor([17, -1, 5], device=device))
    wanted = torch.zeros_like(pages)
    wanted[:, 2, :, 1], wanted[:, 0, :, 5] = new[:, 0], new[:, 2]
    return "" if torch.equal(pages, wanted) else "its store's self-test wrote something else"

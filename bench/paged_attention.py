"""Paged attention of a server's steps: decode in bytes a second and as a share of this machine's read
bandwidth, prompts against torch's flash kernel, measured in turns in the same run.

    python bench/paged_attention.py [--seconds 20]

Shapes are Qwen3-0.6B's (16 heads, 8 key heads, 128). On a machine that others use too, trust the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from whorl.kernels import native
from whorl.kernels.attention import attention
from whorl.kernels.paged_attention import paged_attention
from whorl.kernels.spec import AttentionSpec

HEADS, KEY_HEADS, DIM, SLOTS = 16, 8, 128, 16
SPEC = AttentionSpec(scale=DIM**-0.5)
DECODE = [(1, 512), (1, 4096), (8, 512), (16, 512), (16, 2048)]  # sequences, context
PROMPTS = [(4, 512), (2, 1024), (1, 2048)]
COLD_BYTES = 256_000_000  # of keys and values: more than a core's own caches by far


def bandwidth() -> float:
    """GB/s of a sum over a buffer that no cache of a core holds: the best of a few."""
    buffer = torch.ones(400_000_000 // 8, dtype=torch.int64)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        buffer.sum()
        best = max(best, buffer.numel() * 8 / (time.perf_counter() - start) / 1e9)
    return best


def in_turns(calls: list[Callable[[int], object]], seconds: float) -> list[float]:
    """The median seconds of each."""
    times: list[list[float]] = [[] for _ in calls]
    end, turn = time.perf_counter() + seconds, 0
    while turn < 5 or time.perf_counter() < end:
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call(turn)
            found.append(time.perf_counter() - start)
        turn += 1
    return [statistics.median(found[1:]) for found in times]


def pages(sequences: int, context: int, dtype: torch.dtype, copies: int) -> tuple[Tensor, Tensor, Tensor]:
    each = -(-context // SLOTS)
    count = copies * sequences * each
    pools = torch.randn(2, 1, KEY_HEADS, SLOTS, DIM).to(dtype).expand(2, count, -1, -1, -1).contiguous()
    return pools[0], pools[1], torch.randperm(count).to(torch.int32).view(copies, sequences, each)


def decode(sequences: int, context: int, dtype: torch.dtype, seconds: float, limit: float) -> str:
    size = 2 * sequences * context * KEY_HEADS * DIM * dtype.itemsize
    copies = max(2, -(-COLD_BYTES // size))
    k, v, tables = pages(sequences, context, dtype, copies)
    q = torch.randn(sequences, HEADS, DIM).to(dtype)
    offsets = torch.arange(sequences + 1, dtype=torch.int32)
    lengths = torch.full((sequences,), context, dtype=torch.int32)

    def step(turn: int) -> Tensor:
        return paged_attention(q, k, v, tables[turn % copies], offsets, lengths, SPEC)

    (took,) = in_turns([step], seconds)
    speed = size / took / 1e9
    return (
        f"{dtype} decode {sequences:3} x {context}: {took * 1e6:.0f} µs {speed:.1f} GB/s {speed / limit:.0%}"
    )


def prompt(sequences: int, length: int, dtype: torch.dtype, seconds: float) -> str:
    k, v, tables = pages(sequences, length, dtype, 1)
    q = torch.randn(sequences * length, HEADS, DIM).to(dtype)
    flat_k, flat_v = torch.randn(2, sequences * length, KEY_HEADS, DIM).to(dtype)
    offsets = torch.arange(0, sequences * length + 1, length, dtype=torch.int32)
    lengths = torch.full((sequences,), length, dtype=torch.int32)
    ours, flash = in_turns(
        [
            lambda _: paged_attention(q, k, v, tables[0], offsets, lengths, SPEC),
            lambda _: attention(q, flat_k, flat_v, offsets, SPEC),
        ],
        seconds,
    )
    name = f"{dtype} prompt {sequences:3} x {length}"
    return f"{name}: {ours * 1e3:.2f} ms, torch's flash {flash * 1e3:.2f} ms, {flash / ours:.2f}x its speed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="in all")
    seconds = parser.parse_args().seconds / (2 * (len(DECODE) + len(PROMPTS)))
    limit = bandwidth()
    print(f"{native.status()}, {torch.get_num_threads()} threads, read bandwidth {limit:.1f} GB/s")
    for dtype in (torch.bfloat16, torch.float32):
        for shape in DECODE:
            print(decode(*shape, dtype, seconds, limit), flush=True)
        for shape in PROMPTS:
            print(prompt(*shape, dtype, seconds), flush=True)


if __name__ == "__main__":
    main()

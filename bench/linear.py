"""The matmuls of a decode step against torch's own: time, bytes a second, and the share of this
machine's read bandwidth, measured in the same run.

    python bench/linear.py [--rows 1 4 8 16 64] [--seconds 12]

Shapes are Qwen3-0.6B's. Every call takes the next of several copies of its weights, so that they come
from memory (or a cache too far off to tell), and the competitors take turns. A time is the lower
quartile of its calls: on two cores that others use, a call that lost one waits for milliseconds. Trust
the ratios, and where a share exceeds 100 % know that the bandwidth's own measurement was disturbed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whorl.kernels import native
from whorl.kernels.linear import linear
from whorl.kernels.quantise import dequantise, quantise, quantised_linear

SHAPES = [(3072, 1024), (1024, 3072), (1024, 2048), (151936, 1024)]  # out, in
COLD_BYTES = 160_000_000  # of copies, or two copies: more than a core's own caches by far
GROUP = 32
HEAD = 100_000  # outputs: the output matrix, which sees one row a sequence


@dataclass(frozen=True)
class Entry:
    """`call(x, copy)` multiplies by one of `copies`; `bytes` are read by a call."""

    name: str
    call: Callable[[Tensor, Any], Tensor]
    copies: list[Any]
    bytes: int


class Bandwidth:
    """GB/s at which a buffer that the caches near a core do not hold is read: the best of two readers, a
    sum and a matrix times a vector in fp32, and of every time it is asked. Other users of the machine can
    only lower it, so it is asked between the shapes, not once."""

    def __init__(self) -> None:
        self._buffer = torch.ones(300_000_000 // 4096, 1024)
        self._ones = torch.ones(1024)
        self.best = 0.0

    def ask(self) -> float:
        for _ in range(4):
            for read in (self._buffer.sum, lambda: torch.mv(self._buffer, self._ones)):
                start = time.perf_counter()
                read()
                rate = self._buffer.numel() * 4 / (time.perf_counter() - start) / 1e9
                self.best = max(self.best, rate)
        return self.best


def entries(out: int, inner: int) -> Iterator[Entry]:
    weight = torch.randn(out, inner, generator=torch.Generator().manual_seed(0)) * 0.02
    half = weight.bfloat16()
    yield entry("torch bf16", lambda x, w: F.linear(x, w[0]), half)
    yield entry("whorl bf16", lambda x, w: linear(x, w[0]), half)
    packed8, scale8 = quantise(weight, 8)
    codes = (dequantise(packed8, torch.ones_like(scale8), 8, inner, torch.int8)).contiguous()
    yield from private("torch int8", "_weight_int8pack_mm", codes, scale8[:, 0])
    yield entry("whorl int8", lambda x, w: quantised_linear(x, w[0], w[1], 8), packed8, scale8)
    yield from private4(weight)
    yield entry("whorl int4", lambda x, w: quantised_linear(x, w[0], w[1], 4), *quantise(weight, 4, GROUP))


def private(name: str, op: str, *parts: Tensor) -> Iterator[Entry]:
    """One of torch's private ops, where this torch has it."""
    if found := getattr(torch.ops.aten, op, None):
        yield entry(name, lambda x, w: found(x, *w), *parts)


def private4(weight: Tensor) -> Iterator[Entry]:
    op = getattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu", None)
    pack = getattr(torch.ops.aten, "_convert_weight_to_int4pack_for_cpu", None)
    if op and pack:
        out, inner = weight.shape
        codes = torch.randint(0, 16, (out, inner), dtype=torch.int32)
        scales = torch.rand(inner // GROUP, out, 2).bfloat16()  # and zero points
        yield entry("torch int4", lambda x, w: op(x, w[0], GROUP, w[1]), pack(codes, 1), scales)


def entry(name: str, call: Callable[[Tensor, Any], Tensor], *parts: Tensor) -> Entry:
    size = sum(part.numel() * part.itemsize for part in parts)
    count = max(2, min(64, COLD_BYTES // size))
    return Entry(name, call, [tuple(part.clone() for part in parts) for _ in range(count)], size)


def measure(found: list[Entry], rows: int, inner: int, seconds: float) -> dict[str, float]:
    """Microseconds of each entry, the lower quartile, taken in turn for `seconds`."""
    x = torch.randn(rows, inner).bfloat16()
    calls: dict[str, list[float]] = {one.name: [] for one in found}
    for one in found:
        one.call(x, one.copies[0])
    end, at = time.perf_counter() + seconds, 0
    while at < 3 or time.perf_counter() < end:
        for one in found:
            copy = one.copies[at % len(one.copies)]
            start = time.perf_counter()
            one.call(x, copy)
            calls[one.name].append((time.perf_counter() - start) * 1e6)
        at += 1
    return {name: statistics.quantiles(values, n=4)[0] for name, values in calls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16, 64])
    parser.add_argument("--seconds", type=float, default=12.0, help="of measuring; making weights adds to it")
    parser.add_argument("--out", type=Path, help="append the figures, one JSON object a line")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    bandwidth = Bandwidth()
    here = f"{native.status()}; {torch.get_num_threads()} threads"
    print(f"{here}; reads {bandwidth.ask():.1f} GB/s at the start\n")
    print(f"{'out × in':>14} {'rows':>4}  {'':<11} {'µs':>8} {'GB/s':>6} {'of read':>7} {'× torch':>7}")
    for out, inner in SHAPES:
        found = list(entries(out, inner))
        for rows in args.rows if out < HEAD else [rows for rows in args.rows if rows <= 16]:
            read = bandwidth.ask()
            times = measure(found, rows, inner, args.seconds / len(SHAPES) / len(args.rows))
            for one in found:
                micros, rate = times[one.name], one.bytes / times[one.name] / 1e3
                rival = times.get(one.name.replace("whorl", "torch"))
                ratio = rival / micros if rival and one.name.startswith("whorl") else None
                shown = f"{ratio:7.2f}" if ratio else ""
                size, share = f"{out:>7}×{inner:<6} {rows:>4}", rate / read
                print(f"{size}  {one.name:<11} {micros:8.0f} {rate:6.1f} {share:7.0%} {shown}", flush=True)
                if args.out:
                    line = {
                        "out": out,
                        "in": inner,
                        "rows": rows,
                        "kernel": one.name,
                        "us": micros,
                        "read": read,
                    }
                    with args.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line | {"gb_s": rate, "to_torch": ratio}) + "\n")


if __name__ == "__main__":
    main()

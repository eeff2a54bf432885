"""Sizes that vary from call to call, rounded up to a few."""

from __future__ import annotations

SMALLEST = 32
PARTS = 8  # buckets an octave, hence at most 1/8 of waste


def bucket(size: int) -> int:
    """The least bucket that holds `size`.

    oneDNN makes and keeps a kernel for every matmul shape it meets: ragged sizes were seen to cost
    18 MB a training step, until its thousand places were full, and the time to make them.
    """
    step = max(SMALLEST, (1 << max(size - 1, 0).bit_length()) // (2 * PARTS))
    return -(-size // step) * step

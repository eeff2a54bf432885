"""Texts longer than a model's context, read in windows that overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from whorl.base.errors import InputError


@dataclass(frozen=True)
class Window:
    """Tokens [start, stop) of one sequence; those from `scored` on are counted here."""

    sequence: int
    start: int
    scored: int
    stop: int


def windows(lengths: Sequence[int], window: int, stride: int) -> Iterator[Window]:
    """Windows over sequences of `lengths`, in which every token but a sequence's first is counted once
    and sees at least window - stride tokens before it, or all."""
    if not 1 <= stride <= window:
        raise InputError(f"1 ≤ stride ≤ window must hold: {stride}, {window}")
    for sequence, length in enumerate(lengths):
        scored, stop = 1, min(length, window)
        while scored < length:
            yield Window(sequence, max(0, stop - window), scored, stop)
            scored, stop = stop, min(length, stop + stride)

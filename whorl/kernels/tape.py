"""A function's C++ kernels, recorded once and played again without Python between them.

What a CUDA graph is to a GPU. In a decode step of a small model Python takes longer than the kernels:
a tape of them takes their place. It plays on the same memory every time, so the inputs are written into
the tensors it was recorded with, and the output is read where it was.

Only a function that is nothing but such kernels can be recorded: while it runs every op of torch is seen,
and one that is more than an allocation or a view means that there is no tape.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from whorl.kernels import native
from whorl.kernels.native_call import RECORDING

aten = torch.ops.aten
ALLOCATIONS = (
    aten.empty.memory_format,
    aten.new_empty.default,
    aten.empty_like.default,
    aten.empty_strided.default,
)


@dataclass(frozen=True)
class Tape:
    """`play()` computes `output` anew from what is in the recorded function's inputs now."""

    output: Tensor
    _words: array[int] = field(repr=False)
    _kept: Sequence[Any] = field(repr=False)  # the memory that the words point to

    def play(self) -> Tensor:
        player = native.kernels().play
        assert player is not None
        player(self._words)
        return self.output


def record(function: Callable[[], Tensor]) -> tuple[Tensor, Tape | None]:
    """Run the function: its output, and the tape that makes it again, None where torch had a part in it."""
    if native.kernels().play is None:
        return function(), None
    words, watch = array("q"), _Watch()
    kept: list[Any] = []
    RECORDING.words, RECORDING.kept = words, kept
    try:
        with watch:
            output = function()
    finally:
        RECORDING.words = None
    if watch.computed or not words:
        return output, None
    return output, Tape(output, words, (*kept, *watch.allocated))


class _Watch(TorchDispatchMode):
    """Keeps what is allocated and names what is computed by torch itself."""

    def __init__(self) -> None:
        super().__init__()
        self.allocated: list[Tensor] = []
        self.computed: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in ALLOCATIONS:
            self.allocated.append(made)
        elif not _is_view(func):
            self.computed.add(str(func))
        return made


def _is_view(op: Any) -> bool:
    returned = op._schema.returns
    return bool(returned) and all(
        one.alias_info is not None and not one.alias_info.is_write for one in returned
    )

"""Calls of C++ kernels, which a tape can keep."""

from __future__ import annotations

import ctypes
import struct
import threading
from array import array
from collections.abc import Callable
from typing import Any

import torch

POINTER, SIZE, REAL, COUNT, FLAG = (
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_float,
    ctypes.c_int,
    ctypes.c_bool,
)
Play = Callable[["array[int]"], None]  # calls what a list of words says, see tape_cpu.cpp


class Recording(threading.local):
    """The calls of this thread as words, while someone wants them; `kept` are arguments that live on."""

    words: array[int] | None = None
    kept: list[Any]


RECORDING = Recording()


class NativeCall:
    """The function `name` of a library; there is a `name_words` beside it (tape.h)."""

    __slots__ = ("_call", "_reals", "_words")

    def __init__(self, library: ctypes.CDLL, name: str, arguments: list[Any]) -> None:
        self._call = getattr(library, name)
        self._call.argtypes, self._call.restype = arguments, None
        self._words = ctypes.cast(getattr(library, f"{name}_words"), ctypes.c_void_p).value
        self._reals = {place for place, kind in enumerate(arguments) if kind is REAL}

    def __call__(self, *arguments: Any) -> None:
        self._call(*arguments)
        if RECORDING.words is not None:
            self._keep(RECORDING.words, arguments)

    def _keep(self, words: array[int], arguments: tuple[Any, ...]) -> None:
        assert self._words is not None
        words.extend((self._words, len(arguments)))
        for place, value in enumerate(arguments):
            if place in self._reals:
                words.append(struct.unpack("<q", struct.pack("<fi", value, 0))[0])
            elif isinstance(value, ctypes.Array):
                RECORDING.kept.append(value)
                words.append(ctypes.addressof(value))
            else:
                words.append(int(value or 0))


def typed_calls(library: ctypes.CDLL, name: str, arguments: list[Any]) -> dict[torch.dtype, NativeCall]:
    """The bf16 and the fp32 form of a kernel."""
    return {
        torch.bfloat16: NativeCall(library, f"{name}_bf16", arguments),
        torch.float32: NativeCall(library, f"{name}_f32", arguments),
    }


def bind_play(library: ctypes.CDLL) -> Play:
    function = library.whorl_play
    function.argtypes, function.restype = [POINTER, SIZE], None

    def play(words: array[int]) -> None:
        place, count = words.buffer_info()
        function(place, count)

    return play

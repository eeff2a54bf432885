"""The C++ matmuls for few rows, bound and tested."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whorl.kernels.native_call import COUNT, POINTER, SIZE, typed_calls

MOST = 8  # matrices of one call
POINTERS = {count: ctypes.c_void_p * count for count in range(1, MOST + 1)}
SIZES = {count: ctypes.c_int64 * count for count in range(1, MOST + 1)}


@dataclass(frozen=True)
class Linear:
    """`multiply(x [..., in], weight [out, in], bias [out] | None)` → [..., out], all bf16 or all fp32 and
    weight contiguous; `several` does it for up to 8 matrices in one call; `tiles(in, out)` says whether a
    bf16 matrix of this shape goes through AMX."""

    multiply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    several: Callable[[Tensor, Sequence[Tensor], Sequence[Tensor | None]], list[Tensor]]
    tiles: Callable[[int, int], bool]


Product = Callable[[Tensor, Tensor, Tensor, int, Tensor | None], Tensor]
"""(x [..., in], packed int32 [out, …], scale bf16 [out, groups], 8 | 4 bits, bias | None) → [..., out]"""


Products = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor], int, Sequence[Tensor | None]], list[Tensor]]
"""The same for up to 8 matrices packed alike, in one call: [packed], [scale], bits, [bias] → [y]"""


@dataclass(frozen=True)
class Quantised:
    """Products with packed weights: `rounded` takes x in 8 bits (None on a CPU without VNNI or AVX2),
    `unpacked` a block of W at a time in x's type; `tiled` takes x in 8 bits through AMX, where
    `tiles(in, out, groups)` says that the shape fits. `unpack(packed, scale, bits, in, dtype)` gives W, bf16
    or fp32."""

    rounded: Products | None
    unpacked: Product
    tiled: Products
    tiles: Callable[[int, int, int], bool]
    unpack: Callable[[Tensor, Tensor, int, int, torch.dtype], Tensor]


def bind(library: ctypes.CDLL) -> Linear:
    functions = typed_calls(library, "whorl_linear", [POINTER] * 4 + [SIZE] * 3 + [COUNT])
    library.whorl_linear_tiles.argtypes = [ctypes.c_int64] * 2
    library.whorl_linear_tiles.restype = ctypes.c_bool

    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous()
        bias = None if bias is None else bias.contiguous()
        out, inner = weight.shape
        y = x.new_empty((*x.shape[:-1], out))
        functions[x.dtype](
            x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(), y.data_ptr(),
            x.numel() // inner, inner, out, torch.get_num_threads(),
        )  # fmt: skip
        return y

    return Linear(multiply, _several(library), library.whorl_linear_tiles)


def _several(
    library: ctypes.CDLL,
) -> Callable[[Tensor, Sequence[Tensor], Sequence[Tensor | None]], list[Tensor]]:
    functions = typed_calls(library, "whorl_linears", [POINTER] * 5 + [SIZE] * 3 + [COUNT])

    def several(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> list[Tensor]:
        x = x.contiguous()
        inner, count = x.shape[-1], len(weights)
        outs = [weight.shape[0] for weight in weights]
        made = [x.new_empty((*x.shape[:-1], out)) for out in outs]
        functions[x.dtype](
            x.data_ptr(), places(weights), places(biases), places(made), SIZES[count](*outs), count,
            x.numel() // inner, inner, torch.get_num_threads(),
        )  # fmt: skip
        return made

    return several


def places(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """Where they lie, as an array of pointers."""
    return POINTERS[len(tensors)](*(None if one is None else one.data_ptr() for one in tensors))


def bind_quantised(library: ctypes.CDLL) -> Quantised:
    library.whorl_quantised_ready.restype = ctypes.c_bool
    rounded = _products(library, "whorl_quantised") if library.whorl_quantised_ready() else None
    unpackers = typed_calls(library, "whorl_unpack", [POINTER] * 3 + [SIZE] * 4 + [COUNT] * 2)

    def unpack(packed: Tensor, scale: Tensor, bits: int, inner: int, dtype: torch.dtype) -> Tensor:
        packed, scale = packed.contiguous(), scale.contiguous()
        weight = torch.empty(packed.shape[0], inner, dtype=dtype)
        unpackers[dtype](
            packed.data_ptr(), scale.data_ptr(), weight.data_ptr(), inner, packed.shape[0],
            packed.shape[1] * 4, scale.shape[1], bits, torch.get_num_threads(),
        )  # fmt: skip
        return weight

    library.whorl_quantised_tiles_fit.argtypes = [SIZE] * 3
    library.whorl_quantised_tiles_fit.restype = ctypes.c_bool
    return Quantised(
        rounded, _product(library, "whorl_unpacked"), _products(library, "whorl_quantised_tiles"),
        library.whorl_quantised_tiles_fit, unpack,
    )  # fmt: skip


def _product(library: ctypes.CDLL, name: str) -> Product:
    functions = typed_calls(library, name, [POINTER] * 5 + [SIZE] * 5 + [COUNT] * 2)

    def product(x: Tensor, packed: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
        x, packed, scale = x.contiguous(), packed.contiguous(), scale.contiguous()
        bias = None if bias is None else bias.contiguous()
        out, inner = packed.shape[0], x.shape[-1]
        y = x.new_empty((*x.shape[:-1], out))
        functions[x.dtype](
            x.data_ptr(), packed.data_ptr(), scale.data_ptr(), None if bias is None else bias.data_ptr(),
            y.data_ptr(), x.numel() // inner, inner, out, packed.shape[1] * 4, scale.shape[1], bits,
            torch.get_num_threads(),
        )  # fmt: skip
        return y

    return product


def _products(library: ctypes.CDLL, name: str) -> Products:
    functions = typed_calls(library, name, [POINTER] * 6 + [SIZE] * 5 + [COUNT] * 2)

    def products(
        x: Tensor, packed: Sequence[Tensor], scales: Sequence[Tensor], bits: int,
        biases: Sequence[Tensor | None],
    ) -> list[Tensor]:  # fmt: skip
        x = x.contiguous()
        packed, scales = [one.contiguous() for one in packed], [one.contiguous() for one in scales]
        biases = [None if bias is None else bias.contiguous() for bias in biases]
        outs, inner = [one.shape[0] for one in packed], x.shape[-1]
        made = [x.new_empty((*x.shape[:-1], out)) for out in outs]
        functions[x.dtype](
            x.data_ptr(), places(packed), places(scales), places(biases), places(made),
            SIZES[len(outs)](*outs), len(outs), x.numel() // inner, inner, packed[0].shape[1] * 4,
            scales[0].shape[1], bits, torch.get_num_threads(),
        )  # fmt: skip
        return made

    return products


def quantised_problem(kernels: Quantised) -> str:
    """Compare with fp64, on codes and scales drawn at random; "" when equal but for what is rounded."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    sizes = (
        (8, 1, 9, 100, 1),
        (8, 6, 40, 192, 1),
        (4, 3, 9, 160, 5),
        (4, 5, 37, 384, 3),
        (4, 2, 5, 52, 1),
        (8, 21, 23, 96, 1),
    )
    for bits, rows, out, inner, groups in sizes:
        codes = torch.randint(0, 256, (out, -(-inner * bits // 32) * 4), generator=generator).to(torch.uint8)
        scale = (torch.rand(out, groups, generator=generator) + 0.1).bfloat16()
        x, packed = torch.randn(rows, inner, generator=generator), codes.view(torch.int32)
        parts = codes if bits == 8 else torch.stack([codes & 15, codes >> 4], 2).flatten(1)
        wide = (parts[:, :inner].double() - (1 << bits - 1)).unflatten(1, (groups, -1)) * scale.double()[
            ..., None
        ]
        wanted = x.double() @ wide.flatten(1).T
        made = [(kernels.unpacked(x, packed, scale, bits, None), 1e-5)]
        made += [(kernels.unpacked(x.bfloat16(), packed, scale, bits, None), 0.02)]
        made += [(x @ kernels.unpack(packed, scale, bits, inner, torch.float32).T, 1e-5)]
        if kernels.rounded is not None:
            made += [(y, 0.02) for y in kernels.rounded(x, [packed] * 2, [scale] * 2, bits, [None] * 2)]
        if kernels.tiles(inner, out, groups):
            made += [(y, 0.02) for y in kernels.tiled(x, [packed] * 2, [scale] * 2, bits, [None] * 2)]
        for value, share in made:
            difference = float((value.double() - wanted).abs().max() / wanted.abs().max())
            worst = max(worst, difference / share)
    return "" if worst <= 1 else f"the quantised matmul's self-test is {worst:.2g} times its tolerance off"


def problem(kernel: Linear) -> str:
    """Compare with fp32 at sizes that fit the tiles, and at ones that fit nothing; "" when equal."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for rows, out, inner in ((1, 64, 96), (5, 43, 64), (18, 7, 77)):
        x, weight, bias = (
            torch.randn(shape, generator=generator) for shape in ((rows, inner), (out, inner), out)
        )
        for dtype, share in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
            given = (x.to(dtype), weight.to(dtype), bias.to(dtype))
            wide = [part.double() for part in given]
            wanted = wide[0] @ wide[1].T + wide[2]
            difference = (kernel.multiply(*given).double() - wanted).abs().max() / wanted.abs().max()
            worst = max(worst, float(difference) / share)
            both = kernel.several(given[0], [given[1], given[1]], [given[2], None])
            exact = torch.equal(both[0], kernel.multiply(*given))
            worst = worst if exact and torch.equal(both[1], kernel.multiply(*given[:2], None)) else torch.inf
    return "" if worst <= 1 else f"the matmul self-test is {worst:.2g} times its tolerance off"

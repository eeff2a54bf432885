"""The matmuls of a decode step, plain and quantised: equal to the formula, the same bits in any batch."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from whorl.kernels import native
from whorl.kernels import quantise as packing
from whorl.kernels.device import compiler_available
from whorl.kernels.linear import ROWS, TILED_ROWS, linear
from whorl.kernels.quantise import dequantise, pack, quantise, quantised_linear, unpack

SHAPES = [(64, 96), (70, 32), (33, 77), (5, 40), (300, 1056)]  # out, in: whole tiles, ragged ones, none
DTYPES = [torch.float32, torch.bfloat16]


def draw(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler: F.linear has no fixed order")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("out", "inner"), SHAPES)
def test_a_row_is_the_same_bits_in_any_batch(out: int, inner: int, dtype: torch.dtype) -> None:
    assert native.kernels().linear is not None, native.status()
    x, weight = draw(dtype, ROWS, inner), draw(dtype, out, inner)
    whole = linear(x, weight)
    for rows in range(1, ROWS + 1):
        assert torch.equal(linear(x[:rows], weight), whole[:rows])
        assert torch.equal(linear(x[-rows:], weight), whole[-rows:])  # at other places of the batch
    strange = x.clone()
    strange[1:] = float("nan")
    assert torch.equal(linear(strange, weight)[0], whole[0])


@pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler")
def test_threads_move_nothing() -> None:
    x, weight = draw(torch.bfloat16, 3, 512), draw(torch.bfloat16, 300, 512)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(linear(x, weight))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torchs_own_matmul_is_as_it_was_afterwards(dtype: torch.dtype) -> None:
    """oneDNN remembers the tile registers it has set: ours must leave them as they were."""
    x, weight = draw(dtype, 48, 96), draw(dtype, 64, 96)
    before = F.linear(x, weight)
    for rows in (1, 16, 48):
        linear(x[:rows], weight)
        assert torch.equal(F.linear(x, weight), before)


def test_a_gradient_is_made() -> None:
    x, weight = draw(torch.float32, 3, 8), draw(torch.float32, 4, 8).requires_grad_()
    linear(x, weight).sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, x.sum(0).expand(4, 8), atol=1e-5)


def test_leading_axes_views_and_other_dtypes() -> None:
    x, weight, bias = draw(torch.float32, 2, 3, 16), draw(torch.float32, 9, 16), draw(torch.float32, 9)
    wanted = F.linear(x, weight, bias)
    assert torch.allclose(linear(x, weight, bias), wanted, atol=1e-5)
    cut = draw(torch.float32, 2, 3, 40)
    cut[..., 4:20] = x
    assert torch.allclose(linear(cut[..., 4:20], weight, bias), wanted, atol=1e-5)
    assert torch.allclose(linear(x, weight.T.contiguous().T, bias), wanted, atol=1e-5)
    mixed = linear(x.bfloat16(), weight, bias)  # fp32 weights under bf16 activations, as in training
    assert mixed.dtype == torch.bfloat16
    assert torch.allclose(mixed.float(), wanted, atol=0.1)


def test_infinities_and_nan_come_through() -> None:
    for dtype in DTYPES:
        x, weight = torch.ones(2, 32, dtype=dtype), torch.ones(32, 32, dtype=dtype)
        x[0, 3], weight[5, 4] = float("inf"), float("nan")
        made = linear(x, weight)
        assert bool(made[0, 0].isinf())
        assert bool(made[1, 5].isnan())
        assert float(made[1, 0]) == 32


def test_inside_a_compiled_graph() -> None:
    weight = draw(torch.float32, 9, 16)
    compiled = torch.compile(lambda x: linear(x * 2, weight) + 1, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for rows in (1, 2, 5):
            x = draw(torch.float32, rows, 16)
            assert torch.allclose(compiled(x), linear(x * 2, weight) + 1, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_op() -> None:
    arguments = (draw(torch.bfloat16, 3, 8), draw(torch.bfloat16, 5, 8), None)
    torch.library.opcheck(torch.ops.whorl.linear.default, arguments)


# -- quantised -----------------------------------------------------------------------------------

QUANTISED = native.kernels().quantised
ROUNDED = QUANTISED is not None and QUANTISED.rounded is not None
KINDS = [(8, 0), (4, 32), (4, 64), (4, 128)]


@pytest.mark.skipif(not ROUNDED, reason="no C++ compiler, or no VNNI")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("bits", "group"), KINDS)
def test_a_row_is_the_same_bits_in_any_batch_quantised(bits: int, group: int, dtype: torch.dtype) -> None:
    """Among those batches that go one way: VNNI's, or the tiles'."""
    assert QUANTISED is not None
    tiles = QUANTISED.tiles(384, 37, 384 // group if group else 1)
    most, few = (packing.ROUNDED_ROWS, packing.VECTOR_ROWS) if tiles else (packing.ROWS, packing.ROWS)
    x, weight = draw(dtype, most, 384), draw(torch.float32, 37, 384)
    packed, scale = quantise(weight, bits, group)
    whole, together = quantised_linear(x, packed, scale, bits), quantised_linear(x[:few], packed, scale, bits)
    for rows in range(1, few + 1):
        assert torch.equal(quantised_linear(x[:rows], packed, scale, bits), together[:rows])
        last = quantised_linear(x[few - rows : few], packed, scale, bits)
        assert torch.equal(last, together[few - rows :])
    for rows in range(few + 1, most + 1):
        assert torch.equal(quantised_linear(x[:rows], packed, scale, bits), whole[:rows])
        assert torch.equal(quantised_linear(x[-rows:], packed, scale, bits), whole[-rows:])


@pytest.mark.skipif(QUANTISED is None, reason="no C++ compiler")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("bits", "group"), KINDS)
@pytest.mark.parametrize(("inner", "out"), [(384, 37), (1152, 16), (2176, 50)])
def test_tiles_and_vectors_round_alike(
    bits: int, group: int, inner: int, out: int, dtype: torch.dtype
) -> None:
    """The same codes of x and W, summed in another order."""
    assert QUANTISED is not None
    packed, scale = quantise(draw(torch.float32, out, inner), bits, group)
    if QUANTISED.rounded is None or not QUANTISED.tiles(inner, out, scale.shape[1]):
        pytest.skip("no AMX, or no VNNI")
    for rows in (1, 5, 16, 17, 32):
        x, bias = draw(dtype, rows, inner), draw(dtype, out)
        tiled, vectors = (
            product(x, packed, scale, bits, bias).float() for product in (QUANTISED.tiled, QUANTISED.rounded)
        )
        difference = (tiled - vectors).abs().max() / vectors.abs().max()
        assert float(difference) < (1e-5 if dtype == torch.float32 else 5e-3)


@pytest.mark.parametrize(("bits", "group", "bound"), [(8, 0, 0.012), (4, 32, 0.11), (4, 128, 0.13)])
def test_how_far_a_product_is_off(bits: int, group: int, bound: float) -> None:
    """Against the weights before they were quantised, as a share of the product's norm, normal weights."""
    x, weight = draw(torch.float32, 8, 512), draw(torch.float32, 256, 512)
    wanted = x @ weight.T
    made = quantised_linear(x, *quantise(weight, bits, group), bits)
    share = float((made - wanted).norm() / wanted.norm())
    print(f"{bits} bits, groups of {group or 512}: {share:.4f} of the norm")
    assert share < bound


@pytest.mark.skipif(QUANTISED is None, reason="no C++ compiler")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("bits", "group"), KINDS)
def test_unpacking_gives_the_very_weights(bits: int, group: int, dtype: torch.dtype) -> None:
    assert QUANTISED is not None
    packed, scale = quantise(draw(torch.float32, 37, 384), bits, group)
    made = QUANTISED.unpack(packed, scale, bits, 384, dtype)
    assert torch.equal(made, dequantise(packed, scale, bits, 384, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("bits", "group"), KINDS)
@pytest.mark.parametrize("rows", [packing.ROUNDED_ROWS + 1, 63, packing.TILED_ROWS, packing.TILED_ROWS + 1])
def test_many_rows_take_the_dequantised_weights(rows: int, bits: int, group: int, dtype: torch.dtype) -> None:
    x, packing_of = draw(dtype, rows, 384), quantise(draw(torch.float32, 45, 384), bits, group)
    wanted = x.double() @ dequantise(*packing_of, bits, 384, dtype).double().T
    difference = (quantised_linear(x, *packing_of, bits).double() - wanted).abs().max() / wanted.abs().max()
    assert float(difference) < (1e-5 if dtype == torch.float32 else 5e-3)


@pytest.mark.parametrize(("bits", "group"), KINDS)
def test_tiles_are_the_same_bits_in_any_batch(bits: int, group: int) -> None:
    plain = native.kernels().linear
    if plain is None or not plain.tiles(384, 45):
        pytest.skip("no AMX, or no C++ compiler: more than 16 rows are F.linear's, which has no fixed order")
    x, weight = draw(torch.bfloat16, packing.TILED_ROWS, 384), draw(torch.float32, 45, 384)
    packed, scale = quantise(weight, bits, group)
    whole, half = quantised_linear(x, packed, scale, bits), weight.bfloat16()
    dense = linear(x[:TILED_ROWS], half)
    for rows in (packing.ROUNDED_ROWS + 1, 48, 64, 65, 100):
        assert torch.equal(quantised_linear(x[:rows], packed, scale, bits), whole[:rows])
    for rows in (1, 16, 17, 32, 33, 48):
        assert torch.equal(linear(x[:rows], half), dense[:rows])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(bits=st.sampled_from([4, 8]), out=st.integers(1, 5), inner=st.integers(1, 40), seed=st.integers(0, 9))
def test_packing_loses_nothing(bits: int, out: int, inner: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, (out, inner), generator=generator).to(torch.int8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.int32
    assert packed.shape == (out, -(-inner * bits // 32))
    assert torch.equal(unpack(packed, bits, inner), codes)


@pytest.mark.parametrize(("bits", "group"), KINDS)
def test_quantising_what_is_quantised_changes_nothing(bits: int, group: int) -> None:
    """Where a row or group reaches the end of the range, its scale and codes are found again."""
    generator = torch.Generator().manual_seed(0)
    end = 127 if bits == 8 else 7
    codes = torch.randint(-end, end + 1, (6, 256), generator=generator).to(torch.int8)
    codes[:, :: group or 256] = end
    scale = (torch.rand(6, 256 // (group or 256), generator=generator) + 0.1).bfloat16()
    packed = pack(codes, bits)
    again = quantise(dequantise(packed, scale, bits, 256, torch.float32), bits, group)
    assert torch.equal(again[0], packed)
    assert torch.equal(again[1], scale)


def test_zeros_and_tiny_weights() -> None:
    weight = torch.zeros(3, 64)
    weight[1] = 1e-30
    for bits, group in KINDS[:3]:
        packed, scale = quantise(weight, bits, group)
        made = quantised_linear(torch.ones(1, 64), packed, scale, bits)
        assert bool(made.isfinite().all())
        assert float(made[0, 0]) == 0


def test_a_gradient_flows_through_quantised_weights() -> None:
    x = draw(torch.float32, 3, 64).requires_grad_()
    packed, scale = quantise(draw(torch.float32, 5, 64), 4, 32)
    quantised_linear(x, packed, scale, 4).sum().backward()
    wanted = dequantise(packed, scale, 4, 64, torch.float32).sum(0)
    assert x.grad is not None
    assert torch.allclose(x.grad, wanted.expand(3, 64), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_quantised_op() -> None:
    packed, scale = quantise(draw(torch.float32, 5, 64), 4, 32)
    torch.library.opcheck(
        torch.ops.whorl.quantised_linear.default, (draw(torch.bfloat16, 3, 64), packed, scale, 4, None)
    )

"""The Triton paged attention on a GPU: as specified, the same bits in any company, and `store`.

Without a GPU these are skipped by name; `test_triton_interpreted.py` runs all of them on the CPU, in
triton's interpreter. They have not run on a GPU yet.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.kernels.paged_steps import TOLERANCE, Step, difference, readable, step
from whorl.kernels import triton_paged
from whorl.kernels.attention import attention
from whorl.kernels.catalogue import KERNELS, largest_difference
from whorl.kernels.paged_attention import paged_attention, reference, store
from whorl.kernels.spec import AttentionSpec

DEVICE = torch.device("cpu" if triton_paged.interpreted() else "cuda")
pytestmark = pytest.mark.skipif(
    DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"
)
PAGED = KERNELS["paged_attention"]
DTYPES = list(TOLERANCE)


def there(made: Step) -> Step:
    """Queries and pages on the device; tables, offsets and lengths stay on the host, as when serving."""
    return replace(
        made, q=made.q.to(DEVICE), k_pages=made.k_pages.to(DEVICE), v_pages=made.v_pages.to(DEVICE)
    )


def kernel(
    q: Tensor, k: Tensor, v: Tensor, tables: Tensor, offsets: Tensor, lengths: Tensor, spec: AttentionSpec
) -> Tensor:
    """Itself: nothing stands in for it where it fails."""
    window, cap = spec.window or 0, spec.soft_cap or 0.0
    return triton_paged.attend(q, k, v, tables, offsets, lengths, spec.scale, window, cap)


@pytest.mark.parametrize("dtype", DTYPES if triton_paged.interpreted() else PAGED.tolerance, ids=str)
@pytest.mark.parametrize("example", PAGED.examples)
def test_the_catalogues_examples(dtype: torch.dtype, example: str) -> None:
    q, k, v, *rest = arguments = PAGED.examples[example](dtype, DEVICE)
    cap = rest[-1].soft_cap or 0.0
    assert triton_paged.attention_for(q, k, v, cap) is triton_paged.attend, "its self-test passes"
    given = paged_attention(*arguments)
    assert given.device.type == DEVICE.type and torch.equal(given, kernel(*arguments))
    assert largest_difference(given, reference(*arguments)) <= PAGED.tolerance[dtype]


@settings(max_examples=30 if triton_paged.interpreted() else 200, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_step(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=4))
    counts = [data.draw(st.one_of(st.integers(0, min(2, n)), st.integers(0, n))) for n in lengths]
    key_heads, group = data.draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (1, 7), (2, 4), (1, 18), (1, 71)]))
    d = data.draw(st.sampled_from([8, 16, 20, 32, 64, 80, 128, 256]))
    dtype = data.draw(st.sampled_from(DTYPES))
    spec = AttentionSpec(
        scale=d**-0.5,
        window=data.draw(st.sampled_from([None, 1, 5, 40])),
        soft_cap=data.draw(st.sampled_from([None, 2.0, 50.0])),
    )
    made = step(
        lengths, counts, heads=key_heads * group, key_heads=key_heads, d=d, dtype=dtype,
        slots=data.draw(st.sampled_from([1, 8, 16, 20])), seed=data.draw(st.integers(0, 3)),
    )  # fmt: skip
    assert difference(
        there(made).call(kernel, spec).cpu(), readable(made).call(reference, spec)
    ) <= TOLERANCE[dtype]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("soft_cap", [None, 5.0])
def test_splits_and_tiles(dtype: torch.dtype, window: int | None, soft_cap: float | None) -> None:
    """Several splits and tiles, ends on and beside their borders, windows that begin inside a split."""
    spec = AttentionSpec(scale=0.2, window=window, soft_cap=soft_cap)
    made = step((513, 300, 256, 257, 90), (1, 70, 2, 3, 0), slots=16, d=32, dtype=dtype)
    wanted = readable(made).call(reference, spec)
    assert difference(there(made).call(kernel, spec).cpu(), wanted) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 70])
def test_neighbours_move_no_bit(dtype: torch.dtype, window: int | None) -> None:
    spec = AttentionSpec(scale=0.2, window=window)
    made = there(step((520, 1, 90, 300, 50, 33), (1, 1, 40, 2, 50, 33), slots=16, d=32, dtype=dtype))
    whole = made.call(kernel, spec)
    for rows, alone in made.sequences():
        assert torch.equal(alone.call(kernel, spec), whole[rows])


def rows_have_their_own_bits() -> bool:
    """On a GPU, yes. The interpreter multiplies with numpy, whose BLAS on some CPUs sums a row otherwise
    at another place of its block."""
    if DEVICE.type == "cuda":
        return True
    block, other = np.random.default_rng(0).standard_normal((2, 64, 64), dtype=np.float32)
    return all(np.array_equal(np.roll(block, n, 0) @ other, np.roll(block @ other, n, 0)) for n in range(64))


def test_cuts_between_chunks_of_a_prompt_move_no_bit() -> None:
    """As long as a chunk is one of many queries."""
    exact = rows_have_their_own_bits()
    spec = AttentionSpec(scale=0.2, window=50)
    made = there(step((150,), (150,), slots=16, d=32))
    whole = made.call(kernel, spec)
    for start, stop in ((0, 37), (37, 100), (100, 150)):
        chunk = replace(
            made, q=made.q[start:stop], offsets=torch.tensor([0, stop - start]), lengths=torch.tensor([stop])
        )
        given = chunk.call(kernel, spec)
        assert torch.equal(given, whole[start:stop]) or (
            not exact and difference(given, whole[start:stop]) <= 1e-6
        )


def test_what_lies_behind_the_last_sequence_is_zero() -> None:
    made = there(step((20, 40), (1, 30)))
    longer = replace(made, q=torch.cat([made.q, made.q[:5]]))
    spec = AttentionSpec(scale=0.3)
    given = longer.call(kernel, spec)
    assert torch.equal(given[:31], made.call(kernel, spec)) and not given[31:].any()


@pytest.mark.parametrize("chunk", [1, 7, 40])
@pytest.mark.parametrize(("window", "soft_cap"), [(None, None), (13, 4.0)])
def test_the_trainers_numbers(chunk: int, window: int | None, soft_cap: float | None) -> None:
    """A document stored and attended to in chunks, as served, against packed attention, as trained."""
    tokens, heads, key_heads, d, slots = 40, 4, 2, 24, 16
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(tokens, heads, d, generator=generator).to(DEVICE)
    k, v = torch.randn(2, tokens, key_heads, d, generator=generator).to(DEVICE)
    spec = AttentionSpec(scale=d**-0.5, window=window, soft_cap=soft_cap)
    wanted = attention(q, k, v, torch.tensor([0, tokens], dtype=torch.int32, device=DEVICE), spec)
    pages = -(-tokens // slots)
    table = torch.randperm(pages, generator=generator)
    k_pages, v_pages = torch.full((2, pages, key_heads, slots, d), float("nan"), device=DEVICE)
    made = []
    for start in range(0, tokens, chunk):
        stop = min(start + chunk, tokens)
        at = torch.arange(start, stop)
        places = (table[at // slots] * slots + at % slots).to(DEVICE)
        store(k[start:stop], v[start:stop], k_pages, v_pages, places)
        offsets, lengths = torch.tensor([[0, stop - start], [stop, 0]], dtype=torch.int32)
        made.append(
            paged_attention(
                q[start:stop], k_pages, v_pages, table[None].to(torch.int32), offsets, lengths[:1], spec
            )
        )
    assert difference(torch.cat(made), wanted) <= 1e-5


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_store_writes_its_slots_and_nothing_else(data: st.DataObject) -> None:
    heads, size, d = (data.draw(st.sampled_from(sizes)) for sizes in ((1, 2, 3), (1, 8, 16), (8, 20, 520)))
    places = data.draw(st.lists(st.integers(0, 4 * size - 1), max_size=9, unique=True))
    slots = torch.tensor([*places, *[-1] * data.draw(st.integers(0, 2))], dtype=torch.int64)
    wide = torch.randn(2, len(slots), heads, d + 3)
    k, v = (part[..., :d].to(DEVICE) for part in wide)  # as the model's: a part of a wider row
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    k_pages, v_pages = torch.zeros(2, 4, heads, size, d, dtype=dtype, device=DEVICE)
    triton_paged.store(k, v, k_pages, v_pages, slots.to(DEVICE))
    for new, pages in ((k, k_pages), (v, v_pages)):
        wanted = torch.zeros_like(pages)
        for token, slot in enumerate(slots.tolist()):
            if slot >= 0:
                wanted[slot // size, :, slot % size] = new[token].to(dtype)
        assert torch.equal(pages, wanted)


def test_the_soft_caps_tanh_keeps_its_digits() -> None:
    """Near 0, too, where most scores are: within a few units in the last place of fp64's."""
    x = torch.cat([torch.linspace(-12, 12, 2048), torch.logspace(-9, 1, 2048)]).to(DEVICE)
    out = torch.empty_like(x)
    import_module("tests.kernels.tanh_program").tanh[1,](x, out, SIZE=4096)
    assert float(((out.double() - x.double().tanh()) / x.double().tanh()).abs().max()) < 5e-7

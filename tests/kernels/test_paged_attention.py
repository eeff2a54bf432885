"""Paged attention: as specified, with the trainer's numbers, and the same bits in any company."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.kernels.paged_steps import TOLERANCE, difference, readable, step
from whorl.kernels import native
from whorl.kernels.attention import attention
from whorl.kernels.device import compiler_available
from whorl.kernels.paged_attention import _portable, _sequences, paged_attention, reference, store
from whorl.kernels.spec import AttentionSpec

DTYPES = list(TOLERANCE)


def portable(
    q: Tensor, k: Tensor, v: Tensor, tables: Tensor, offsets: Tensor, lengths: Tensor, spec: AttentionSpec
) -> Tensor:
    out = torch.zeros_like(q)
    for start, stop, keys, values, length in _sequences(k, v, tables, offsets, lengths):
        out[start:stop] = _portable(
            q[start:stop], keys, values, length, spec.scale, spec.window or 0, spec.soft_cap or 0.0
        )
    return out


@settings(max_examples=120, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_step(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=4))
    counts = [data.draw(st.one_of(st.integers(0, min(2, n)), st.integers(0, n))) for n in lengths]
    key_heads, group = data.draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (1, 7), (2, 4), (1, 18)]))
    d = data.draw(st.sampled_from([8, 16, 20, 32, 64, 80, 96, 128]))
    dtype = data.draw(st.sampled_from(DTYPES))
    spec = AttentionSpec(
        scale=d**-0.5,
        window=data.draw(st.sampled_from([None, 1, 5, 40])),
        soft_cap=data.draw(st.sampled_from([None, 2.0, 50.0])),
    )
    made = step(
        lengths, counts, heads=key_heads * group, key_heads=key_heads, d=d, dtype=dtype,
        slots=data.draw(st.sampled_from([8, 16, 32])), seed=data.draw(st.integers(0, 3)),
    )  # fmt: skip
    wanted = readable(made).call(reference, spec)
    assert difference(made.call(paged_attention, spec), wanted) <= TOLERANCE[dtype]
    assert difference(readable(made).call(portable, spec), wanted) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("soft_cap", [None, 5.0])
def test_long_contexts(dtype: torch.dtype, window: int | None, soft_cap: float | None) -> None:
    """More keys than a chunk, more queries than a block, rows that fill no step."""
    spec = AttentionSpec(scale=0.2, window=window, soft_cap=soft_cap)
    made = step((1300, 513, 700, 1025), (1, 3, 450, 0), slots=16, d=32, dtype=dtype)
    wanted = readable(made).call(reference, spec)
    assert difference(made.call(paged_attention, spec), wanted) <= TOLERANCE[dtype]


@pytest.mark.parametrize("chunk", [1, 7, 300])
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("soft_cap", [None, 4.0])
def test_the_trainers_numbers(chunk: int, window: int | None, soft_cap: float | None) -> None:
    """A document in chunks over pages, as served, against packed attention over the whole, as trained."""
    tokens, heads, key_heads, d, slots = 300, 4, 2, 24, 16
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(tokens, heads, d, generator=generator)
    k, v = torch.randn(2, tokens, key_heads, d, generator=generator)
    spec = AttentionSpec(scale=d**-0.5, window=window, soft_cap=soft_cap)
    wanted = attention(q, k, v, torch.tensor([0, tokens], dtype=torch.int32), spec)
    pages = -(-tokens // slots)
    table = torch.randperm(pages, generator=generator)
    k_pages, v_pages = torch.full((2, pages, key_heads, slots, d), float("nan"))
    made = []
    for start in range(0, tokens, chunk):
        stop = min(start + chunk, tokens)
        at = torch.arange(start, stop)
        store(k[start:stop], v[start:stop], k_pages, v_pages, table[at // slots] * slots + at % slots)
        offsets, lengths = torch.tensor([[0, stop - start], [stop, 0]], dtype=torch.int32)
        made.append(
            paged_attention(
                q[start:stop], k_pages, v_pages, table[None].to(torch.int32), offsets, lengths[:1], spec
            )
        )
    assert difference(torch.cat(made), wanted) <= 1e-5


@pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_neighbours_and_threads_move_no_bit(dtype: torch.dtype) -> None:
    assert native.kernels().paged_attention is not None, native.status()
    spec = AttentionSpec(scale=0.2)
    made = step((700, 1, 90, 1200, 300, 33), (1, 1, 40, 1, 200, 33), slots=16, d=32, dtype=dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            whole = made.call(paged_attention, spec)
            for rows, alone in made.sequences():
                assert torch.equal(alone.call(paged_attention, spec), whole[rows])
            results.append(whole)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_store_writes_its_slots_and_nothing_else() -> None:
    k, v = torch.randn(2, 5, 3, 8)
    k_pages, v_pages = torch.zeros(2, 4, 3, 8, 8)
    slots = torch.tensor([17, -1, 0, 31, -1])
    store(k, v, k_pages, v_pages, slots)
    for new, pages in ((k, k_pages), (v, v_pages)):
        wanted = torch.zeros_like(pages)
        for token, slot in enumerate(slots.tolist()):
            if slot >= 0:
                wanted[slot // 8, :, slot % 8] = new[token]
        assert torch.equal(pages, wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_ops() -> None:
    made = step((20, 9), (1, 9))
    arguments: tuple[Any, ...] = (made.q, made.k_pages.nan_to_num(), made.v_pages.nan_to_num())
    rest = (made.tables, made.offsets, made.lengths, 0.3, 5, 2.0)
    torch.library.opcheck(torch.ops.whorl.paged_attention.default, (*arguments, *rest))
    k, v = torch.randn(2, 3, 2, 16)
    slots = torch.tensor([3, -1, 9])
    torch.library.opcheck(torch.ops.whorl.paged_store.default, (k, v, *arguments[1:], slots))


def test_lengths_are_data_to_a_compiled_model() -> None:
    compiled = 0

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        nonlocal compiled
        compiled += 1
        return graph.forward

    spec = AttentionSpec(scale=0.3)
    fast = torch.compile(
        lambda *given: paged_attention(given[0] * 1, *given[1:], spec) + 1, backend=count, fullgraph=True
    )
    for lengths in ((9, 20), (8, 17), (21, 1), (16, 24)):
        made = step(lengths, (1, 1))
        tables = torch.nn.functional.pad(made.tables, (0, 8 - made.tables.shape[1]), value=-1)
        k, v = (
            torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 0, 0, 12 - len(x)))
            for x in (made.k_pages, made.v_pages)
        )
        given = (made.q, k, v, tables, made.offsets, made.lengths)
        assert torch.equal(fast(*given), paged_attention(*given, spec) + 1)
    assert compiled == 1

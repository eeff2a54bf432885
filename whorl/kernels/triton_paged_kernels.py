"""Paged attention on the GPU: the Triton programs. Only `triton_paged` imports this file, and with it triton.

Blocks of keys start at fixed positions of their own sequence, a sequence is cut into splits of fixed size,
and the splits are combined in order: what a row adds up, and in which order, follows from its own sequence
alone, so that neighbours in a batch move none of its bits. Online softmax in fp32 as in FlashAttention
(Dao et al. 2022), splits over the keys as in Flash-Decoding (Dao et al. 2023).

The query heads that share a key head are the rows of one tile, query by query: row r is query r // GROUP,
head r % GROUP of them, so that keys are read once for all of them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tanh(x: tl.tensor) -> tl.tensor:
    """To a few units in the last place; the usual 2·sigmoid(2x) − 1 loses all of a small x's digits."""
    square = x * x
    tail = 2.0 / 15 + square * (-17.0 / 315 + square * (62.0 / 2835 - square * (1382.0 / 155925)))
    small = x + x * square * (-1.0 / 3 + square * tail)
    shrunk = tl.exp(-2.0 * tl.abs(x))
    large = (1.0 - shrunk) / (1.0 + shrunk)
    return tl.where(tl.abs(x) < 0.3, small, tl.where(x < 0, -large, large))


@triton.jit
def _product(a: tl.tensor, b: tl.tensor, WIDE: tl.constexpr) -> tl.tensor:
    """a @ b, summed in fp32. WIDE is for the interpreter, which multiplies bf16's bits as integers."""
    if WIDE:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")  # fp32 stays fp32 on tensor cores, too


@triton.jit
def _rows(
    q, first_row, queries, query, key_head, q_token, q_head, ROWS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The query rows of one key head from `query` of `queries` on: values, and which of them are real."""
    row = tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    real = (row < ROWS // GROUP * GROUP) & (query + row // GROUP < queries)
    token = (first_row + query + row // GROUP).to(tl.int64)
    where = token * q_token + (key_head * GROUP + row % GROUP) * q_head
    values = tl.load(q + where[:, None] + d[None, :], mask=real[:, None] & (d < D)[None, :], other=0.0)
    return values, real


@triton.jit
def _attend(
    q, position, k_pages, v_pages, table, key_head, first, stop, earliest, window, scale, cap,
    page_stride, head_stride, place_stride,
    SLOTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    CAPPED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Rows q [ROWS, WIDTH] at `position` [ROWS] over the keys of [first, stop) from `earliest` on: the sum
    of weights · values, its largest score and its sum of weights, each against that score."""
    d = tl.arange(0, WIDTH)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    made = tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(first, stop, BLOCK):
        at = start + tl.arange(0, BLOCK)
        real = (at >= earliest) & (at < stop)
        page = tl.load(table + at // SLOTS, mask=real, other=0).to(tl.int64)
        where = page * page_stride + key_head * head_stride + (at % SLOTS) * place_stride
        inside = real[:, None] & (d < D)[None, :]
        keys = tl.load(k_pages + where[:, None] + d[None, :], mask=inside, other=0.0)
        scores = _product(q, tl.trans(keys), WIDE) * scale
        if CAPPED:
            scores = cap * _tanh(scores / cap)
        distance = position[:, None] - at[None, :]
        seen = (distance >= 0) & (distance < window) & real[None, :]
        scores = tl.where(seen, scores, float("-inf"))
        highest = tl.maximum(best, tl.max(scores, 1))
        shift = tl.where(highest == float("-inf"), 0.0, highest)  # nothing seen yet: weights of 0, not NaN
        weights = tl.exp(scores - shift[:, None])
        shrink = tl.exp(best - shift)
        total = total * shrink + tl.sum(weights, 1)
        values = tl.load(v_pages + where[:, None] + d[None, :], mask=inside, other=0.0)
        made = made * shrink[:, None] + _product(weights.to(values.dtype), values, WIDE)
        best = highest
    return made, best, total


@triton.jit(do_not_specialize=["table_width", "window"])
def prompt_tiles(
    q, k_pages, v_pages, out, tables, offsets, lengths, tiles, table_width, window, scale, cap,
    q_token, q_head, page_stride, head_stride, place_stride, out_token, out_head,
    SLOTS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, D: tl.constexpr,
    WIDTH: tl.constexpr, CAPPED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One tile of a sequence's queries over all the keys that they see. `tiles` int32 [·, 2] are
    (sequence, first query); the grid is (tiles, key heads)."""
    sequence = tl.load(tiles + 2 * tl.program_id(0))
    query = tl.load(tiles + 2 * tl.program_id(0) + 1)
    key_head = tl.program_id(1)
    first_row = tl.load(offsets + sequence)
    queries = tl.load(offsets + sequence + 1) - first_row
    length = tl.load(lengths + sequence)
    values, real = _rows(
        q, first_row, queries, query, key_head, q_token, q_head, ROWS, GROUP, D, WIDTH
    )  # fmt: skip
    row = tl.arange(0, ROWS)
    position = tl.where(real, length - queries + query + row // GROUP, -1)
    begin = length - queries + query
    earliest = tl.maximum(begin - window + 1, 0)
    stop = tl.minimum(begin + ROWS // GROUP, length)
    made, _, total = _attend(
        values, position, k_pages, v_pages, tables + sequence.to(tl.int64) * table_width, key_head,
        earliest // BLOCK * BLOCK, stop, earliest, window, scale, cap, page_stride, head_stride, place_stride,
        SLOTS, ROWS, BLOCK, D, WIDTH, CAPPED, WIDE,
    )  # fmt: skip
    d = tl.arange(0, WIDTH)
    token = (first_row + query + row // GROUP).to(tl.int64)
    where = token * out_token + (key_head * GROUP + row % GROUP) * out_head
    made = made / tl.where(real, total, 1.0)[:, None]
    kept = real[:, None] & (d < D)[None, :]
    tl.store(out + where[:, None] + d[None, :], made.to(out.dtype.element_ty), mask=kept)


@triton.jit(do_not_specialize=["table_width", "window", "widest"])
def decode_splits(
    q, k_pages, v_pages, sums, best, total, tables, offsets, lengths, splits, table_width, window, widest,
    scale, cap, q_token, q_head, page_stride, head_stride, place_stride,
    SLOTS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SPLIT: tl.constexpr,
    D: tl.constexpr, WIDTH: tl.constexpr, CAPPED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The few queries of a sequence over one split of its keys. `splits` int32 [·, 2] are (sequence, number
    of the split); the grid is (splits, key heads). Writes sums [splits, key heads, widest · GROUP, D] and
    best and total of the same shape without D."""
    sequence = tl.load(splits + 2 * tl.program_id(0))
    number = tl.load(splits + 2 * tl.program_id(0) + 1)
    key_head = tl.program_id(1)
    first_row = tl.load(offsets + sequence)
    queries = tl.load(offsets + sequence + 1) - first_row
    length = tl.load(lengths + sequence)
    values, real = _rows(
        q, first_row, queries, 0, key_head, q_token, q_head, ROWS, GROUP, D, WIDTH
    )  # fmt: skip
    row = tl.arange(0, ROWS)
    position = tl.where(real, length - queries + row // GROUP, -1)
    earliest = tl.maximum(length - queries - window + 1, number * SPLIT)
    made, highest, weight = _attend(
        values, position, k_pages, v_pages, tables + sequence.to(tl.int64) * table_width, key_head,
        tl.maximum(earliest, 0) // BLOCK * BLOCK, tl.minimum((number + 1) * SPLIT, length), earliest, window,
        scale, cap, page_stride, head_stride, place_stride, SLOTS, ROWS, BLOCK, D, WIDTH, CAPPED, WIDE,
    )  # fmt: skip
    d = tl.arange(0, WIDTH)
    piece = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + key_head
    where = piece * widest * GROUP + row
    tl.store(best + where, highest, mask=real)
    tl.store(total + where, weight, mask=real)
    tl.store(sums + where[:, None] * D + d[None, :], made, mask=real[:, None] & (d < D)[None, :])


@triton.jit(do_not_specialize=["widest", "key_heads"])
def combine_splits(
    sums, best, total, out, offsets, few, widest, key_heads, out_token, out_head,
    GROUP: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One row of the result from its splits, first to last. `few` int32 [·, 3] are (sequence, its first
    split in the buffers, how many); the grid is (few · widest, heads)."""
    number, query = tl.program_id(0) // widest, tl.program_id(0) % widest
    head = tl.program_id(1)
    sequence = tl.load(few + 3 * number)
    first, count = tl.load(few + 3 * number + 1), tl.load(few + 3 * number + 2)
    first_row = tl.load(offsets + sequence)
    if query < tl.load(offsets + sequence + 1) - first_row:
        d = tl.arange(0, WIDTH)
        highest = tl.full([1], float("-inf"), tl.float32)
        weight = tl.zeros([1], tl.float32)
        made = tl.zeros([WIDTH], tl.float32)
        for step in range(count):
            block = (first.to(tl.int64) + step) * key_heads + head // GROUP
            where = block * widest * GROUP + query * GROUP + head % GROUP
            ours = tl.load(best + where + tl.arange(0, 1))
            above = tl.maximum(highest, ours)
            shift = tl.where(above == float("-inf"), 0.0, above)
            shrink, part = tl.exp(highest - shift), tl.exp(ours - shift)
            weight = weight * shrink + tl.load(total + where + tl.arange(0, 1)) * part
            made = made * shrink + tl.load(sums + where * D + d, mask=d < D, other=0.0) * part
            highest = above
        where = (first_row + query).to(tl.int64) * out_token + head * out_head
        tl.store(out + where + d, (made / weight).to(out.dtype.element_ty), mask=d < D)


@triton.jit
def store_rows(
    k, v, k_pages, v_pages, slots, k_token, k_head, k_dim, v_token, v_head, v_dim,
    page_stride, head_stride, place_stride,
    SLOTS: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Part of one token's key and value, of the pages' type, into its place; the grid is (tokens, parts)."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    if slot >= 0:
        at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        real = at < HEADS * D
        head, d = at // D, at % D
        where = slot // SLOTS * page_stride + head * head_stride + slot % SLOTS * place_stride + d
        key = tl.load(k + token * k_token + head * k_head + d * k_dim, mask=real)
        value = tl.load(v + token * v_token + head * v_head + d * v_dim, mask=real)
        tl.store(k_pages + where, key, mask=real)
        tl.store(v_pages + where, value, mask=real)

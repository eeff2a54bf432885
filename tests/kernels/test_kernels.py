"""Every kernel of the catalogue against its reference, and the references against plain fp64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from whorl.kernels.attention import attention
from whorl.kernels.catalogue import KERNELS, Kernel, compare, largest_difference
from whorl.kernels.spec import AttentionSpec

CPU = torch.device("cpu")
DEVICES = [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]
CASES = [
    pytest.param(device, dtype, name, example, id=f"{device}-{dtype}-{name}-{example}".replace("torch.", ""))
    for device in DEVICES
    for name, kernel in KERNELS.items()
    for dtype in kernel.tolerance
    for example in kernel.examples
]


@pytest.mark.parametrize(("device", "dtype", "name", "example"), CASES)
def test_fast_is_the_reference(device: torch.device, dtype: torch.dtype, name: str, example: str) -> None:
    kernel = KERNELS[name]
    for part, difference in compare(kernel, kernel.examples[example](dtype, device)):
        assert difference <= kernel.tolerance[dtype], part


# -- the references themselves, in fp64, document by document ------------------------------------


def attention64(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, spec: AttentionSpec) -> Tensor:
    """The textbook's loop: each head of each query over the keys it may see."""
    out = []
    for start, end in zip(offsets.tolist(), offsets.tolist()[1:], strict=False):
        for query in range(start, end):
            first = start if spec.window is None else max(start, query - spec.window + 1)
            last = query + 1 if spec.causal else end
            heads = []
            for head in range(q.shape[1]):
                shared = head * k.shape[1] // q.shape[1]
                scores = k[first:last, shared] @ q[query, head] * spec.scale
                if spec.soft_cap is not None:
                    scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
                heads.append(scores.softmax(0) @ v[first:last, shared])
            out.append(torch.stack(heads))
    return torch.stack(out) if out else q + 0 * (k.sum() + v.sum())


def paged64(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Tensor, offsets: Tensor, lengths: Tensor,
    spec: AttentionSpec,
) -> Tensor:  # fmt: skip
    """Each sequence's keys one by one from their pages, then the textbook's loop over all of them."""
    size = k_pages.shape[2]
    out = []
    for number, length in enumerate(lengths.tolist()):
        new = int(offsets[number + 1] - offsets[number])
        if new:
            at = [(int(tables[number, token // size]), token % size) for token in range(length)]
            k, v = (torch.stack([pool[page, :, place] for page, place in at]) for pool in (k_pages, v_pages))
            before = torch.zeros(length - new, *q.shape[1:], dtype=q.dtype)
            queries = torch.cat([before, q[offsets[number] : offsets[number + 1]]])
            out.append(attention64(queries, k, v, torch.tensor([0, length]), spec)[-new:])
    return torch.cat(out) if out else q


def linear64(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return (x[:, None] * weight).sum(-1) + (0 if bias is None else bias)


def quantised64(x: Tensor, packed: Tensor, scale: Tensor, bits: int, bias: Tensor | None = None) -> Tensor:
    """Codes by shifting each word, lowest bits first, zero in the middle of their range."""
    shifts = torch.arange(0, 32, bits)
    codes = ((packed.long()[:, :, None] >> shifts) & ((1 << bits) - 1)) - (1 << (bits - 1))
    codes = codes.flatten(1)[:, : x.shape[1]]
    spread = scale.double().repeat_interleave(x.shape[1] // scale.shape[1], 1)
    return linear64(x, codes * spread, bias)


def losses64(hidden: Tensor, weight: Tensor, targets: Tensor, soft_cap: float) -> Tensor:
    logits = hidden @ weight.T
    if soft_cap:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    return torch.logsumexp(logits, -1) - logits[torch.arange(len(targets)), targets]


def cross_entropy64(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, soft_cap: float
) -> Tensor:
    return (losses64(hidden, weight, targets, soft_cap) * weights).sum()


def norm64(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, offset: float, layer: bool) -> Tensor:
    mean = x.sum(-1, keepdim=True) / x.shape[-1] if layer else 0.0
    spread = ((x - mean) ** 2).sum(-1, keepdim=True) / x.shape[-1]
    return (x - mean) / (spread + eps).sqrt() * (weight + offset) + (0 if bias is None else bias)


def rotate64(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair as a complex number, turned."""
    half = x.shape[-1] // 2
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.complex(cos, sin)[:, None]
    return torch.cat([turned.real, turned.imag], -1)


def activate64(x: Tensor, name: str, up: Tensor | None) -> Tensor:
    half = x / 2
    active = {
        "silu": x / (1 + (-x).exp()),
        "gelu": half * (1 + torch.special.erf(x / 2**0.5)),
        "gelu_tanh": half * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
        "relu": (x + x.abs()) / 2,
    }[name]
    return active if up is None else active * up


SLOW_IN_PYTHON = ("long and short", "blocks", "head of 32", "head of 64, grouped queries")
PLAIN: dict[str, Callable[..., Tensor]] = {
    "activate": activate64,
    "attention": attention64,
    "linear": linear64,
    "norm": norm64,
    "paged_attention": paged64,
    "quantised_linear": quantised64,
    "rotate": rotate64,
    "linear_cross_entropy": cross_entropy64,
    "token_losses": losses64,
}


@pytest.mark.parametrize(
    ("name", "example"),
    [
        (n, e)
        for n, kernel in KERNELS.items()
        for e in kernel.examples
        if e not in ("long and short", "blocks")
    ],
)
def test_reference_is_the_formula(name: str, example: str) -> None:
    kernel = KERNELS[name]
    arguments = kernel.examples[example](torch.float32, CPU)
    plain = Kernel(_in_double(PLAIN[name]), kernel.reference, kernel.tolerance, kernel.differentiable, {})
    for part, difference in compare(plain, arguments):
        assert difference <= 1e-5, part


def _in_double(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*arguments: Any) -> Tensor:
        return function(
            *(a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in arguments)
        )

    return run


# -- properties ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 13), min_size=1, max_size=6),
    kv_heads=st.sampled_from([1, 2, 4]),
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 3, 20]),
    soft_cap=st.sampled_from([None, 2.0]),
    seed=st.integers(0, 3),
)
def test_any_packing(
    lengths: list[int], kv_heads: int, causal: bool, window: int | None, soft_cap: float | None, seed: int
) -> None:
    if not causal:
        window = None  # a window looks back; no bidirectional model has one
    spec = AttentionSpec(scale=0.4, causal=causal, window=window, soft_cap=soft_cap)
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    q = torch.randn(tokens, 4, 6, generator=generator)
    k, v = torch.randn(2, tokens, kv_heads, 6, generator=generator)
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    for part, difference in compare(KERNELS["attention"], (q, k, v, offsets, spec)):
        assert difference <= 1e-5, part


def test_documents_do_not_see_each_other() -> None:
    """A document's output is bit for bit what it is with other neighbours of the same lengths."""
    kernel = KERNELS["attention"]
    q, k, v, offsets, spec = kernel.examples["causal"](torch.float32, CPU)
    alone = attention(q, k, v, offsets, spec)
    start, end = offsets[3:5].tolist()
    changed = [x.clone() for x in (q, k, v)]
    for x in changed:
        x[:start] = 7.0
        x[end:] = -7.0
    assert torch.equal(attention(*changed, offsets, spec)[start:end], alone[start:end])


def test_inputs_that_are_views() -> None:
    """q, k and v cut from one array, as a fused projection gives them."""
    joined = torch.randn(12, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    offsets = torch.tensor([0, 5, 12], dtype=torch.int32)
    arguments = (*(joined[:, part] for part in range(3)), offsets, AttentionSpec(scale=0.3))
    for part, difference in compare(KERNELS["attention"], arguments):
        assert difference <= 1e-5, part


# -- as torch.library ops ------------------------------------------------------------------------

FLASH = (0.3, True, 0, 0.0)
EXPLICIT = (0.3, True, 2, 1.5)


@pytest.mark.parametrize("spec", [FLASH, EXPLICIT], ids=["flash", "explicit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_attention_op(spec: tuple[float, bool, int, float], dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(9, heads, 8, dtype=dtype, requires_grad=True) for heads in (4, 2, 2))
    offsets = torch.tensor([0, 4, 9], dtype=torch.int32)
    torch.library.opcheck(torch.ops.whorl.attention.default, (q, k, v, offsets, *spec))
    out, lse = torch.ops.whorl.attention(q, k, v, offsets, *spec)
    saved = [x.detach() for x in (torch.ones_like(out), q, k, v, out, lse)]
    torch.library.opcheck(torch.ops.whorl.attention_backward.default, (*saved, offsets, *spec))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_linear_cross_entropy_op(dtype: torch.dtype) -> None:
    hidden, weight, targets, weights, _ = KERNELS["linear_cross_entropy"].examples["small"](dtype, CPU)
    arguments = (hidden.requires_grad_(), weight.requires_grad_(), targets, weights, 2.0, True, True)
    torch.library.opcheck(torch.ops.whorl.linear_cross_entropy.default, arguments)


def test_no_gradient_is_made_that_nobody_asks_for() -> None:
    hidden, weight, targets, weights, cap = KERNELS["linear_cross_entropy"].examples["small"](
        torch.float32, CPU
    )
    for wants_hidden, wants_weight in ((True, False), (False, True), (False, False)):
        h, w = hidden.clone().requires_grad_(wants_hidden), weight.clone().requires_grad_(wants_weight)
        loss = KERNELS["linear_cross_entropy"].fast(h, w, targets, weights, cap)
        assert loss.requires_grad == (wants_hidden or wants_weight)
        if loss.requires_grad:
            loss.backward()
        assert (h.grad is not None) == wants_hidden and (w.grad is not None) == wants_weight
        wanted = KERNELS["linear_cross_entropy"].reference(hidden, weight, targets, weights, cap)
        assert largest_difference(loss.detach(), wanted) <= 1e-5


def test_packings_are_data_to_a_compiled_model() -> None:
    """30 ragged batches, other lengths and numbers of documents each: compiled at most twice."""
    compiled = 0

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        nonlocal compiled
        compiled += 1
        return graph.forward

    spec = AttentionSpec(scale=0.3, window=5)
    fast = torch.compile(
        lambda q, offsets: attention(q * 1, q, q, offsets, spec) + 1, backend=count, fullgraph=True
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        lengths = torch.randint(
            0, 9, (int(torch.randint(2, 7, (1,), generator=generator)),), generator=generator
        )
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        offsets = torch.cat([offsets, torch.tensor([60])]).to(torch.int32)  # T is the same for every batch
        q = torch.randn(60, 2, 8, generator=generator)
        assert torch.equal(fast(q, offsets), attention(q, q, q, offsets, spec) + 1)
    assert 1 <= compiled <= 2

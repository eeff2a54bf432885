"""C++ kernels built on this machine when it has a compiler, kept by the hash of what they were built from.

A kernel is used only after its own test against the portable one on this very CPU; without a
compiler, or when the build or the test fails, the portable path runs and `status()` says why.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from whorl.kernels import native_call, native_elementwise, native_linear, native_logits, native_paged
from whorl.kernels.device import compiler_available

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC")
RELAXED = ("-ffast-math",)
IN_ORDER = ("-ffp-contract=off",)  # sums as they are written: results are the same bits in any batch
SOURCES: dict[Path, tuple[str, ...]] = {
    Path(__file__).with_name(name): flags
    for name, flags in (
        ("attention_cpu.cpp", RELAXED),
        ("cross_entropy_cpu.cpp", RELAXED),
        ("linear_cpu.cpp", IN_ORDER),
        ("quantise_cpu.cpp", IN_ORDER),
        ("quantise_tiles_cpu.cpp", IN_ORDER),
        ("paged_attention_cpu.cpp", ()),
        ("elementwise_cpu.cpp", RELAXED),
        ("tape_cpu.cpp", ()),
        ("logits_cpu.cpp", RELAXED),
    )
}
HEADERS = tuple(Path(__file__).with_name(name) for name in ("bf16.h", "tape.h", "tiles.h"))
BUILD_SECONDS = 120

AttentionBackward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float, bool], tuple[Tensor, Tensor, Tensor]
]
"""(grad, q, k, v, out, lse, offsets, scale, causal) → (dq, dk, dv), all but lse and offsets in bf16."""
SoftmaxGradient = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits [n, V] bf16, targets [n] int64, weights [n]) → weighted losses [n]; logits become the gradient."""


@dataclass(frozen=True)
class Native:
    """The C++ kernels that passed their test here; None for the others, with the reason in `status`."""

    attention_backward: AttentionBackward | None = None
    softmax_gradient: SoftmaxGradient | None = None
    linear: native_linear.Linear | None = None
    quantised: native_linear.Quantised | None = None
    paged_attention: native_paged.PagedAttention | None = None
    elementwise: native_elementwise.Elementwise | None = None
    likeliest: native_logits.Likeliest | None = None
    play: native_call.Play | None = None
    status: str = "native"


def status() -> str:
    """ "native", or why the portable kernels are used."""
    return kernels().status


@cache
def kernels() -> Native:
    """Build, load and test the kernels, once a process."""
    try:
        library = ctypes.CDLL(str(_build()))
    except (OSError, subprocess.SubprocessError) as error:
        return Native(status=f"C++ kernels are off: {str(error).splitlines()[0]}")
    backward = _bind_attention(library.whorl_attention_backward)
    softmax = _bind_softmax(library.whorl_softmax_gradient)
    linear = native_linear.bind(library)
    quantised = native_linear.bind_quantised(library)
    paged = native_paged.bind(library)
    elementwise = native_elementwise.bind(library)
    likeliest = native_logits.bind(library)
    problem = (
        _test(backward)
        or _test_softmax(softmax)
        or native_linear.problem(linear)
        or native_linear.quantised_problem(quantised)
        or native_paged.problem(paged)
        or native_elementwise.problem(elementwise)
        or native_logits.problem(likeliest)
    )
    if problem:
        return Native(status=f"C++ kernels are off: {problem}")
    return Native(
        backward, softmax, linear, quantised, paged, elementwise, likeliest, native_call.bind_play(library)
    )


def _build() -> Path:
    """The shared library of this source, compiler, CPU and torch; compiled when it is not there yet."""
    compiler = compiler_available()
    if compiler is None:
        raise OSError("no C++ compiler is found; install g++")
    libraries = Path(torch.__file__).parent / "lib"
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    key = [
        *(" ".join((*flags, source.read_text())) for source, flags in SOURCES.items()),
        *(header.read_text() for header in HEADERS),
        *FLAGS,
        version,
        torch.__version__,
        torch.__file__,
        _cpu(),
    ]
    place = _cache() / f"kernels-{hashlib.sha256(chr(0).join(key).encode()).hexdigest()[:16]}.so"
    if place.exists():
        return place
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        objects = [str(Path(folder) / f"{source.stem}.o") for source in SOURCES]
        for (source, flags), compiled in zip(SOURCES.items(), objects, strict=True):
            _run(compiler, *FLAGS, *flags, "-c", str(source), "-o", compiled)
        # Linked without -ffast-math: with it the library would, when loaded, make the whole process
        # flush subnormal numbers to zero.
        library = Path(folder) / place.name
        link = [f"-L{libraries}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{libraries}"]
        _run(compiler, "-fopenmp", "-shared", *objects, "-o", str(library), *link)
        library.replace(place)
    return place


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    if done.returncode:
        raise OSError(f"{command[0]} failed: {done.stderr.strip()[:200]}")


def _cpu() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return torch.backends.cpu.get_cpu_capability()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(base) / "whorl" / "kernels"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        place = Path(tempfile.gettempdir()) / f"whorl-kernels-{os.getuid() if hasattr(os, 'getuid') else ''}"
        place.mkdir(mode=0o700, exist_ok=True)
    return place


def _bind_attention(function: ctypes._NamedFuncPointer) -> AttentionBackward:
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer] * 10 + [size] * 4 + [ctypes.c_float, ctypes.c_bool, ctypes.c_int]
    function.restype = None

    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, offsets: Tensor,
        scale: float, causal: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        inputs = [x.contiguous() for x in (grad, q, k, v, out, lse)]
        grads = tuple(torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
        function(
            *(x.data_ptr() for x in inputs), *(x.data_ptr() for x in grads), offsets.data_ptr(),
            len(offsets) - 1, q.shape[1], k.shape[1], q.shape[2], scale, causal, torch.get_num_threads(),
        )  # fmt: skip
        return grads[0], grads[1], grads[2]

    return backward


def _bind_softmax(function: ctypes._NamedFuncPointer) -> SoftmaxGradient:
    function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 2 + [ctypes.c_int]
    function.restype = None

    def gradient(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        assert logits.is_contiguous() and logits.dtype == torch.bfloat16
        targets, weights = targets.contiguous(), weights.contiguous()
        losses = torch.empty(len(targets))
        function(
            logits.data_ptr(), targets.data_ptr(), weights.data_ptr(), losses.data_ptr(), *logits.shape,
            torch.get_num_threads(),
        )  # fmt: skip
        return losses

    return gradient


def _test_softmax(kernel: SoftmaxGradient) -> str:
    """Compare with the formula in fp32; "" when equal."""
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(5, 33, generator=generator)).bfloat16()
    targets, weights = torch.tensor([0, 32, 7, 7, 1]), torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0])
    wide = logits.float()
    wanted = wide.softmax(-1)
    wanted[torch.arange(5), targets] -= 1
    losses = kernel(logits, targets, weights)
    known = weights * (wide.logsumexp(-1) - wide[torch.arange(5), targets])
    worst = max(
        float((logits.float() - weights[:, None] * wanted).abs().max()), float((losses - known).abs().max())
    )
    return "" if worst < 0.02 else f"the cross-entropy self-test differs by {worst:.2g}"


def _test(kernel: AttentionBackward) -> str:
    """Compare with the formula on two ragged documents in fp32; "" when equal.

    Written without autograd: this may run inside an op's backward, where autograd is off.
    """
    generator = torch.Generator().manual_seed(0)
    lengths, heads, key_heads, d = (70, 9), 4, 2, 32
    total, scale, shared = sum(lengths), d**-0.5, heads // key_heads

    def draw(n: int) -> Tensor:
        return torch.randn(total, n, d, generator=generator).bfloat16()

    q, grad, k, v = draw(heads), draw(heads), draw(key_heads), draw(key_heads)
    out, lse = torch.empty(total, heads, d), torch.empty(total, heads)
    expected = [torch.empty(x.shape) for x in (q, k, v)]
    for rows in torch.arange(total).split(lengths):
        query, upstream, key, value = (x[rows].float().transpose(0, 1) for x in (q, grad, k, v))
        key, value = (x.repeat_interleave(shared, 0) for x in (key, value))
        scores = query @ key.transpose(1, 2) * scale
        scores = scores.masked_fill(torch.ones(len(rows), len(rows)).triu(1).bool(), float("-inf"))
        weights = scores.softmax(-1)
        made = weights @ value
        out[rows], lse[rows] = made.transpose(0, 1), scores.logsumexp(-1).T
        change = upstream @ value.transpose(1, 2) - (upstream * made).sum(-1, keepdim=True)
        grad_scores = weights * change * scale
        grads = (grad_scores @ key, grad_scores.transpose(1, 2) @ query, weights.transpose(1, 2) @ upstream)
        for target, value in zip(expected, grads, strict=True):
            folded = value.unflatten(0, (target.shape[1], -1)).sum(1)  # heads that share a key
            target[rows] = folded.transpose(0, 1)
    offsets = torch.tensor([0, lengths[0], total], dtype=torch.int32)
    given = kernel(grad, q, k, v, out.bfloat16(), lse, offsets, scale, True)
    worst = max(float((a.float() - b).abs().max()) for a, b in zip(given, expected, strict=True))
    return "" if worst < 0.1 else f"the self-test differs by {worst:.2g}"

"""C++ kernels built on this machine when it has a compiler, kept by the hash of what they were built from.

A kernel is used only after its own test against the portable one on this very CPU, in a process of its
own (`native_trial`); without a compiler, or when the build or the test fails, the portable path runs and
`status()` says why.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from whorl.base.posix import one_at_a_time
from whorl.base.progress import say
from whorl.kernels import (
    native_attention,
    native_call,
    native_cross_entropy,
    native_elementwise,
    native_linear,
    native_logits,
    native_paged,
    native_trial,
)
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
HEADERS = tuple(sorted(Path(__file__).parent.glob("*.h")))
CPU_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")  # change what torch uses
BUILD_SECONDS = 120


@dataclass(frozen=True)
class Native:
    """The C++ kernels that are used here; None for one that this CPU has no instructions for, or that
    failed its test, which `status` tells."""

    attention_backward: native_attention.AttentionBackward | None = None
    softmax_gradient: native_cross_entropy.SoftmaxGradient | None = None
    linear: native_linear.Linear | None = None
    quantised: native_linear.Quantised | None = None
    paged_attention: native_paged.PagedAttention | None = None
    elementwise: native_elementwise.Elementwise | None = None
    likeliest: native_logits.Likeliest | None = None
    play: native_call.Play | None = None
    status: str = "native"


@dataclass(frozen=True)
class Kernel:
    """A field of `Native`: how it is bound, and its test ("" when it is right)."""

    bind: Callable[[ctypes.CDLL], Any]
    problem: Callable[[Any], str] = lambda kernel: ""


KERNELS = {
    "attention_backward": Kernel(native_attention.bind, native_attention.problem),
    "softmax_gradient": Kernel(native_cross_entropy.bind, native_cross_entropy.problem),
    "linear": Kernel(native_linear.bind, native_linear.problem),
    "quantised": Kernel(native_linear.bind_quantised, native_linear.quantised_problem),
    "paged_attention": Kernel(native_paged.bind, native_paged.problem),
    "elementwise": Kernel(native_elementwise.bind, native_elementwise.problem),
    "likeliest": Kernel(native_logits.bind, native_logits.problem),
    "play": Kernel(native_call.bind_play),
}


def status() -> str:
    """ "native", or which kernels are not, and why."""
    return kernels().status


@cache
def kernels() -> Native:
    """Build, try and load the kernels, once a process; what is built and tried is kept."""
    try:
        compiler, place = _compiler_and_place()
        with one_at_a_time(place.with_suffix(".lock")):  # a node's ranks all start at once
            if not place.exists():
                say("compiling the C++ kernels for this CPU; they are kept")
                _build(compiler, place)
            refused = native_trial.refused(place, tuple(KERNELS))
        library = ctypes.CDLL(str(place))
    except (OSError, subprocess.SubprocessError) as error:
        return Native(status=f"C++ kernels are disabled: {str(error).splitlines()[0]}")
    bound = {name: kernel.bind(library) for name, kernel in KERNELS.items() if name not in refused}
    reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
    return Native(**bound, status=f"C++ kernels are disabled: {reasons}" if refused else "native")


def _compiler_and_place() -> tuple[str, Path]:
    """The compiler, and where the shared library of this source, compiler, CPU and torch lies or belongs."""
    compiler = compiler_available()
    if compiler is None:
        raise OSError("no C++ compiler was found; install g++")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    key = [
        *(" ".join((*flags, source.read_text())) for source, flags in SOURCES.items()),
        *(header.read_text() for header in HEADERS),
        *FLAGS,
        version,
        torch.__version__,
        torch.__file__,
        _cpu(),
        *(os.environ.get(name, "") for name in CPU_LIMITS),
    ]
    digest = hashlib.sha256(chr(0).join(key).encode()).hexdigest()[:16]
    return compiler, _cache() / f"kernels-{digest}.so"


def _build(compiler: str, place: Path) -> None:
    libraries = Path(torch.__file__).parent / "lib"
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        objects = [str(Path(folder) / f"{source.stem}.o") for source in SOURCES]
        commands = [
            (compiler, *FLAGS, *flags, "-c", str(source), "-o", compiled)
            for (source, flags), compiled in zip(SOURCES.items(), objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(_run, commands))
        # Linked without -ffast-math: with it the library would, when loaded, make the whole process
        # flush subnormal numbers to zero.
        library = Path(folder) / place.name
        link = [f"-L{libraries}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{libraries}"]
        _run((compiler, "-fopenmp", "-shared", *objects, "-o", str(library), *link))
        library.replace(place)


def _run(command: tuple[str, ...]) -> None:
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
